"""How does a plan run under `mx.vmap`?

By MLX's own rules without groups, and with groups as one convolution with the mapped axis folded
into the batch, the output channels or the groups: MLX's rule is wrong when the weight alone is
mapped (`Convolution::vmap`, mlx/primitives.cpp: it flattens the mapped axis into the output
channels, which then no longer lie group by group).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import mlx.core as mx

from polyconv.device import pads_explicitly
from polyconv.execute import run
from polyconv.plan import ConvPlan, plan
from polyconv.spec import ConvSpec


def run_mapped(chosen: ConvPlan, x: mx.array, w: mx.array) -> mx.array:
    """Runs a plan so that `mx.vmap` of it is right for every mapping of `x` and `w`.

    One mapping stays MLX's error: both arguments, in 3D without groups. `mx.vmap` also transforms
    what a `mx.custom_function` does inside, so a rule of our own cannot step in there.
    """
    if chosen.problem.groups == 1:
        return run(chosen, x, w, pads_explicitly())

    @mx.custom_function
    def convolve(x: mx.array, w: mx.array) -> mx.array:
        return run(chosen, x, w, pads_explicitly())

    @convolve.vmap
    def fold(inputs: Sequence[mx.array], axes: Sequence[int | None]) -> tuple[mx.array, int]:
        return _fold(chosen, *inputs, *axes)

    return convolve(x, w)


def _fold(
    chosen: ConvPlan, x: mx.array, w: mx.array, x_axis: int | None, w_axis: int | None
) -> tuple[mx.array, int]:
    """One convolution for all mapped ones, and the axis of its result that maps."""
    spec = chosen.problem
    out_channels, groups = spec.out_channels, spec.groups
    if w_axis is None:
        x = mx.moveaxis(x, x_axis, 0)
        n_maps = x.shape[0]
        folded = replace(spec, batch=n_maps * spec.batch)
        y = _again(chosen, folded, x.flatten(0, 1), w)
        return y.reshape(n_maps, spec.batch, *y.shape[1:]), 0
    w = mx.moveaxis(w, w_axis, 0)
    n_maps, taps = w.shape[0], w.shape[2:]
    if x_axis is None:
        # (V, G * O / G, ...) -> (G * V * O / G, ...): output channels lie group by group.
        w = w.reshape(n_maps, groups, -1, *taps).swapaxes(0, 1).reshape(-1, *taps)
        y = _again(chosen, replace(spec, out_channels=n_maps * out_channels), x, w)
        y = y.reshape(*y.shape[:-1], groups, n_maps, out_channels // groups)
        y = mx.moveaxis(y, -2, 0)
        return y.reshape(*y.shape[:-2], out_channels), 0
    x = mx.moveaxis(x, x_axis, -2).flatten(-2, -1)
    folded = replace(
        spec,
        in_channels=n_maps * spec.in_channels,
        out_channels=n_maps * out_channels,
        groups=n_maps * groups,
    )
    y = _again(chosen, folded, x, w.flatten(0, 1))
    return mx.moveaxis(y.reshape(*y.shape[:-1], n_maps, out_channels), -2, 0), 0


def _again(chosen: ConvPlan, spec: ConvSpec, x: mx.array, w: mx.array) -> mx.array:
    method = "auto" if chosen.method == "native" else chosen.method
    return run_mapped(plan(spec, method), x, w)
