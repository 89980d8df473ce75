"""How does a plan run under `mx.vmap`?

By MLX's own rules without groups. With groups MLX is wrong when the weight alone is mapped
(`Convolution::vmap`, mlx/primitives.cpp: it flattens the mapped axis into the output channels,
which then no longer lie group by group). There the mapped axis becomes more groups, or more batch,
of one convolution, and the same for its gradients of every order.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, TypeAlias

import mlx.core as mx

from polyconv.device import StreamOrDevice, on, pads_explicitly
from polyconv.execute import run
from polyconv.plan import ConvPlan, plan
from polyconv.spec import ConvSpec

# Given a spec, a function of arrays. Arrays are of a kind: "x" and "y" hold their channels last,
# "w" its output channels first; gradients and cotangents are of the kind of what they belong to.
Build: TypeAlias = "Callable[[ConvSpec], Callable[..., Sequence[mx.array]]]"


def run_mapped(chosen: ConvPlan, x: mx.array, w: mx.array, stream: StreamOrDevice) -> mx.array:
    """Runs a plan on a stream, so that with groups `mx.vmap` of it is right."""
    if chosen.problem.groups == 1:
        with on(stream):
            return run(chosen, x, w, pads_explicitly())

    def convolution(spec: ConvSpec) -> Callable[..., Sequence[mx.array]]:
        # MLX's own op may not take what folding makes of the arguments.
        method = "auto" if chosen.method == "native" else chosen.method
        again = chosen if spec == chosen.problem else plan(spec, method)

        def convolve(x: mx.array, w: mx.array) -> Sequence[mx.array]:
            with on(stream):
                return [run(again, x, w, pads_explicitly())]

        return convolve

    return _mappable(convolution, chosen.problem, "xw", "y")(x, w)[0]


def _mappable(build: Build, spec: ConvSpec, kinds: str, results: str) -> Any:
    """`build(spec)` with the rules for `mx.vmap` and `mx.grad`.

    A gradient is again such a function, of the arguments and the cotangents.
    """
    convolve = mx.custom_function(build(spec))

    @convolve.vmap
    def fold(arrays: Sequence[mx.array], axes: Sequence[int | None]) -> Any:
        n_maps = next(a.shape[i] for a, i in zip(arrays, axes, strict=True) if i is not None)
        if kinds == "xw" and axes[1] is None:
            x = mx.moveaxis(arrays[0], axes[0], 0)
            more = replace(spec, batch=n_maps * spec.batch)
            (y,) = _mappable(build, more, kinds, results)(x.flatten(0, 1), arrays[1])
            return [y.reshape(n_maps, spec.batch, *y.shape[1:])], [0]
        more = replace(
            spec,
            in_channels=n_maps * spec.in_channels,
            out_channels=n_maps * spec.out_channels,
            groups=n_maps * spec.groups,
        )
        folded = [_fold(k, a, i, n_maps) for k, a, i in zip(kinds, arrays, axes, strict=True)]
        outputs = _mappable(build, more, kinds, results)(*folded)
        unfolded = [_unfold(k, a, n_maps) for k, a in zip(results, outputs, strict=True)]
        return unfolded, [0] * len(unfolded)

    @convolve.vjp
    def gradient(arrays: Sequence[mx.array], cotangents: Sequence[mx.array], _: Any) -> Any:
        return _mappable(_gradient(build, len(kinds)), spec, kinds + results, kinds)(
            *arrays, *cotangents
        )

    return convolve


def _gradient(build: Build, n_arguments: int) -> Build:
    def of(spec: ConvSpec) -> Callable[..., Sequence[mx.array]]:
        def pull_back(*arrays: mx.array) -> Sequence[mx.array]:
            primals, cotangents = list(arrays[:n_arguments]), list(arrays[n_arguments:])
            return mx.vjp(build(spec), primals, cotangents)[1]

        return pull_back

    return of


def _fold(kind: str, array: mx.array, axis: int | None, n_maps: int) -> mx.array:
    """Puts the mapped axis in front of the channels: group by group, map by map."""
    if axis is None:
        array, axis = mx.broadcast_to(array, (n_maps, *array.shape)), 0
    if kind == "w":
        return mx.moveaxis(array, axis, 0).flatten(0, 1)
    return mx.moveaxis(array, axis, -2).flatten(-2, -1)


def _unfold(kind: str, array: mx.array, n_maps: int) -> mx.array:
    if kind == "w":
        return array.reshape(n_maps, array.shape[0] // n_maps, *array.shape[1:])
    array = array.reshape(*array.shape[:-1], n_maps, array.shape[-1] // n_maps)
    return mx.moveaxis(array, -2, 0)
