"""One filter for all channels, in 1D: the matrix of the filter times blocks of the input.

No channel is moved and no tap has a copy of its own (`planning/shared_filter.py`).
"""

from __future__ import annotations

import mlx.core as mx

from polyconv.execution.arrays import cut, pad, summed_in
from polyconv.execution.tap_products import sum_of_products
from polyconv.planning.shared_filter import blocks_of, counts
from polyconv.problem.spec import Axis


def filtered(x: mx.array, h: mx.array, axis: Axis, flip: bool) -> mx.array:
    """The convolution of each channel with the same filter.

    It is made of MLX's products, so its gradients are products too.

    Args:
        x (array): Input, ``(N, L, C)``.
        h (array): Filter, ``(K,)``, of the dtype of `x`.
        axis (Axis): The convolution.
        flip (bool): Whether the filter is in the order of a convolution.

    Returns:
        array: ``(N, L_out, C)``, of the dtype of `x`.
    """
    batch, _, channels = x.shape
    if not axis.output_size or not x.size:
        return mx.zeros((batch, axis.output_size, channels), x.dtype)
    dtype = x.dtype
    x, h = x.astype(summed_in(dtype)), h.astype(summed_in(dtype))
    plan = blocks_of(axis, flip)
    n, n_pieces, rows = counts(axis, plan)
    matrix = pad(h, 0, 0, 1)[mx.array(plan.taps)]
    x = _fitted(x, plan.padding_lo, rows).reshape(batch, -1, plan.advance, channels)
    taps, reads = [], []
    for j in range(n_pieces):
        start = j * plan.advance
        size = min(plan.advance, plan.span - start)
        taps.append(cut(matrix, 1, start, start + size, 1))
        reads.append(cut(cut(x, 1, j, j + n, 1), 2, 0, size, 1))
    total = sum_of_products(taps, reads)
    y = cut(total.reshape(batch, -1, channels), 1, 0, axis.output_size, 1)
    return y.astype(dtype)


def _fitted(x: mx.array, padding_lo: int, size: int) -> mx.array:
    """Pads in front, or crops if `padding_lo` is negative; pads or crops behind to `size` rows."""
    x = cut(x, 1, max(0, -padding_lo), None, 1)
    x = cut(x, 1, 0, max(0, size - max(0, padding_lo)), 1)
    lo = max(0, padding_lo)
    return pad(x, 1, min(lo, size), size - min(lo, size) - x.shape[1])
