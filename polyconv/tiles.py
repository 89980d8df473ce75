"""Computes a convolution, or one of its gradients, tile by tile.

MLX is lazy: it would allocate for all tiles before it has computed the first. So each tile is
evaluated before the next begins, and is written into its place in the result.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import TypeAlias

import mlx.core as mx

from polyconv.device import StreamOrDevice, kind_of
from polyconv.slicing import cut
from polyconv.tiling import Tile, Tiling

# The result of a tile, of the tile's parts of the arrays that are cut.
Compute: TypeAlias = "Callable[..., mx.array]"


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
        compute (callable): The result of a tile, of the tile and its parts of `cut_up`.
        cut_up (dict): Arguments of which a tile takes its part: ``"x"``, ``"y"`` or both.
        others (list(array)): What else `compute` reads.
        stream (Stream or Device): Where to run.

    Returns:
        array: Evaluated, unless MLX traces this call, as for `mx.compile`: then nothing can be, and
        the tiles are only put in order.
    """
    arrays = [*cut_up.values(), *others]

    def part(tile: Tile, before: mx.array | None) -> mx.array:
        parts = [_part(tiling, tile, kind, array) for kind, array in cut_up.items()]
        if before is not None:
            parts = [_behind(before, each) for each in parts]
        return compute(tile, *parts).astype(getattr(mx, tiling.plan.problem.dtype))

    join = _summed if tiling.result == "w" else _placed
    if not _has_numbers(arrays):
        return join(tiling, part, False)
    if _keeps_graph(arrays):
        return _other_thread().submit(_on, kind_of(stream), join, tiling, part).result()
    return join(tiling, part, True)


def _placed(tiling: Tiling, part: Compute, evaluate: bool) -> mx.array:
    spec = tiling.plan.problem
    shape, items, along = list(spec.output_shape), slice(None), 1 + tiling.axis
    if tiling.result == "x":
        shape = [spec.batch, *[axis.size for axis in spec.axes], spec.in_channels]
    out = mx.zeros(shape, getattr(mx, spec.dtype))
    before: mx.array | None = None
    for tile in tiling:
        items = slice(*tile.items)
        place = slice(*(tile.inputs if tiling.result == "x" else tile.outputs))
        piece = part(tile, before)
        out[(items, *[slice(None)] * (along - 1), place)] = piece
        if evaluate:
            mx.eval(out)
        else:
            before = piece
        del piece  # or its memory would be held until the next is there
    return out


def _summed(tiling: Tiling, part: Compute, evaluate: bool) -> mx.array:
    total: mx.array | None = None
    for tile in tiling:
        found = part(tile, None if evaluate else total)
        total = found if total is None else total + found
        del found
        if evaluate:
            mx.eval(total)
    assert total is not None
    return total


def _part(tiling: Tiling, tile: Tile, kind: str, array: mx.array) -> mx.array:
    along = tile.inputs if kind == "x" else tile.outputs
    return cut(cut(array, 0, *tile.items, 1), 1 + tiling.axis, *along, 1)


def _behind(before: mx.array, array: mx.array) -> mx.array:
    """`array`, but not computed earlier than `before`. `mx.vmap` has no rule for `mx.depends`."""
    one = before[(slice(0, 1),) * before.ndim].reshape(())
    never = mx.logical_and(one != one, one == one)
    return mx.where(never, mx.zeros((), array.dtype), array)


def _has_numbers(arrays: list[mx.array]) -> bool:
    """Whether they can be evaluated, and are then: not if `mx.compile` or `mx.vmap` trace."""
    try:
        mx.eval(arrays)
    except ValueError:
        return False
    return True


def _keeps_graph(arrays: list[mx.array]) -> bool:
    """Whether `mx.grad` runs, in which MLX keeps all that is computed from a variable.

    MLX tells nobody, but refuses to begin an evaluation there.
    """
    try:
        mx.async_eval([mx.stop_gradient(each[(slice(0, 1),) * each.ndim]) for each in arrays])
    except ValueError:
        return True
    return False


@cache
def _other_thread() -> ThreadPoolExecutor:
    """From MLX 0.32 on a trace is of the thread that runs it: what is computed here keeps nothing.

    One thread for all, as MLX starts a stream, which is never ended, in each that it is used in.
    """
    return ThreadPoolExecutor(1, "polyconv tiles")


def _on(
    kind: mx.DeviceType,
    join: Callable[[Tiling, Compute, bool], mx.array],
    tiling: Tiling,
    part: Compute,
) -> mx.array:
    with mx.stream(kind):
        return join(tiling, part, True)
