"""Computes a convolution, or one of its gradients, tile by tile.

MLX is lazy: it would allocate for all tiles before it has computed the first. So each tile is
evaluated before the next begins, and is written into its place in the result.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from queue import SimpleQueue
from typing import Any, NamedTuple, TypeAlias

import mlx.core as mx

from polyconv.execution.arrays import cut, summed_in
from polyconv.execution.device import StreamOrDevice, kind_of
from polyconv.execution.identity import is_traced
from polyconv.execution.packing import evaluate
from polyconv.planning.tiling import Tile, Tiling

# Computes a tile. Takes the tile, the arguments that are not cut up, and its parts of the others.
Compute: TypeAlias = "Callable[..., mx.array]"

# The same, but takes the parts itself. An array, if given, is computed before the tile is.
_Part: TypeAlias = "Callable[[Tile, mx.array | None], mx.array]"


def assembled(
    tiling: Tiling,
    compute: Compute,
    cut_up: dict[str, mx.array],
    others: Sequence[mx.array],
    stream: StreamOrDevice,
) -> mx.array:
    """The result of a tiling, of the dtype of its problem.

    Args:
        tiling (Tiling): The tiles.
        compute (callable): Computes a tile from it, `others` and its parts of `cut_up`.
        cut_up (dict): Arguments of which a tile takes its part: ``"x"``, ``"y"`` or both.
        others (list(array)): What else `compute` reads.
        stream (Stream or Device): Where to run.

    Returns:
        array: Evaluated, unless MLX traces this call, as for `mx.compile`. Then nothing can be
        evaluated, and the tiles are only put in order.
    """
    arrays = [*cut_up.values(), *others]
    has_numbers = evaluate(arrays)
    if has_numbers and is_traced(arrays):  # by `mx.grad`, in which MLX keeps all that is computed
        given = {kind: _Numbers.of(array) for kind, array in cut_up.items()}
        known = [_Numbers.of(array) for array in others]
        task = (kind_of(stream), tiling, compute, given, known)
        from concurrent.futures import Future  # here, since it takes long to import

        done: Future[mx.array] = Future()
        _other_thread().put((done, task))
        return done.result()
    return _joined(tiling, _part_of(tiling, compute, cut_up, others), has_numbers)


def _part_of(
    tiling: Tiling,
    compute: Compute,
    cut_up: Mapping[str, mx.array | _Numbers],
    others: Sequence[mx.array],
) -> _Part:
    def part(tile: Tile, before: mx.array | None) -> mx.array:
        parts = []
        for kind, array in cut_up.items():
            along = tile.inputs if kind == "x" else tile.outputs
            here = cut(cut(array, 0, *tile.items, 1), 1 + tiling.axis, *along, 1)
            parts.append(here.again() if isinstance(here, _Numbers) else here)
        if before is not None:
            parts = [_behind(before, each) for each in parts]
        return compute(tile, others, *parts)

    return part


def _joined(tiling: Tiling, part: _Part, evaluate: bool) -> mx.array:
    return (_summed if tiling.result == "w" else _placed)(tiling, part, evaluate)


def _placed(tiling: Tiling, part: _Part, evaluate: bool) -> mx.array:
    """Writes the result of each tile into its place."""
    spec = tiling.plan.problem
    shape, along = list(spec.output_shape), 1 + tiling.axis
    if tiling.result == "x":
        shape = [spec.batch, *[axis.size for axis in spec.axes], spec.in_channels]
    dtype = getattr(mx, spec.dtype)
    out = mx.zeros(shape, dtype)
    before: mx.array | None = None
    for tile in tiling:
        items = slice(*tile.items)
        place = slice(*(tile.inputs if tiling.result == "x" else tile.outputs))
        piece = part(tile, before).astype(dtype)
        at = (items, *[slice(None)] * (along - 1), place)
        out[at] = piece
        if evaluate:
            _finish(out, tiling)
        else:
            before = piece
        del piece  # else its memory would be held until the next is there
    return out


def _summed(tiling: Tiling, part: _Part, evaluate: bool) -> mx.array:
    """Adds up the results of all tiles, halves as float32: in bfloat16 256 + 1 is 256."""
    dtype = getattr(mx, tiling.plan.problem.dtype)
    total: mx.array | None = None
    for tile in tiling:
        found = part(tile, None if evaluate else total).astype(summed_in(dtype))
        total = found if total is None else total + found
        del found
        if evaluate:
            _finish(total, tiling)
    assert total is not None
    total = total.astype(dtype)
    if evaluate:
        mx.eval(total)
    return total


def _finish(computed: mx.array, tiling: Tiling) -> None:
    """Computes a tile, and on CUDA waits until MLX has also given back what it took on the way.

    There it does so behind the result, in a thread of its own, while the next tile may allocate.
    """
    mx.eval(computed)
    if tiling.plan.device.backend.has_own_memory:
        mx.synchronize()


def _behind(before: mx.array, array: mx.array) -> mx.array:
    """`array`, but not computed earlier than `before`. `mx.vmap` has no rule for `mx.depends`."""
    one = before[(slice(0, 1),) * before.ndim].reshape(())
    never = mx.logical_and(one != one, one == one)
    return mx.where(never, mx.zeros((), array.dtype), array)


class _Numbers(NamedTuple):
    """The memory of an array, as NumPy sees it. What is made of it has no graph."""

    array: Any  # a numpy.ndarray
    dtype: mx.Dtype

    @classmethod
    def of(cls, array: mx.array) -> _Numbers:
        """Without a copy. NumPy has no bfloat16, so those are seen as ints."""
        import numpy as np  # here, since importing it takes longer than importing polyconv

        plain = array.view(mx.uint16) if array.dtype == mx.bfloat16 else array
        return cls(np.asarray(plain), array.dtype)

    @property
    def shape(self) -> tuple[int, ...]:
        shape: tuple[int, ...] = self.array.shape
        return shape

    def __getitem__(self, index: Any) -> _Numbers:
        return _Numbers(self.array[index], self.dtype)

    def again(self) -> mx.array:
        """A copy, as an array of MLX. NumPy copies first, which gives it the strides of its shape.

        MLX cannot read negative strides. To ask NumPy for a contiguous array is not enough: an axis
        of one sample may have any stride in one.
        """
        array = self.array.copy(order="C")
        if self.dtype == mx.bfloat16:
            return mx.array(array).view(mx.bfloat16)
        return mx.array(array, self.dtype)


@cache
def _other_thread() -> SimpleQueue[Any]:
    """The tasks of a thread where MLX traces nothing. From 0.32 on a trace belongs to a thread.

    There is one thread for all, since MLX starts a stream in each thread and never ends it. It is
    no executor of `concurrent.futures`: those end with the main thread, while others go on.
    """
    tasks: SimpleQueue[Any] = SimpleQueue()
    threading.Thread(target=_work, args=(tasks,), name="polyconv tiles", daemon=True).start()
    return tasks


def _work(tasks: SimpleQueue[Any]) -> None:
    while True:
        done, task = tasks.get()
        try:
            done.set_result(_without_graph(*task))
        except BaseException as error:  # raised where the result is waited for
            done.set_exception(error)
        del done, task  # else their arrays would be held until the next


if hasattr(os, "register_at_fork"):  # a process that is forked has none of its parent's threads
    os.register_at_fork(after_in_child=_other_thread.cache_clear)


def _without_graph(
    kind: mx.DeviceType,
    tiling: Tiling,
    compute: Compute,
    cut_up: dict[str, _Numbers],
    others: list[_Numbers],
) -> mx.array:
    """The result, computed from copies.

    To evaluate the arrays themselves here would take their graph off. The thread of `mx.grad` still
    reads it, and MLX protects it in that thread only.
    """
    with mx.stream(kind):
        part = _part_of(tiling, compute, cut_up, [each.again() for each in others])
        return _joined(tiling, part, True)
