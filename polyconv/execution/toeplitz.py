"""One filter for all channels, in 1D: the matrix of the filter times blocks of the input.

A depthwise convolution whose channels share their weights, as in the resampling of BigVGAN's
activations. Along time it is one Toeplitz matrix for all channels, and so a matrix product with the
input where it lies, channels last: no channel is moved and no tap has a copy of its own.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from typing import NamedTuple

import mlx.core as mx

from polyconv.execution.arrays import cut, pad, summed_in
from polyconv.execution.tap_products import sum_of_products
from polyconv.problem.phases import n_phases, phase_stride
from polyconv.problem.spec import Axis

# Inputs and outputs of a block. A block reads as many inputs more as the filter reaches, so short
# ones multiply less; and BLAS wants some rows and terms.
_INPUTS, _OUTPUTS = 16, 512
# A block as large as a stride of many thousands asks for would not be listed in any time.
_MOST_TAPS = 2**22


class Blocks(NamedTuple):
    """Blocks of as many outputs as `taps` has rows, from `span` inputs, each `advance` further.

    `taps[m][i]` is the tap of the kernel that output m of a block reads input i of its span with,
    or the kernel size where there is none.
    """

    advance: int
    span: int
    padding_lo: int
    taps: tuple[tuple[int, ...], ...]


@lru_cache(64)
def blocks(axis: Axis, flip: bool) -> Blocks:
    """With s = input_dilation, p = stride, d = kernel_dilation and lo = padding_lo of the axis:

        y[m] = sum_k w[k] xd[p m + d k - lo],        xd[s i] = x[i], else 0

    so output m reads input i with tap k where d k = s i - p m + lo. P outputs further and q inputs
    further (`phases.n_phases`, `phases.phase_stride`) this is the same, so all blocks of b P
    outputs have one matrix, whatever the length of the input.
    """
    s, p, d, lo = axis.input_dilation, axis.stride, axis.kernel_dilation, axis.padding_lo
    n_steps, outputs, first, span = _sizes(axis)
    step = phase_stride(axis)
    rows = []
    for m in range(outputs):
        row = []
        for i in range(first, first + span):
            k, apart = divmod(s * i - p * m + lo, d)
            reads = not apart and 0 <= k < axis.kernel_size
            row.append((axis.kernel_size - 1 - k if flip else k) if reads else axis.kernel_size)
        rows.append(tuple(row))
    return Blocks(n_steps * step, span, -first, tuple(rows))


def _sizes(axis: Axis) -> tuple[int, int, int, int]:
    """Steps and outputs of a block, the first of the inputs that it reads, and how many."""
    s, p, d, lo = axis.input_dilation, axis.stride, axis.kernel_dilation, axis.padding_lo
    period, step = n_phases(axis), phase_stride(axis)
    reach = -(-d * (axis.kernel_size - 1) // s)
    n_steps = max(1, -(-reach // step), min(_INPUTS // step, _OUTPUTS // period))
    outputs = n_steps * period
    first = -(lo // s)
    last = (p * (outputs - 1) + d * (axis.kernel_size - 1) - lo) // s
    return n_steps, outputs, first, max(1, last - first + 1)


def is_short(axis: Axis) -> bool:
    """Whether a block is of a size to be listed, tap by tap."""
    _, outputs, _, span = _sizes(axis)
    return outputs * span <= _MOST_TAPS


def filtered(x: mx.array, h: mx.array, axis: Axis, flip: bool) -> mx.array:
    """The convolution of each channel with the same filter.

    Made of MLX's products, whose gradients are products too.

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
    plan = _blocks_of(axis, flip)
    n, n_pieces, rows = _counts(axis, plan)
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


def temporaries(axis: Axis, batch: int, channels: int, itemsize: int) -> int:
    """Bytes that `filtered` allocates besides its arguments and its result, at most.

    The input as it is read, the sum, and the matrix, which MLX's CPU copies for each block.
    """
    plan = _blocks_of(axis, False)
    n, _, rows = _counts(axis, plan)
    outputs, matrix = n * len(plan.taps), len(plan.taps) * plan.span
    columns = batch * channels * (axis.size + 2 * rows + 3 * outputs)
    return max(itemsize, 4) * (columns + matrix * (batch * n + 3))


def _blocks_of(axis: Axis, flip: bool) -> Blocks:
    """Not asked for each length anew, as they do not depend on it."""
    return blocks(replace(axis, size=1, padding_hi=0), flip)


def _counts(axis: Axis, plan: Blocks) -> tuple[int, int, int]:
    """How many blocks, pieces of `advance` inputs in each, and inputs in all."""
    n = -(-axis.output_size // len(plan.taps))
    n_pieces = -(-plan.span // plan.advance)
    return n, n_pieces, (n + n_pieces - 1) * plan.advance


def _fitted(x: mx.array, padding_lo: int, size: int) -> mx.array:
    """Pads in front, or crops where negative, and behind to this many rows, or crops there."""
    x = cut(x, 1, max(0, -padding_lo), None, 1)
    x = cut(x, 1, 0, max(0, size - max(0, padding_lo)), 1)
    lo = max(0, padding_lo)
    return pad(x, 1, min(lo, size), size - min(lo, size) - x.shape[1])
