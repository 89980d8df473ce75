"""Runs any plan as MLX ops.

Branches on the plan's data, never on a method's name; takes no decision and checks nothing.
"""

from __future__ import annotations

import mlx.core as mx

from polyconv.convolve import convolve
from polyconv.packing import pack, pack_taps
from polyconv.plan import ConvPlan
from polyconv.products import multiply
from polyconv.slicing import Inputs
from polyconv.weaving import assemble, weave


def run(plan: ConvPlan, x: mx.array, w: mx.array, pad_explicitly: bool) -> mx.array:
    """Computes the convolution of a plan.

    Args:
        plan (ConvPlan): A plan for these shapes.
        x (array): Input, ``(N, *S, C)``.
        w (array): Weight, ``(O, *K, C / groups)``, in the order that `plan.problem.flip` says.
        pad_explicitly (bool): Pad undilated inputs before the convolutions and not by them.

    Returns:
        array: ``plan.problem.output_shape``, of dtype ``plan.problem.dtype``.
    """
    dtype = getattr(mx, plan.problem.dtype)
    if plan.is_zero:
        return mx.zeros(plan.problem.output_shape, dtype)
    if plan.products:  # of halves in float32, so that they are rounded once
        wide = mx.float64 if dtype == mx.float64 else mx.float32
        inputs = Inputs(x.astype(wide), plan.problem.groups)
        return weave(multiply(plan, inputs, pack_taps(plan, w.astype(wide))), plan).astype(dtype)
    x, w = x.astype(dtype), w.astype(dtype)  # once, and not in each convolution
    packed = pack(plan, w)
    inputs = Inputs(x, plan.problem.groups)
    outputs = [
        convolve(inputs, taps, sub, pad_explicitly)
        for taps, sub in zip(packed, plan.subconvs, strict=True)
    ]
    return assemble(plan, outputs)
