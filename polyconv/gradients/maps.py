"""How is each of the three maps computed? By the plan of its way, whole or in tiles."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol, TypeAlias

import mlx.core as mx

from polyconv.execution.arrays import contiguous
from polyconv.execution.cutting import cutter
from polyconv.execution.device import StreamOrDevice
from polyconv.execution.memory import never_asks
from polyconv.execution.run import Execute
from polyconv.execution.run_tiled import Compute, assembled
from polyconv.gradients.plan_gradients import correlate, spread
from polyconv.gradients.unfolded import convolved, unfolded
from polyconv.planning.plan import ConvPlan
from polyconv.planning.request import Kind, Request, Way
from polyconv.planning.tiling import Tile, Tiling

Map: TypeAlias = "Callable[[mx.array, mx.array], mx.array]"


class Ways(Protocol):
    """What a map asks of `Compiled`."""

    request: Request
    stream: StreamOrDevice

    def way(self, kind: Kind) -> Way: ...
    def tiles(self, way: Way) -> Tiling | None: ...
    def executor(self, plan: ConvPlan) -> Execute: ...


def convolution(
    compiled: Ways, way: Way, transposed: bool = False, taps: list[mx.array] | None = None
) -> Map:
    """A convolution by the plan of a way: as a whole, or in tiles where it does not fit.

    With `taps`, it is always called with the weight that these were cut from. With `transposed`,
    the output channels of its weights lie together in memory.
    """
    execute = compiled.executor(way.plan)
    whole: Map
    if taps is None:
        cut = cutter(way.plan, transposed)
        whole = lambda x, w: execute(x, cut(w))  # noqa: E731
    else:
        whole = lambda x, w: execute(x, taps)  # noqa: E731

    def tiled(tiling: Tiling, x: mx.array, w: mx.array) -> mx.array:
        of_tile = _convolved_tile(compiled, transposed)
        return assembled(tiling, of_tile, {"x": x}, [w], compiled.stream)

    return _where_it_fits(compiled, way, whole, tiled)


def _convolved_tile(compiled: Ways, transposed: bool) -> Compute:
    """Computes tiles. Most share one plan, and plans of one `packing_key` share their taps."""
    executes: dict[int, Execute] = {}
    taps: dict[object, list[mx.array]] = {}

    def compute(tile: Tile, others: Sequence[mx.array], x: mx.array) -> mx.array:
        plan = tile.plan
        if id(plan) not in executes:
            executes[id(plan)] = compiled.executor(plan)
        if plan.packing_key not in taps:
            taps[plan.packing_key] = cutter(plan, transposed)(others[0])
        return executes[id(plan)](x, taps[plan.packing_key])

    return compute


def _where_it_fits(
    compiled: Ways, way: Way, whole: Map, tiled: Callable[[Tiling, mx.array, mx.array], mx.array]
) -> Map:
    """A map that is computed as a whole, or in tiles when memory is short."""
    if never_asks(way.least, compiled.request.device):
        return whole

    def compute(a: mx.array, b: mx.array) -> mx.array:
        tiling = compiled.tiles(way)
        return whole(a, b) if tiling is None else tiled(tiling, a, b)

    return compute


def _forward(compiled: Ways) -> Map:
    return convolution(compiled, compiled.way("y"))


def _input_gradient(compiled: Ways) -> Map:
    """The plan's own products backwards, or else a convolution (`spec.adjoint`)."""
    way = compiled.way("x")
    plan = way.plan
    if plan.problem != compiled.request.spec:
        convolve = convolution(compiled, way, transposed=bool(plan.products))
        return lambda w, y: convolve(y, _exchanged(w, plan))
    of_tile: Compute = lambda tile, others, y: spread(tile.plan, others[0], y)  # noqa: E731
    return _where_it_fits(
        compiled,
        way,
        lambda w, y: spread(plan, w, y),
        lambda tiling, w, y: assembled(tiling, of_tile, {"y": y}, [w], compiled.stream),
    )


def _exchanged(w: mx.array, plan: ConvPlan) -> mx.array:
    """The weight with each group's input and output channels exchanged."""
    groups = plan.problem.groups
    if groups == 1:
        w = w.swapaxes(0, -1)
    else:
        w = mx.unflatten(w, 0, (groups, w.shape[0] // groups)).swapaxes(1, -1).flatten(0, 1)
    # Elsewhere `cutter` makes it contiguous.
    is_left = plan.is_native and not plan.first.issued.form.whole
    return contiguous(w) if is_left else w


def _weight_gradient(compiled: Ways) -> Map:
    """One product of all that the plan's outputs read, or a product per tap.

    As a whole it may be one convolution. Tiles are added up in float32, which products give.
    """
    way = compiled.way("w")
    exchanged = way.plan.problem != compiled.request.spec  # of the adjoint, whose input is `y`
    whole = convolved(way.plan, exchanged) if way.plan.is_native else None
    gradient = _where_it_fits(
        compiled,
        way,
        whole or _by_products(way.plan, exchanged),
        lambda tiling, read, made: assembled(
            tiling, _correlated_tile(exchanged), {"x": read, "y": made}, [], compiled.stream
        ),
    )
    return (lambda x, y: gradient(y, x)) if exchanged else gradient


def _by_products(plan: ConvPlan, exchanged: bool) -> Map:
    return unfolded(plan, exchanged) if plan.is_native else partial(correlate, plan)


def _correlated_tile(exchanged: bool) -> Compute:
    """Computes the gradient of a tile. Most share one plan, which is worked out once.

    A tiling keeps its plans, so an `id` stands for one of them.
    """
    maps: dict[int, Map] = {}

    def compute(tile: Tile, _: Sequence[mx.array], read: mx.array, made: mx.array) -> mx.array:
        plan = tile.plan
        if id(plan) not in maps:
            maps[id(plan)] = _by_products(plan, exchanged)
        return maps[id(plan)](read, made)

    return compute


COMPUTE = {"y": _forward, "x": _input_gradient, "w": _weight_gradient}
