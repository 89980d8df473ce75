"""Runs any plan as MLX ops.

Branches on the plan's data, never on a method's name; takes no decision and checks nothing.
Letters in shape comments: N batch, S input, M frames, R phases of a block, T taps, G groups,
O and C output and input channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import mlx.core as mx

from polyconv.axisplan import AxisPlan, Block
from polyconv.plan import ConvPlan, SubConv

Padding: TypeAlias = "tuple[tuple[int, ...], tuple[int, ...]]"


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
    spec = plan.problem
    dtype = getattr(mx, spec.dtype)
    if plan.is_zero:
        return mx.zeros(spec.output_shape, dtype)
    x, w = x.astype(dtype), w.astype(dtype)  # once, and not in each convolution
    flip_taps = spec.flip != plan.flip
    outputs = []
    for sub in plan.subconvs:
        packed = _pack(w, sub, spec.groups, flip_taps)
        y = _convolve(x, packed, sub, plan, pad_explicitly)
        outputs.append(_frames(y, sub, plan))
    return _weave(outputs, plan)


def _pack(w: mx.array, sub: SubConv, groups: int, flip: bool) -> mx.array:
    """Cuts `(O, *K, C)` into the taps of one subconv: `(G * prod(R) * O / G, *T, C)`."""
    if max(sub.n_phases) == 1:
        taps = [_slice_of(b.phases[0].taps, k, flip) for b, k in zip(sub.blocks, w.shape[1:])]
        return w[(slice(None), *taps)]
    for i, block in enumerate(sub.blocks):
        w = _taps(w, 1 + 2 * i, block, flip)
    ndim = len(sub.blocks)
    out_channels, *taps_and_phases, channels = w.shape
    # (O, T1, R1, T2, R2, ..., C) -> (G, R1, R2, ..., O / G, T1, T2, ..., C)
    w = w.reshape(groups, out_channels // groups, *taps_and_phases, channels)
    order = [0, *range(3, 3 + 2 * ndim, 2), 1, *range(2, 2 + 2 * ndim, 2), 2 + 2 * ndim]
    return w.transpose(order).reshape(-1, *taps_and_phases[::2], channels)


def _taps(w: mx.array, axis: int, block: Block, flip: bool) -> mx.array:
    """Replaces the kernel axis K of `w` by the two axes (T, R) of a block."""
    if block.fold is not None:
        return _fold_taps(w, axis, block, flip)
    kernel_size = w.shape[axis]
    rows = []
    for phase, lead in zip(block.phases, block.leads, strict=True):
        taps = w[(slice(None),) * axis + (_slice_of(phase.taps, kernel_size, flip),)]
        tail = block.axis.kernel_size - lead - len(phase.taps)
        rows.append(_pad(taps, axis, lead, tail))
    return mx.stack(rows, axis + 1) if len(rows) > 1 else mx.expand_dims(rows[0], axis + 1)


def _fold_taps(w: mx.array, axis: int, block: Block, flip: bool) -> mx.array:
    """As `_taps`, for a fold. In a flipped kernel the last tap comes first, the phases rise."""
    assert block.fold is not None
    pad_lo, pad_hi, step = block.fold
    w = _pad(w, axis, pad_hi, pad_lo) if flip else _pad(w, axis, pad_lo, pad_hi)
    w = w.reshape(*w.shape[:axis], -1, step, *w.shape[axis + 1 :])
    n = len(block.phases)
    if flip:
        w = _slice(w, axis, None, None, -1)
        return _slice(w, axis + 1, step - n, step, 1)
    return _slice(w, axis + 1, n - 1, None, -1)


def _convolve(
    x: mx.array, w: mx.array, sub: SubConv, plan: ConvPlan, pad_explicitly: bool
) -> mx.array:
    """One convolution with packed weights: `(N, *M, G * prod(R) * O / G)`."""
    groups, padding = plan.problem.groups, sub.padding
    if pad_explicitly and max(sub.input_dilation) == 1:
        for i, (lo, hi) in enumerate(zip(*padding, strict=True)):
            x = _pad(x, 1 + i, lo, hi)
        padding = ((0,) * len(sub.blocks),) * 2
    if groups > 1 and len(sub.blocks) == 3:
        return _grouped_3d(x, w, sub, padding, groups)
    return mx.conv_general(
        x, w, sub.stride, padding, sub.kernel_dilation, sub.input_dilation, groups, plan.flip
    )


def _grouped_3d(x: mx.array, w: mx.array, sub: SubConv, padding: Padding, groups: int) -> mx.array:
    """A grouped 3D convolution, which MLX has not, as a grouped 2D one.

    Output frames become part of the batch, and the taps in depth, each reading its own frames of
    the input, become input channels of their group.
    """
    depth = sub.blocks[0].axis
    (lo, *plane_lo), (hi, *plane_hi) = padding
    x = _pad(x, 1, lo, hi)
    n, _, *plane, channels = x.shape
    frames, taps = depth.output_size, depth.kernel_size
    reach = (frames - 1) * depth.stride + 1
    starts = range(0, taps * depth.kernel_dilation, depth.kernel_dilation)
    read = [_slice(x, 1, start, start + reach, depth.stride) for start in starts]
    per_tap = [a.reshape(n * frames, *plane, groups, 1, channels // groups) for a in read]
    x = mx.concatenate(per_tap, -2).reshape(n * frames, *plane, taps * channels)
    w = mx.moveaxis(w, 1, -2)
    w = w.reshape(*w.shape[:-2], taps * channels // groups)
    y = mx.conv_general(
        x, w, sub.stride[1:], (plane_lo, plane_hi), sub.kernel_dilation[1:], groups=groups
    )
    return y.reshape(n, frames, *y.shape[1:])


def _frames(y: mx.array, sub: SubConv, plan: ConvPlan) -> mx.array:
    """Brings phases next to their frames: `(N, M1, R1, M2, R2, ..., G, O / G)`."""
    if max(sub.n_phases) == 1:
        return y.reshape(plan.lone_phase_shape)
    n, *frames, _ = y.shape
    ndim = len(frames)
    y = y.reshape(n, *frames, plan.problem.groups, *sub.n_phases, -1)
    pairs = [i for a in range(ndim) for i in (1 + a, 2 + ndim + a)]
    return y.transpose(0, *pairs, 1 + ndim, 2 + 2 * ndim)


def _weave(outputs: list[mx.array], plan: ConvPlan) -> mx.array:
    """Joins the blocks of each axis, last axis first, interleaves the phases, and crops."""
    for i in reversed(range(len(plan.axes))):
        axis = plan.axes[i]
        runs = range(0, len(outputs), axis.n_blocks)
        outputs = [_join(outputs[k : k + axis.n_blocks], 2 + 2 * i, axis) for k in runs]
    spec = plan.problem
    y = outputs[0].reshape(spec.batch, *[a.computed_size for a in plan.axes], spec.out_channels)
    for i, (axis, size) in enumerate(zip(plan.axes, spec.output_sizes, strict=True)):
        y = _slice(y, 1 + i, axis.crop_lo, axis.crop_lo + size, 1)
    return y


def _join(blocks: Sequence[mx.array], axis: int, plan: AxisPlan) -> mx.array:
    """Concatenates along the phase axis, zeros where no phase reads any input."""
    pieces = []
    for piece in plan.pieces:
        if piece.block is None:
            shape = list(blocks[0].shape)
            shape[axis] = piece.stop - piece.start
            pieces.append(mx.zeros(shape, blocks[0].dtype))
        else:
            pieces.append(_slice(blocks[piece.block], axis, piece.start, piece.stop, 1))
    return mx.concatenate(pieces, axis) if len(pieces) > 1 else pieces[0]


def _pad(a: mx.array, axis: int, lo: int, hi: int) -> mx.array:
    """Pads one axis with zeros, or crops it where `lo` or `hi` is negative."""
    if lo < 0 or hi < 0:
        a = _slice(a, axis, max(-lo, 0), a.shape[axis] - max(-hi, 0), 1)
    if lo > 0 or hi > 0:
        widths = [(0, 0)] * a.ndim
        widths[axis] = (max(lo, 0), max(hi, 0))
        a = mx.pad(a, widths)
    return a


def _slice(a: mx.array, axis: int, start: int | None, stop: int | None, step: int) -> mx.array:
    size = a.shape[axis]
    if len(range(*slice(start, stop, step).indices(size))) == size and (step == 1 or size == 1):
        return a
    return a[(slice(None),) * axis + (slice(start, stop, step),)]


def _slice_of(taps: range, kernel_size: int, flip: bool) -> slice:
    """Taps of the kernel in correlation order, as a slice of the kernel as it is stored."""
    if not flip:
        return slice(taps.start, taps.stop, taps.step)
    first, last = kernel_size - 1 - taps[0], kernel_size - 1 - taps[-1]
    if first == last:  # MLX up to 0.32.3 cannot differentiate or map a reversed single item
        return slice(first, first + 1, 1)
    return slice(first, last - 1 if last else None, -taps.step)
