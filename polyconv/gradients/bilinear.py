"""How does a convolution behave under `mx.grad`, `mx.vmap` and `mx.jvp`?

A convolution is bilinear: with input x, weight w and cotangent y, one trilinear form

    T(x, w, y) = sum_t y[t] * (x conv w)[t]

is behind three maps, each of two of these and with a result of the kind of the third:

    (x, w) -> y    the convolution
    (w, y) -> x    its gradient with respect to the input, again a convolution (`spec.adjoint`)
    (x, y) -> w    its gradient with respect to the weight (`correlate`)

The gradients of each map are the other two, so gradients of every order need nothing else; MLX's
own rules, which unfold, are never used. Under `mx.vmap` the mapped axis becomes more batch, more
output channels or more groups of the same map.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from functools import lru_cache
from math import inf
from typing import Any, TypeAlias

import mlx.core as mx

from polyconv.execution.arrays import contiguous, of_this_shape, summed_in
from polyconv.execution.device import StreamOrDevice, is_exporting, on, pads_explicitly
from polyconv.execution.packing import PackedWeight, packed_for
from polyconv.execution.run import run
from polyconv.execution.run_tiled import assembled
from polyconv.gradients.plan_gradients import correlate, spread
from polyconv.planning.devices import Device, Host
from polyconv.planning.plan import ConvPlan, plan, plan_for_gradients, reads_in_lines
from polyconv.planning.tiling import Room, Tiling, arranged, others_than, workspace
from polyconv.problem.arguments import NoRoomError
from polyconv.problem.spec import ConvSpec, adjoint

Bilinear: TypeAlias = "Callable[[mx.array, mx.array | PackedWeight], mx.array]"

_Map: TypeAlias = "Callable[[mx.array, mx.array], mx.array]"

Observer: TypeAlias = "Callable[[str, ConvSpec], None]"

_OBSERVER: ContextVar[Observer | None] = ContextVar("observer", default=None)


@dataclass(frozen=True, slots=True)
class Problem:
    """What to compute for which op, by which method, planned for which device, on which stream.

    `room` is what may be allocated, results included, and `max_workspace` without them, in bytes.
    With a `max_workspace` of `least_otherwise` the call is not computed by a plan: what is told to
    be enough is no more than that.
    """

    op: str
    spec: ConvSpec
    method: str
    device: Device
    stream: StreamOrDevice
    room: Room
    max_workspace: int | None = None
    least_otherwise: int | None = None


@contextmanager
def observed(observer: Observer) -> Iterator[None]:
    """Tells `observer` the op and the convolution of each call."""
    token = _OBSERVER.set(observer)
    try:
        yield
    finally:
        _OBSERVER.reset(token)


def tell(op: str, spec: ConvSpec) -> None:
    """Who computes a call, in whatever way, tells it, so that nobody misses it."""
    observer = _OBSERVER.get()
    if observer is not None:
        observer(op, spec)


def convolution(problem: Problem) -> Bilinear:
    """The function of `x` and `w` that computes a problem.

    Raises:
        ValueError: Under the op's name, if the method is unknown or cannot compute it.
    """
    _planned(problem.spec, problem.method, problem.op, problem.device)
    chosen, tiling = _prepared("y", problem)
    # MLX's own op where it is asked for, with MLX's own rules wherever these are right.
    is_own = problem.method == "native" and problem.spec.groups == 1 and tiling is None
    mapped = _bilinear("y", problem)

    def convolve(x: mx.array, w: mx.array | PackedWeight) -> mx.array:
        tell(problem.op, problem.spec)
        with on(problem.stream):  # MLX's own step around a function with a gradient is on it too
            if is_own or is_exporting():
                plain = w.array if isinstance(w, PackedWeight) else w
                y = run(chosen, x, plain, pads_explicitly(problem.stream, mlx_gradients=True))
                return y if chosen.is_for_any_size else of_this_shape(y)
            if not isinstance(w, PackedWeight):
                return mapped(x, w)
            return _with_packed(problem, w, x) if w.has_numbers else mapped(x, w.array)

    return convolve


def _with_packed(problem: Problem, w: PackedWeight, x: mx.array) -> mx.array:
    """The convolution by weights packed before, of which a constant one costs no gradient."""
    chosen, tiling = _prepared("y", problem)
    if not w.is_constant:
        forward = lambda x, array: _convolved(  # noqa: E731
            problem, chosen, tiling, x, array, w.taps_of(chosen)
        )
        return _bilinear("y", problem, forward)(x, w.array)

    @mx.custom_function
    def compute(x: mx.array) -> mx.array:
        with on(problem.stream):
            return _convolved(problem, chosen, tiling, x, w.array, w.taps_of(chosen))

    @compute.vjp
    def pull_back(x: mx.array, cotangent: mx.array, _: Any) -> mx.array:
        return _bilinear("x", problem)(w.array, cotangent).astype(x.dtype)

    @compute.vmap
    def fold(x: mx.array, axis: int) -> Any:
        return _folded("y", problem, (x, w.array), (axis, None))

    return compute(x)


def _bilinear(result: str, problem: Problem, planned: _Map | None = None) -> _Map:
    """The map with a result of this kind, of the other two kinds in the order x, w, y.

    `planned` computes it, if it is known how.
    """
    kinds = "xwy".replace(result, "")
    planned = planned or _COMPUTE[result](problem)

    @mx.custom_function
    def compute(a: mx.array, b: mx.array) -> mx.array:
        with on(problem.stream):
            return planned(a, b)

    @compute.vjp
    def pull_back(arrays: Sequence[mx.array], cotangent: mx.array, _: Any) -> list[mx.array]:
        known = {result: cotangent, **dict(zip(kinds, arrays, strict=True))}
        _check_room(kinds, problem)
        grads = []
        for kind in kinds:
            grad = _bilinear(kind, problem)(*[known[k] for k in "xwy" if k != kind])
            grads.append(grad.astype(known[kind].dtype))
        return grads

    @compute.vmap
    def fold(arrays: Sequence[mx.array], axes: Sequence[int | None]) -> Any:
        return _folded(result, problem, arrays, axes)

    mapped: _Map = compute
    return mapped


def _forward(problem: Problem) -> _Map:
    chosen, tiling = _prepared("y", problem)
    return lambda x, w: _convolved(problem, chosen, tiling, x, w)


def _convolved(
    problem: Problem,
    chosen: ConvPlan,
    tiling: Tiling | None,
    x: mx.array,
    w: mx.array,
    packed: list[mx.array] | None = None,
) -> mx.array:
    pads = pads_explicitly(problem.stream)
    if tiling is None:
        return run(chosen, x, w, pads, packed)
    taps = packed_for(chosen, w) if packed is None else packed
    compute = lambda tile, taps, x: run(tile.plan, x, w, pads, taps)  # noqa: E731
    return assembled(tiling, compute, {"x": x}, taps, problem.stream)


def _input_gradient(problem: Problem) -> _Map:
    """By the plan's own products backwards, or the convolution that it is (`spec.adjoint`)."""
    chosen, tiling = _prepared("x", problem)
    if chosen.problem != problem.spec:
        return lambda w, y: _adjoint_convolved(problem, chosen, tiling, w, y)
    if tiling is None:
        return lambda w, y: spread(chosen, w, y)
    compute = lambda tile, others, y: spread(tile.plan, others[0], y)  # noqa: E731
    return lambda w, y: assembled(tiling, compute, {"y": y}, [w], problem.stream)


def _adjoint_convolved(
    problem: Problem, chosen: ConvPlan, tiling: Tiling | None, w: mx.array, y: mx.array
) -> mx.array:
    """The convolution of `y` with each group's input and output channels exchanged."""
    w = mx.unflatten(w, 0, (chosen.problem.groups, w.shape[0] // chosen.problem.groups))
    w = w.swapaxes(1, -1).flatten(0, 1)
    packed = packed_for(chosen, w, transposed=True) if chosen.products else None
    if chosen.is_native:  # else it is made contiguous when it is packed
        w = contiguous(w)
    return _convolved(problem, chosen, tiling, y, w, packed)


def _weight_gradient(problem: Problem) -> _Map:
    chosen, tiling = _prepared("w", problem)
    if tiling is None:
        return lambda x, y: correlate(chosen, x, y)
    compute = lambda tile, _, x, y: correlate(tile.plan, x, y)  # noqa: E731
    return lambda x, y: assembled(tiling, compute, {"x": x, "y": y}, [], problem.stream)


_COMPUTE = {"y": _forward, "x": _input_gradient, "w": _weight_gradient}


@lru_cache(1024)
def _prepared(result: str, problem: Problem) -> tuple[ConvPlan, Tiling | None]:
    """The plan that a map is computed by, and its tiles if it needs any."""
    chosen = _plan_for(result, problem)
    # The gradient of the input may be a convolution like any other, of `y`.
    kind = result if chosen.problem == problem.spec else "y"
    limit = workspace(problem.op, chosen.problem, kind, problem.room, problem.max_workspace)
    is_free = result == "y" and problem.method == "auto"
    return arranged(
        problem.op,
        chosen,
        kind,
        limit,
        others_than if is_free else None,
        most=workspace(problem.op, chosen.problem, kind, problem.room, None),
        otherwise=problem.least_otherwise,
    )


def _check_room(results: Iterable[str], problem: Problem) -> None:
    """Refuses by what needs most, if anything: the number told is then enough for all of them."""
    errors = []
    for result in results:
        try:
            _prepared(result, problem)
        except NoRoomError as error:
            errors.append(error)
    if errors:
        raise max(errors, key=lambda error: inf if error.least is None else error.least)


def _plan_for(result: str, problem: Problem) -> ConvPlan:
    spec, device, op = problem.spec, problem.device, problem.op
    if result == "y":
        return _plan_of(problem)
    if isinstance(device, Host) and (result == "w" or reads_in_lines(spec)):
        return plan_for_gradients(spec, device)
    if result == "x":
        return _planned(adjoint(spec), "auto", op, device)
    chosen = _plan_of(problem)
    return _planned(spec, "per_phase", op, device) if chosen.is_native else chosen


@lru_cache(1024)
def _planned(spec: ConvSpec, method: str, op: str, device: Device) -> ConvPlan:
    return plan(spec, method, op, device)


def _plan_of(problem: Problem) -> ConvPlan:
    try:
        return _planned(problem.spec, problem.method, problem.op, problem.device)
    except ValueError:  # forced for the call, but not able to take what `mx.vmap` made of it
        return _planned(problem.spec, "auto", problem.op, problem.device)


def _folded(
    result: str, problem: Problem, arrays: Sequence[mx.array], axes: Sequence[int | None]
) -> tuple[mx.array, int]:
    """The map with the mapped axis folded into the batch, the output channels or the groups."""
    kinds = "xwy".replace(result, "")
    n_maps = next(a.shape[i] for a, i in zip(arrays, axes, strict=True) if i is not None)
    unmapped = [kind for kind, axis in zip(kinds, axes, strict=True) if axis is None]
    spec, n = problem.spec, n_maps
    place: type[_Batch | _Channels]
    if unmapped == ["w"]:
        more, place = replace(spec, batch=n * spec.batch), _Batch
    elif unmapped == ["x"] and spec.groups == 1:
        more, place = replace(spec, out_channels=n * spec.out_channels), _Channels
    else:
        sizes = (n * spec.in_channels, n * spec.out_channels, n * spec.groups)
        more = replace(spec, in_channels=sizes[0], out_channels=sizes[1], groups=sizes[2])
        place, unmapped = _Channels, []
    folded = [
        a if kind in unmapped else place.fold(kind, a, axis, n)
        for kind, a, axis in zip(kinds, arrays, axes, strict=True)
    ]
    y = _bilinear(result, replace(problem, spec=more))(*folded)
    return place.unfold(result, y, n), 0


class _Batch:
    """The mapped axis in front of the batch."""

    @staticmethod
    def fold(kind: str, array: mx.array, axis: int | None, n_maps: int) -> mx.array:
        return mx.moveaxis(array, axis, 0).flatten(0, 1)

    @staticmethod
    def unfold(kind: str, array: mx.array, n_maps: int) -> mx.array:
        return array.reshape(n_maps, array.shape[0] // n_maps, *array.shape[1:])


class _Channels:
    """The mapped axis in front of the channels, which a weight has first: map by map."""

    @staticmethod
    def fold(kind: str, array: mx.array, axis: int | None, n_maps: int) -> mx.array:
        if axis is None:
            wide = array.astype(summed_in(array.dtype))  # as its gradient is summed over the maps
            array, axis = mx.broadcast_to(wide, (n_maps, *array.shape)), 0
        if kind == "w":
            return mx.moveaxis(array, axis, 0).flatten(0, 1)
        return mx.moveaxis(array, axis, -2).flatten(-2, -1)

    @staticmethod
    def unfold(kind: str, array: mx.array, n_maps: int) -> mx.array:
        if kind == "w":
            return _Batch.unfold(kind, array, n_maps)
        array = array.reshape(*array.shape[:-1], n_maps, array.shape[-1] // n_maps)
        return mx.moveaxis(array, -2, 0)
