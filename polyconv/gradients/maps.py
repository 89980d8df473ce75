"""How is each of the three maps computed, by the plan of its way, whole or in tiles?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, TypeAlias

import mlx.core as mx

from polyconv.execution.arrays import contiguous
from polyconv.execution.cutting import cutter
from polyconv.execution.device import StreamOrDevice
from polyconv.execution.packing import PackedWeight
from polyconv.execution.run import Execute
from polyconv.execution.run_tiled import Compute, assembled
from polyconv.gradients.plan_gradients import correlate, spread
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


class Convolution:
    """A convolution by the plan of a way: as a whole, or in tiles where it does not fit."""

    def __init__(self, compiled: Ways, way: Way, transposed: bool = False) -> None:
        self._compiled, self._way, self._transposed = compiled, way, transposed
        self._execute = compiled.executor(way.plan)
        self._cut = cutter(way.plan, transposed)
        self._taps: list[mx.array] | None = None

    def keep(self, w: PackedWeight) -> None:
        """Takes the taps that a weight keeps, as whatever weight it is given later is that one."""
        if self._compiled.tiles(self._way) is None:
            self._taps = w.taps_of(self._way.plan)

    def __call__(self, x: mx.array, w: mx.array) -> mx.array:
        tiling = self._compiled.tiles(self._way)
        if tiling is None:
            return self._execute(x, self._cut(w) if self._taps is None else self._taps)
        return assembled(tiling, self._by_tiles(), {"x": x}, [w], self._compiled.stream)

    def _by_tiles(self) -> Compute:
        """Most tiles have one plan, and all cut a weight alike that MLX takes in one form."""
        executes: dict[int, Execute] = {}
        taps: dict[object, list[mx.array]] = {}

        def compute(tile: Tile, others: Sequence[mx.array], x: mx.array) -> mx.array:
            plan = tile.plan
            if id(plan) not in executes:
                executes[id(plan)] = self._compiled.executor(plan)
            if plan.packing_key not in taps:
                taps[plan.packing_key] = cutter(plan, self._transposed)(others[0])
            return executes[id(plan)](x, taps[plan.packing_key])

        return compute


def _forward(compiled: Ways) -> Map:
    return Convolution(compiled, compiled.way("y"))


def _input_gradient(compiled: Ways) -> Map:
    """By the plan's own products backwards, or the convolution that it is (`spec.adjoint`)."""
    way, spec = compiled.way("x"), compiled.request.spec
    plan = way.plan
    if plan.problem != spec:
        convolve = Convolution(compiled, way, transposed=bool(plan.products))
        return lambda w, y: convolve(y, _exchanged(w, plan))
    of_tile: Compute = lambda tile, others, y: spread(tile.plan, others[0], y)  # noqa: E731

    def compute(w: mx.array, y: mx.array) -> mx.array:
        tiling = compiled.tiles(way)
        if tiling is None:
            return spread(plan, w, y)
        return assembled(tiling, of_tile, {"y": y}, [w], compiled.stream)

    return compute


def _exchanged(w: mx.array, plan: ConvPlan) -> mx.array:
    """The weight with each group's input and output channels exchanged."""
    w = mx.unflatten(w, 0, (plan.problem.groups, w.shape[0] // plan.problem.groups))
    w = w.swapaxes(1, -1).flatten(0, 1)
    return contiguous(w) if plan.is_native else w  # else it is made so when it is cut


def _weight_gradient(compiled: Ways) -> Map:
    way = compiled.way("w")
    of_tile: Compute = lambda tile, _, x, y: correlate(tile.plan, x, y)  # noqa: E731

    def compute(x: mx.array, y: mx.array) -> mx.array:
        tiling = compiled.tiles(way)
        if tiling is None:
            return correlate(way.plan, x, y)
        return assembled(tiling, of_tile, {"x": x, "y": y}, [], compiled.stream)

    return compute


COMPUTE = {"y": _forward, "x": _input_gradient, "w": _weight_gradient}
