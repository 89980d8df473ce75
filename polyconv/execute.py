"""Runs any plan as MLX ops.

Branches on the plan's data, never on a method's name; takes no decision and checks nothing.
Letters in shape comments: N batch, S input, M frames, R phases of a block, T taps, G groups,
O and C output and input channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import TypeAlias

import mlx.core as mx

from polyconv.axisplan import AxisPlan, Block
from polyconv.forms import AS_IT_STANDS
from polyconv.plan import ConvPlan, SubConv
from polyconv.spec import ConvSpec

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
    dtype = getattr(mx, plan.problem.dtype)
    if plan.is_zero:
        return mx.zeros(plan.problem.output_shape, dtype)
    x, w = x.astype(dtype), w.astype(dtype)  # once, and not in each convolution
    packed = pack(plan, w)
    inputs = _Inputs(x, plan.problem.groups)
    outputs = [
        _convolve(inputs, taps, sub, pad_explicitly)
        for taps, sub in zip(packed, plan.subconvs, strict=True)
    ]
    return assemble(plan, outputs)


def correlate(plan: ConvPlan, x: mx.array, y: mx.array) -> mx.array:
    """The gradient of a plan with respect to its weight.

    For each tap of each subconv one product of the samples that it reads, `(N * prod(M), C)`, with
    the cotangents of the phases, `(N * prod(M), R * O)`: nothing is unfolded. Weaving and packing
    are linear, so their transposes are their gradients.

    Args:
        plan (ConvPlan): A polyphase plan for the shapes of the convolution.
        x (array): The input, ``(N, *S, C)``.
        y (array): The cotangent of the output, ``plan.problem.output_shape``.

    Returns:
        array: Of the weight's shape, ``(O, *K, C / groups)``.
    """
    spec = plan.problem
    dtype = getattr(mx, spec.dtype)
    kernel = [axis.kernel_size for axis in spec.axes]
    zeros = mx.zeros((spec.out_channels, *kernel, spec.in_channels // spec.groups), dtype)
    if plan.is_zero:
        return zeros
    shapes = [sub.spec.output_shape for sub in plan.subconvs]
    outputs = [mx.zeros(shape, dtype) for shape in shapes]
    _, woven = mx.vjp(lambda *ys: assemble(plan, list(ys)), outputs, [y.astype(dtype)])
    inputs = _Inputs(x.astype(dtype), spec.groups)
    taps = [_correlate(inputs, dy, sub) for dy, sub in zip(woven, plan.subconvs, strict=True)]
    return mx.vjp(lambda w: pack(plan, w), [zeros], taps)[1][0]


def _correlate(inputs: _Inputs, y: mx.array, sub: SubConv) -> mx.array:
    """The gradient of the taps of one subconv: `(G * prod(R) * O / G, *T, C)`."""
    spec, groups = sub.spec, sub.spec.groups
    x = inputs.padded(*_padding(spec))
    y = y.reshape(-1, groups, spec.out_channels // groups).transpose(1, 2, 0)  # G, R * O, N * M
    taps = []
    for indices in product(*[range(axis.kernel_size) for axis in spec.axes]):
        read = x
        for i, (axis, tap) in enumerate(zip(spec.axes, indices, strict=True)):
            start = tap * axis.kernel_dilation
            stop = start + (axis.output_size - 1) * axis.stride + 1
            read = _slice(read, 1 + i, start, stop, axis.stride)
        read = read.reshape(-1, groups, spec.in_channels // groups).swapaxes(0, 1)  # G, N * M, C
        taps.append(y @ read)
    kernel = [axis.kernel_size for axis in spec.axes]
    return mx.stack(taps, 2).reshape(spec.out_channels, *kernel, -1)


def pack(plan: ConvPlan, w: mx.array) -> list[mx.array]:
    """Cuts `(O, *K, C)` into the taps of each subconv: `(G * prod(R) * O / G, *T, C)`."""
    if plan.is_native:
        return [w]
    return [_pack(w, sub, plan.problem.groups, plan.problem.flip) for sub in plan.subconvs]


def assemble(plan: ConvPlan, outputs: list[mx.array]) -> mx.array:
    """Weaves the outputs of the subconvs, `(N, *M, G * prod(R) * O / G)`, into that of the plan."""
    frames = [_frames(y, sub, plan) for y, sub in zip(outputs, plan.subconvs, strict=True)]
    return _weave(frames, plan)


class _Inputs:
    """The input of a plan, padded in each way that its subconvs ask for, once."""

    def __init__(self, x: mx.array, groups: int) -> None:
        self.x = x
        self._groups = groups
        self._padded: dict[object, mx.array] = {}

    def padded(self, lo: Sequence[int], hi: Sequence[int], extra_channels: int = 0) -> mx.array:
        key = (*lo, *hi, extra_channels)
        if key not in self._padded:
            x = _pad_channels(self.x, -1, self._groups, extra_channels)
            for i, (before, behind) in enumerate(zip(lo, hi, strict=True)):
                x = _pad(x, 1 + i, before, behind)
            self._padded[key] = x
        return self._padded[key]


def _pack(w: mx.array, sub: SubConv, groups: int, flip: bool) -> mx.array:
    if max(sub.n_phases) == 1:
        taps = [_slice_of(b.phases[0].taps, k, flip) for b, k in zip(sub.blocks, w.shape[1:])]
        return mx.contiguous(w[(slice(None), *taps)])
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


def _convolve(inputs: _Inputs, w: mx.array, sub: SubConv, pad_explicitly: bool) -> mx.array:
    """One convolution with packed weights, in its form: `(N, *M, G * prod(R) * O / G)`."""
    spec, issued, form = sub.spec, sub.issued, sub.issued.form
    padding: Padding | None = None  # what `issued` says
    if pad_explicitly and not spec.is_input_dilated:
        lo, hi = _padding(spec)
        x = inputs.padded(lo, hi, form.extra_in)
        padding = ((0,) * issued.spec.ndim, (0,) * issued.spec.ndim)
    elif form == AS_IT_STANDS:
        return mx.conv_general(inputs.x, w, *issued.options)
    else:
        lo, hi = (0,) * spec.ndim, form.pad_hi or (0,) * spec.ndim
        if form.lift == "frames":
            depth = spec.axes[0]
            lo, hi = (depth.padding_lo, *lo[1:]), (depth.padding_hi, *hi[1:])
        x = inputs.padded(lo, hi, form.extra_in)
    w = _pad_channels(_pad(w, w.ndim - 1, 0, form.extra_in), 0, spec.groups, form.extra_out)
    y = _LIFTS[form.lift](x, w, sub, padding)
    return _crop_channels(y, spec.groups, form.extra_out)


def _as_it_stands(x: mx.array, w: mx.array, sub: SubConv, padding: Padding | None) -> mx.array:
    return _conv_general(x, w, sub, padding)


def _as_plane(x: mx.array, w: mx.array, sub: SubConv, padding: Padding | None) -> mx.array:
    """1D as 2D: `(N, L, 1, C)` with `(O, K, 1, C)`."""
    return _conv_general(mx.expand_dims(x, -2), mx.expand_dims(w, -2), sub, padding).squeeze(-2)


def _as_frames(x: mx.array, w: mx.array, sub: SubConv, padding: Padding | None) -> mx.array:
    """3D as a sum of 2D ones, a tap in depth each, with the frames that it reads as the batch.

    In float32, so that halves are rounded once.
    """
    depth = sub.spec.axes[0]
    n, _, *size, channels = x.shape
    reach = (depth.output_size - 1) * depth.stride + 1
    total: mx.array | None = None
    dtype, x, w = x.dtype, x.astype(mx.float32), w.astype(mx.float32)
    for tap in range(depth.kernel_size):
        start = tap * depth.kernel_dilation
        frames = _slice(x, 1, start, start + reach, depth.stride).reshape(-1, *size, channels)
        taps = mx.contiguous(_slice(w, 1, tap, tap + 1, 1).squeeze(1))
        y = _conv_general(frames, taps, sub, padding)
        total = y if total is None else total + y
    assert total is not None
    return total.reshape(n, depth.output_size, *total.shape[1:]).astype(dtype)


_LIFTS = {"none": _as_it_stands, "plane": _as_plane, "frames": _as_frames}


def _conv_general(x: mx.array, w: mx.array, sub: SubConv, padding: Padding | None) -> mx.array:
    stride, own_padding, *others = sub.issued.options
    return mx.conv_general(x, w, stride, padding or own_padding, *others)


def _padding(spec: ConvSpec) -> Padding:
    axes = spec.axes
    return tuple([a.padding_lo for a in axes]), tuple([a.padding_hi for a in axes])


def _pad_channels(a: mx.array, axis: int, groups: int, extra: int) -> mx.array:
    """Adds channels of zeros to each group."""
    if not extra:
        return a
    a = mx.unflatten(a, axis, (groups, a.shape[axis] // groups))
    inside = 1 if axis == 0 else a.ndim - 1
    return _pad(a, inside, 0, extra).flatten(inside - 1, inside)


def _crop_channels(y: mx.array, groups: int, extra: int) -> mx.array:
    """Takes such channels off the last axis."""
    if not extra:
        return y
    y = mx.unflatten(y, -1, (groups, y.shape[-1] // groups))
    return _slice(y, y.ndim - 1, 0, y.shape[-1] - extra, 1).flatten(-2, -1)


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
