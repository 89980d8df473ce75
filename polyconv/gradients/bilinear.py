"""How does a convolution behave under `mx.grad`, `mx.vmap` and `mx.jvp`?

A convolution is bilinear: with input x, weight w and cotangent y, one trilinear form

    T(x, w, y) = sum_t y[t] * (x conv w)[t]

defines three maps. Each takes two of x, w and y, and gives what the third is:

    (x, w) -> y    the convolution
    (w, y) -> x    its gradient with respect to the input, again a convolution (`spec.adjoint`)
    (x, y) -> w    its gradient with respect to the weight (`correlate`)

The gradients of each map are the other two, so gradients of every order need nothing else. MLX's
own rules, which unfold, are not used. Under `mx.vmap` the mapped axis becomes more batch, more
output channels or more groups of the same map.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any, TypeAlias

import mlx.core as mx

from polyconv.execution.arrays import of_this_shape
from polyconv.execution.cutting import cutter
from polyconv.execution.device import StreamOrDevice, is_before_0_32_4, on, pads_explicitly
from polyconv.execution.memory import has_room, never_asks, room_on
from polyconv.execution.packing import PackedWeight
from polyconv.execution.run import Execute, executor
from polyconv.gradients.maps import COMPUTE, Map, convolution
from polyconv.gradients.observing import OBSERVERS, tell
from polyconv.gradients.vmap import fold
from polyconv.planning.plan import ConvPlan
from polyconv.planning.request import KINDS, Kind, Request, Way, check_method, check_room
from polyconv.planning.tiling import Tiling

# Takes the input and a weight, plain or packed.
Call: TypeAlias = "Callable[[mx.array, Any], mx.array]"

# How many calls are kept. Each holds plans, up to some hundred bytes per phase, and a program that
# never repeats a shape must not grow for ever.
KEPT = 256


def call_of(request: Request, stream: StreamOrDevice, w: type, exporting: bool) -> Call:
    """The function that computes all calls with this request and with weights of type `w`.

    Raises:
        ValueError: If the method is unknown or cannot compute the problem, or if there is no room.
            The error names the op.
    """
    found = compiled(request, stream)
    found.check()
    if exporting:
        return found.by_mlx
    ours = found.with_packed if issubclass(w, PackedWeight) else found.with_array
    return found.own(ours) if request.method == "native" and request.spec.groups == 1 else ours


@lru_cache(KEPT)
def compiled(request: Request, stream: StreamOrDevice) -> Compiled:
    """What is worked out for a request, kept for later calls."""
    return Compiled(request, stream)


class Compiled:
    """All that is worked out once for equal requests on one stream.

    Plans, and the functions that execute them, are made when they are first needed. Several threads
    may make them at once: they find the same.
    """

    def __init__(self, request: Request, stream: StreamOrDevice) -> None:
        self.request, self.stream = request, stream
        self._ways: dict[Kind, Way] = {}
        self._maps: dict[Kind, Map] = {}
        self._never_asks: dict[Kind, bool] = {}

    def check(self) -> None:
        """Refuses a method that cannot compute the problem, and a call that has no room."""
        check_method(self.request)
        self.way("y").arranged(room_on(self.request.device))

    def with_array(self, x: mx.array, w: mx.array) -> mx.array:
        """The convolution, which MLX can differentiate to any order."""
        if OBSERVERS.any():
            tell(self.request.op, self.request.spec)
        mapped = self._maps.get("y") or self.map("y")
        if self.stream is None:
            return mapped(x, w)
        with on(self.stream):  # MLX's own step around a function with a rule is there too
            return mapped(x, w)

    def with_packed(self, x: mx.array, w: PackedWeight) -> mx.array:
        """The same with a packed weight. A constant one costs no gradient."""
        if OBSERVERS.any():
            tell(self.request.op, self.request.spec, packed=True)
        mapped = w.calls.get(self) or w.keep_call(self, self._with(w))
        if self.stream is None:
            return mapped(x)
        with on(self.stream):
            return mapped(x)

    def by_mlx(self, x: mx.array, w: mx.array | PackedWeight) -> mx.array:
        """The convolution with MLX's own gradients, as `mx.export_function` takes it."""
        plan, _ = self.way("y").arranged(room_on(self.request.device))
        return self._left_to_mlx(plan)(x, w)

    def own(self, in_tiles: Call) -> Call:
        """MLX's op with MLX's own gradients, where it fits as a whole; else `in_tiles`."""
        way = self.way("y")
        whole = self._left_to_mlx(way.plan)
        return lambda x, w: (whole if self.tiles(way) is None else in_tiles)(x, w)

    def _left_to_mlx(self, plan: ConvPlan) -> Call:
        """The convolution by a plan, without a rule for its gradients."""
        cut = cutter(plan)
        execute = executor(plan, pads_explicitly(self.stream, mlx_gradients=True))

        def convolve(x: mx.array, w: mx.array | PackedWeight) -> mx.array:
            tell(self.request.op, self.request.spec)
            with on(self.stream):
                y = execute(x, cut(w.array if isinstance(w, PackedWeight) else w))
                return y if plan.is_for_any_size else of_this_shape(y)

        return convolve

    def way(self, kind: Kind) -> Way:
        """The way of a map: its plan, and the tiles of it."""
        found = self._ways.get(kind)
        if found is None:
            found = self._ways[kind] = Way(kind, self.request)
        return found

    def map(self, kind: Kind) -> Map:
        """The map whose result is of this kind. It takes the other two, in the order x, w, y."""
        found = self._maps.get(kind)
        if found is None:
            found = self._maps[kind] = self._differentiable(kind, COMPUTE[kind](self))
        return found

    def never_asks(self, kind: Kind) -> bool:
        """Whether a map fits as a whole at any time."""
        found = self._never_asks.get(kind)
        if found is None:
            found = never_asks(self.way(kind).least, self.request.device)
            self._never_asks[kind] = found
        return found

    def tiles(self, way: Way) -> Tiling | None:
        """The tiles of a way in the memory that is free now. None if it fits as a whole."""
        device = self.request.device
        return None if has_room(way.least, device) else way.arranged(room_on(device))[1]

    def executor(self, plan: ConvPlan) -> Execute:
        """Executes a plan. Whether inputs are padded first may depend on the current device."""
        if not is_before_0_32_4():
            return executor(plan, pad_explicitly=False)
        plain, padded = executor(plan, False), executor(plan, True)
        return lambda x, taps: (padded if pads_explicitly(self.stream) else plain)(x, taps)

    def _differentiable(self, kind: Kind, compute: Map) -> Map:
        others: list[Kind] = [other for other in KINDS if other != kind]
        function = mx.custom_function(_on(self.stream, compute))
        # Of each gradient which two it is made of: of the arguments, and the cotangent behind them.
        known = (*others, kind)
        places = [[known.index(k) for k in KINDS if k != other] for other in others]

        @function.vjp
        def pull_back(
            arrays: Sequence[mx.array], cotangent: mx.array, _: mx.array
        ) -> list[mx.array]:
            if not (self.never_asks(others[0]) and self.never_asks(others[1])):
                check_room([self.way(other) for other in others], room_on(self.request.device))
            given = (*arrays, cotangent)
            grads = []
            for other, (i, j), array in zip(others, places, arrays):
                mapped = self._maps.get(other) or self.map(other)
                grads.append(mapped(given[i], given[j]).astype(array.dtype))
            return grads

        @function.vmap
        def map_over(arrays: Sequence[mx.array], axes: Sequence[int | None]) -> Any:
            return self._folded(kind, arrays, axes)

        mapped: Map = function
        return mapped

    def _with(self, w: PackedWeight) -> Callable[[mx.array], mx.array]:
        """The convolution by a packed weight, as a function of the input."""
        array = w.array
        if not w.has_numbers:  # it is traced: as a plain weight
            return lambda x: self.map("y")(x, array)
        way = self.way("y")
        taps = w.taps_of(way.plan) if self.tiles(way) is None else None
        convolve = convolution(self, way, taps=taps)
        if not w.is_constant:
            mapped = self._differentiable("y", convolve)
            return lambda x: mapped(x, array)
        on_stream = _on(self.stream, convolve)
        compute = mx.custom_function(lambda x: on_stream(x, array))

        @compute.vjp
        def pull_back(x: mx.array, cotangent: mx.array, _: mx.array) -> mx.array:
            return self.map("x")(array, cotangent).astype(x.dtype)

        @compute.vmap
        def map_over(x: mx.array, axis: int) -> Any:
            return self._folded("y", (x, array), (axis, None))

        function: Callable[[mx.array], mx.array] = compute
        return function

    def _folded(
        self, kind: Kind, arrays: Sequence[mx.array], axes: Sequence[int | None]
    ) -> tuple[mx.array, int]:
        """A map under `mx.vmap`: the same map of one larger problem."""
        others = [other for other in KINDS if other != kind]
        folded = fold(self.request.spec, others, arrays, axes)
        more = compiled(replace(self.request, spec=folded.spec), self.stream)
        return folded.unfold(kind, more.map(kind)(*folded.arrays)), 0


def _on(stream: StreamOrDevice, compute: Map) -> Map:
    if stream is None:
        return compute

    def computed(a: mx.array, b: mx.array) -> mx.array:
        with on(stream):
            return compute(a, b)

    return computed
