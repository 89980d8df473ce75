"""Recurrent layers, which are loops in Python over time, as nodes with a state.

They are those of `mlx.nn`, and layers of others that hold and compute the same.

While a model is traced they are not run. In their place stands a product with a marker, a matrix of
one number that nobody else has, which the lowering finds again.
"""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import mlx.core as mx
import mlx.nn as nn

from polyconv.execution.identity import handle_of
from polyconv.execution.modules import modules
from polyconv.execution.packing import evaluate
from polyconv.streaming.nodes import Chunk, Node
from polyconv.streaming.state import untouched

_LAYERS = (nn.RNN, nn.GRU, nn.LSTM)
# Each marker is a number of its own from here on. float32 tells all of these apart.
_FIRST_MARKER = 8_388_609.0
_PROOF = 7  # samples, in which a layer shows what it computes


class Recurrent(Node):
    """A layer from chunk to chunk: the last of what it gave is where it goes on."""

    kept = ("_state",)

    def __init__(self, layer: nn.Module, call: Callable[..., Any], part: int) -> None:
        self._layer, self._call, self._part = layer, call, part
        self.reset()

    def reset(self) -> None:
        self._state: tuple[mx.array, ...] = ()

    def run(self, chunks: Sequence[Chunk], ended: bool) -> Chunk:
        (x,) = chunks
        if x is None:
            return None
        found = self._call(self._layer, x, *[each.squeeze(-2) for each in self._state])
        parts = _several(found)
        self._state = tuple([part[..., -1:, :] for part in parts])
        chosen: mx.array = parts[self._part]
        return chosen


class Marked:
    """The layers that were called while a model was traced, by their marker."""

    def __init__(self) -> None:
        self._found: dict[float, tuple[nn.Module, Callable[..., Any], int]] = {}
        self._n_calls = 0

    def begin(self) -> None:
        """Another trace, in which the same layers are called in the same order."""
        self._n_calls = 0

    def mark(self, layer: Any, call: Callable[..., Any], x: mx.array, n_parts: int) -> Any:
        """What stands in place of a call."""
        parts = []
        for part in range(n_parts):
            number = _FIRST_MARKER + self._n_calls
            self._n_calls += 1
            if number not in self._found:
                self._found[number] = (_of_now(layer), call, part)
            marker = mx.full((x.shape[-1], layer.hidden_size), number, mx.float32)
            mx.eval(marker)  # a constant, and no operation
            parts.append((x.astype(mx.float32) @ marker).astype(x.dtype))
        return tuple(parts) if n_parts > 1 else parts[0]

    def node_of(self, array: mx.array) -> Recurrent | None:
        """The node that a marker stands for."""
        if not self._found or array.ndim != 2 or array.dtype != mx.float32:
            return None
        known = self._found.get(array[0, 0].item()) if evaluate([array]) else None
        return None if known is None else Recurrent(*known)


@contextmanager
def marked(roots: Sequence[Any] = ()) -> Iterator[Marked]:
    """Puts markers in place of recurrent layers, in this thread.

    Of classes that are not MLX's, those layers below `roots` are taken that compute the same.
    """
    found, here = Marked(), threading.get_ident()
    ours: dict[type, Callable[..., Any]] = {cls: vars(cls)["__call__"] for cls in _LAYERS}
    alike = _alike(roots, ours)
    taken = {call: 2 if cls is nn.LSTM else 1 for cls, call in ours.items()}
    before = ours | {each.cls: each.call for each in alike.values()}
    try:
        for cls, call in before.items():
            n_parts = taken.get(call, 0)
            cls.__call__ = _marking(call, n_parts, found, here, alike)  # type: ignore[method-assign]
        yield found
    finally:
        for cls, call in before.items():
            cls.__call__ = call  # type: ignore[method-assign]


class _Alike(NamedTuple):
    """A layer of others: the class that its call is defined in, and MLX's call that computes it."""

    layer: nn.Module
    cls: type
    call: Callable[..., Any]
    same: Callable[..., Any]
    n_parts: int


def _marking(
    call: Callable[..., Any], n_parts: int, found: Marked, here: int, alike: dict[int, _Alike]
) -> Any:
    """A call that marks those of MLX's class, if it has `n_parts`, and those that are alike."""

    def marking(self: Any, x: mx.array, *state: Any, **more: Any) -> Any:
        is_begun = any(each is not None for each in (*state, *more.values()))
        if threading.get_ident() != here or is_begun:
            return call(self, x, *state, **more)
        if n_parts:
            return found.mark(self, call, x, n_parts)
        known = alike.get(id(self))
        if known is None:
            return call(self, x, *state, **more)
        return found.mark(self, known.same, x, known.n_parts)

    return marking


def _alike(roots: Sequence[Any], ours: dict[type, Callable[..., Any]]) -> dict[int, _Alike]:
    """The layers that hold what one of MLX's holds, and give what it gives for the same input."""
    found: dict[int, _Alike] = {}
    for layer in [layer for root in roots for _, layer in modules(root)]:
        cls = next((each for each in type(layer).__mro__ if "__call__" in vars(each)), None)
        if cls is None or isinstance(layer, _LAYERS) or not isinstance(layer.get("Wx"), mx.array):
            continue
        for same in ours.values():
            n_parts = _proved(layer, vars(cls)["__call__"], same)
            if n_parts:
                found[id(layer)] = _Alike(layer, cls, vars(cls)["__call__"], same, n_parts)
                break
    return found


def _proved(layer: Any, call: Callable[..., Any], same: Callable[..., Any]) -> int:
    """How many arrays a layer returns, if they are those of `same`. Otherwise 0."""
    try:
        shape, key = (1, _PROOF, layer.Wx.shape[-1]), mx.random.key(0)
        x = mx.random.normal(shape, layer.Wx.dtype, key=key)
        with untouched([layer]):
            theirs, expected = _several(call(layer, x)), _several(same(layer, x))
            mx.eval(theirs, expected)
        pairs = list(zip(theirs, expected))  # an LSTM may keep its cells to itself
        near = [a.shape == b.shape and mx.allclose(a, b, 1e-4, 1e-5).item() for a, b in pairs]
    except Exception:  # it takes or holds something else
        return 0
    return len(theirs) if len(theirs) <= len(expected) and near and all(near) else 0


def _several(given: Any) -> tuple[Any, ...]:
    return given if isinstance(given, tuple) else (given,)


def _of_now(layer: nn.Module) -> nn.Module:
    """A copy of the layer that keeps the arrays of now."""
    arrays = {name: each for name, each in layer.items() if isinstance(each, mx.array)}
    evaluate(list(arrays.values()))
    kept = copy.copy(layer)
    kept.update({name: handle_of(each) for name, each in arrays.items()})
    return kept
