"""One filter for all channels, in 1D: which blocks of it, how large, and may it be taken?

A depthwise convolution whose channels share their weights, as in the resampling of BigVGAN's
activations. Along time it is one Toeplitz matrix for all channels, and so a matrix product with the
input where it lies (`execution/toeplitz.py`). It is not computed in tiles. Standard library only.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from typing import NamedTuple

from polyconv.planning.devices import Device
from polyconv.planning.tiling import Room, least_room_for
from polyconv.problem.phases import n_phases, phase_stride
from polyconv.problem.spec import ITEMSIZE, Axis, ConvSpec

# Inputs and outputs of a block, besides the inputs that the filter reaches. Short blocks multiply
# less. But BLAS wants some rows and terms.
_INPUTS, _OUTPUTS = 16, 512
# Blocks are listed tap by tap. With a stride of many thousands a block would take too long to list.
_MOST_TAPS = 2**22


class Blocks(NamedTuple):
    """Blocks of outputs, each computed from `span` inputs, which start `advance` inputs further.

    `taps` has a row for each output of a block. `taps[m][i]` is the tap by which output m reads
    input i of the span, or the kernel size where it does not read it.
    """

    advance: int
    span: int
    padding_lo: int
    taps: tuple[tuple[int, ...], ...]


@lru_cache(64)
def blocks(axis: Axis, flip: bool) -> Blocks:
    """With s = input_dilation, p = stride, d = kernel_dilation and lo = padding_lo of the axis:

        y[m] = sum_k w[k] xd[p m + d k - lo],        xd[s i] = x[i], else 0

    so output m reads input i with tap k where d k = s i - p m + lo. This is the same P outputs and
    q inputs further (`phases.n_phases`, `phases.phase_stride`). So all blocks of b P outputs have
    one matrix, whatever the length of the input.
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


def is_shared(x: tuple[int, ...], w: tuple[int, ...], groups: int) -> bool:
    """Whether one filter `(1, K, 1)` is for all channels, each a group of its own."""
    is_one = len(w) == 3 and w[0] == w[2] == 1
    return is_one and groups > 1 and len(x) == 3 and x[2] == groups


def of_all_channels(one: ConvSpec, channels: int) -> ConvSpec:
    """The convolution of all channels, given that of one."""
    return replace(one, in_channels=channels, out_channels=channels, groups=channels)


def bytes_needed(one: ConvSpec, channels: int, device: Device) -> int | None:
    """Bytes that one matrix for all channels needs besides arguments and result.

    None if it is not to be taken. On CUDA it is not: cuDNN's kernel for one filter per channel is
    faster than products. Nor is it where MLX would round products of float32.
    """
    (axis,) = one.axes
    rounds = device.rounds_products and one.dtype == "float32"
    if not device.backend.takes_shared_filter or rounds or one.is_empty or not is_short(axis):
        return None
    return temporaries(axis, one.batch, channels, ITEMSIZE[one.dtype])


def least_room(one: ConvSpec, channels: int, needed: int, max_workspace: int | None) -> Room | None:
    """What it needs of the largest buffer and in all. None if `max_workspace` is less."""
    if max_workspace is not None and needed > max_workspace:
        return None
    return least_room_for(of_all_channels(one, channels), "y", needed)


def temporaries(axis: Axis, batch: int, channels: int, itemsize: int) -> int:
    """Bytes that `filtered` allocates besides its arguments and its result, at most.

    These are the input as it is read, the sum, and the matrix, which MLX's CPU copies per block.
    """
    plan = blocks_of(axis, False)
    n, _, rows = counts(axis, plan)
    outputs, matrix = n * len(plan.taps), len(plan.taps) * plan.span
    columns = batch * channels * (axis.size + 2 * rows + 3 * outputs)
    return max(itemsize, 4) * (columns + matrix * (batch * n + 3))


def blocks_of(axis: Axis, flip: bool) -> Blocks:
    """The blocks of an axis. They do not depend on its length, so they are kept without it."""
    return blocks(replace(axis, size=1, padding_hi=0), flip)


def counts(axis: Axis, plan: Blocks) -> tuple[int, int, int]:
    """How many blocks, pieces of `advance` inputs in each, and inputs in all."""
    n = -(-axis.output_size // len(plan.taps))
    n_pieces = -(-plan.span // plan.advance)
    return n, n_pieces, (n + n_pieces - 1) * plan.advance
