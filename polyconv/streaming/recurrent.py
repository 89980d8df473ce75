"""Recurrent layers of `mlx.nn`, which are loops in Python over time, as nodes with a state.

While a model is traced they are not run. In their place stands a product with a marker, a matrix of
one number that nobody else has, which the lowering finds again.
"""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from polyconv.execution.identity import handle_of
from polyconv.execution.packing import evaluate
from polyconv.streaming.nodes import Chunk, Node

_LAYERS = (nn.RNN, nn.GRU, nn.LSTM)
# Each marker is a number of its own from here on. float32 tells all of these apart.
_FIRST_MARKER = 8_388_609.0


class Recurrent(Node):
    """A layer from chunk to chunk: the last of what it gave is where it goes on."""

    def __init__(self, layer: nn.Module, call: Callable[..., Any], part: int) -> None:
        self._layer, self._call, self._part = layer, call, part
        self.reset()

    def reset(self) -> None:
        self._state: tuple[mx.array, ...] = ()

    @property
    def held(self) -> list[mx.array]:
        return list(self._state)

    def run(self, chunks: Sequence[Chunk], ended: bool) -> Chunk:
        (x,) = chunks
        if x is None:
            return None
        found = self._call(self._layer, x, *self._state)
        parts = found if isinstance(found, tuple) else (found,)
        self._state = tuple([part[..., -1, :] for part in parts])
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
def marked() -> Iterator[Marked]:
    """Puts markers in place of recurrent layers, in this thread."""
    found, here = Marked(), threading.get_ident()
    before = {cls: vars(cls)["__call__"] for cls in _LAYERS}
    try:
        for cls, call in before.items():
            cls.__call__ = _marking(call, found, here, 2 if cls is nn.LSTM else 1)
        yield found
    finally:
        for cls, call in before.items():
            cls.__call__ = call


def _marking(call: Callable[..., Any], found: Marked, here: int, n_parts: int) -> Any:
    def marking(self: Any, x: mx.array, *state: Any, **more: Any) -> Any:
        is_begun = any(each is not None for each in (*state, *more.values()))
        if threading.get_ident() != here or is_begun:
            return call(self, x, *state, **more)
        return found.mark(self, call, x, n_parts)

    return marking


def _of_now(layer: nn.Module) -> nn.Module:
    """A copy of the layer that keeps the arrays of now."""
    arrays = {name: each for name, each in layer.items() if isinstance(each, mx.array)}
    evaluate(list(arrays.values()))
    kept = copy.copy(layer)
    kept.update({name: handle_of(each) for name, each in arrays.items()})
    return kept
