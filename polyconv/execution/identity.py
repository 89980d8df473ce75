"""Is an array still what it was, and does MLX trace it? MLX has no function that tells."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from polyconv.execution.modules import modules


def handle_of(array: mx.array) -> mx.array:
    """The same numbers, with their graph, as an object of its own.

    ``a[...] = b`` and ``a += b`` put another array into the object `a`. They do not reach this one,
    and MLX cannot use its memory again for them. `mx.array(array)` would be a copy that is not yet
    computed, and only the thread that asked for it could evaluate it.
    """
    return array.astype(array.dtype)


def is_traced(arrays: Sequence[mx.array]) -> bool:
    """Whether one of them depends on what `mx.grad`, `mx.vmap` or `mx.compile` is tracing here.

    MLX refuses to evaluate such an array, by a ValueError. A RuntimeError has other causes: a trace
    that is over, or an array that another thread made and did not evaluate.
    """
    try:
        with suppress(RuntimeError):
            mx.async_eval([mx.stop_gradient(each[(slice(0, 1),) * each.ndim]) for each in arrays])
    except ValueError:
        return True
    return False


# Whether handles stand for the objects that they are of.
_BY_HANDLES: ContextVar[bool] = ContextVar("by_handles", default=False)


@contextmanager
def by_handles() -> Iterator[None]:
    """Inside, an array is recognised by its numbers alone: handles stand where objects did."""
    token = _BY_HANDLES.set(True)
    try:
        yield
    finally:
        _BY_HANDLES.reset(token)


class Held:
    """An array as it is now, to be recognised after objects were exchanged or changed in place."""

    def __init__(self, array: mx.array) -> None:
        self._object, self.array = array, handle_of(array)

    def holds(self, array: Any) -> bool:
        """Whether it is this very object, and was not changed in place.

        While the handle lives, nothing else can lie where its numbers do.
        """
        if array is not self._object and not (_BY_HANDLES.get() and isinstance(array, mx.array)):
            return False
        kept = self.array
        if (array.shape, array.dtype) != (kept.shape, kept.dtype):
            return False
        try:
            return not kept.size or _place(array) == _place(kept)
        except (ValueError, RuntimeError):  # it is traced, so it lies nowhere yet
            return False

    def is_of(self, array: Any) -> bool:
        """Whether it is this very object, for who has just asked whether it `holds`."""
        return array is self._object or (_BY_HANDLES.get() and self.holds(array))

    def __getstate__(self) -> dict[str, Any]:
        """The object is pickled and copied along, unless it has changed."""
        return {"object": self._object if self.holds(self._object) else None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        given = state["object"]
        self._object = given
        self.array = mx.zeros((0,)) if given is None else handle_of(given)


def _place(array: mx.array) -> tuple[int, tuple[int, ...]]:
    """Where its numbers lie in memory: the address of the first, and the strides.

    The array is evaluated. NumPy has no bfloat16, so those are seen as ints.
    """
    import numpy as np  # here, since importing it takes longer than importing polyconv

    plain = array.view(mx.uint16, stream=mx.cpu) if array.dtype == mx.bfloat16 else array
    seen = np.asarray(plain)
    return seen.__array_interface__["data"][0], seen.strides


class Parameters:
    """The arrays that the modules of a model hold now."""

    def __init__(self, model: nn.Module) -> None:
        found = {id(module): module for _, module in modules(model)}.values()
        self._arrays = [each for module in found for each in _arrays_in(module)]

    def is_another_trained(self) -> bool:
        """Whether an array was exchanged for one whose gradient is asked for."""
        others = []
        for holder, key, array in self._arrays:
            try:
                now = holder[key]
            except (KeyError, IndexError):
                continue
            if now is not array and isinstance(now, mx.array):
                others.append(now)
        return bool(others) and is_traced(others)


def _arrays_in(holder: Any) -> Iterator[tuple[Any, Any, mx.array]]:
    """Of each array its holder, its key and itself. Modules inside are searched by themselves."""
    for key, value in holder.items() if isinstance(holder, dict) else enumerate(holder):
        if isinstance(value, mx.array):
            yield holder, key, value
        elif isinstance(value, (dict, list, tuple)) and not isinstance(value, nn.Module):
            yield from _arrays_in(value)
