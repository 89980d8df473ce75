"""Runs any plan as MLX ops.

`executor` works a plan out into a function, once. It branches on the plan's data, never on a
method's name. The function that it returns decides nothing and checks nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import mlx.core as mx

from polyconv.execution.convolve import convolutions
from polyconv.execution.cutting import cutter
from polyconv.execution.tap_products import products
from polyconv.execution.weaving import assembly, weave
from polyconv.planning.plan import ConvPlan

# Takes the input `(N, *S, C)` and the taps that `cutter` makes of the weight.
Execute: TypeAlias = "Callable[[mx.array, Sequence[mx.array]], mx.array]"


def executor(plan: ConvPlan, pad_explicitly: bool) -> Execute:
    """The function that computes the convolution of a plan.

    Args:
        plan (ConvPlan): A plan.
        pad_explicitly (bool): Pad undilated inputs before the convolutions and not by them.

    Returns:
        callable: It takes an input of the plan's shape and the taps of its weight. Its result has
        ``plan.problem.output_shape`` and dtype ``plan.problem.dtype``.
    """
    dtype = getattr(mx, plan.problem.dtype)
    if plan.is_zero:
        return lambda x, taps: mx.zeros(plan.problem.output_shape, dtype)
    if not plan.products:
        convolve, assemble = convolutions(plan, pad_explicitly), assembly(plan)
        # The input gets the result's dtype once, and not in each convolution.
        return lambda x, taps: assemble(convolve(x.astype(dtype), taps))
    multiply, recipes = products(plan)
    woven, wide = weave(plan, recipes), getattr(mx, plan.computing_dtype)
    if wide == dtype:
        return lambda x, taps: woven(multiply(x.astype(dtype), taps))
    return lambda x, taps: woven(multiply(x.astype(wide), taps)).astype(dtype)


def run(plan: ConvPlan, x: mx.array, w: mx.array, pad_explicitly: bool) -> mx.array:
    """Computes the convolution of a plan, once.

    Args:
        plan (ConvPlan): A plan for these shapes.
        x (array): Input, ``(N, *S, C)``.
        w (array): Weight, ``(O, *K, C / groups)``, in the order that `plan.problem.flip` says.
        pad_explicitly (bool): As for `executor`.
    """
    return executor(plan, pad_explicitly)(x, cutter(plan)(w))
