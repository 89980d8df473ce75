"""The bias of a layer, whose gradient is a sum over all samples of a batch."""

from __future__ import annotations

import mlx.core as mx

from polyconv.execution.arrays import summed_in
from polyconv.execution.device import is_exporting


def add_bias(y: mx.array, bias: mx.array) -> mx.array:
    """`y + bias`, with a gradient of the bias that is summed in float32 for halves.

    MLX sums its own in halves on Metal. There a float16 sum of ones stays at 2048.

    Args:
        y (array): ``(N, *S, O)``.
        bias (array): ``(O,)``.
    """
    is_summed_wide = summed_in(y.dtype) != y.dtype == bias.dtype and bias.shape == y.shape[-1:]
    return _added(y, bias) if is_summed_wide and not is_exporting() else y + bias


@mx.custom_function
def _added(y: mx.array, bias: mx.array) -> mx.array:
    return y + bias


@_added.vjp
def _(
    primals: tuple[mx.array, mx.array], cotangent: mx.array, _: mx.array
) -> tuple[mx.array, mx.array]:
    summed = tuple(range(cotangent.ndim - 1))
    wide = cotangent.astype(summed_in(cotangent.dtype)).sum(summed)
    return cotangent, wide.astype(cotangent.dtype)
