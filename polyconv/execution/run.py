"""Runs any plan as MLX ops.

Branches on the plan's data, never on a method's name; takes no decision and checks nothing.
"""

from __future__ import annotations

import mlx.core as mx

from polyconv.execution.arrays import Inputs
from polyconv.execution.convolve import convolve
from polyconv.execution.packing import packed_for
from polyconv.execution.tap_products import multiply
from polyconv.execution.weaving import assemble, weave
from polyconv.planning.plan import ConvPlan


def run(
    plan: ConvPlan,
    x: mx.array,
    w: mx.array,
    pad_explicitly: bool,
    packed: list[mx.array] | None = None,
) -> mx.array:
    """Computes the convolution of a plan.

    Args:
        plan (ConvPlan): A plan for these shapes.
        x (array): Input, ``(N, *S, C)``.
        w (array): Weight, ``(O, *K, C / groups)``, in the order that `plan.problem.flip` says.
        pad_explicitly (bool): Pad undilated inputs before the convolutions and not by them.
        packed (list(array), optional): What `packing.packed_for` makes of `w`, where it is kept.

    Returns:
        array: ``plan.problem.output_shape``, of dtype ``plan.problem.dtype``.
    """
    dtype = getattr(mx, plan.problem.dtype)
    if plan.is_zero:
        return mx.zeros(plan.problem.output_shape, dtype)
    if packed is None:
        packed = packed_for(plan, w)
    if plan.products:
        inputs = Inputs(x.astype(packed[0].dtype), plan.problem.groups)
        return weave(multiply(plan, inputs, packed), plan).astype(dtype)
    inputs = Inputs(x.astype(dtype), plan.problem.groups)  # once, and not in each convolution
    outputs = [
        mx.zeros(sub.spec.output_shape, dtype)
        if sub.is_zero
        else convolve(inputs, taps, sub, pad_explicitly)
        for taps, sub in zip(packed, plan.subconvs, strict=True)
    ]
    return assemble(plan, outputs)
