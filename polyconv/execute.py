"""Runs any plan as MLX ops.

Branches on the plan's data, never on a method's name; takes no decision and checks nothing.
Letters in shape comments: N batch, S input, M frames, R phases of a block, G groups, O and C output
and input channels.
"""

from __future__ import annotations

from collections.abc import Sequence

import mlx.core as mx

from polyconv.axisplan import AxisPlan
from polyconv.convolve import convolve
from polyconv.packing import pack
from polyconv.plan import ConvPlan, SubConv
from polyconv.slicing import Inputs, cut


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
    inputs = Inputs(x, plan.problem.groups)
    outputs = [
        convolve(inputs, taps, sub, pad_explicitly)
        for taps, sub in zip(packed, plan.subconvs, strict=True)
    ]
    return assemble(plan, outputs)


def assemble(plan: ConvPlan, outputs: list[mx.array]) -> mx.array:
    """Weaves the outputs of the subconvs, `(N, *M, G * prod(R) * O / G)`, into that of the plan."""
    frames = [_frames(y, sub, plan) for y, sub in zip(outputs, plan.subconvs, strict=True)]
    return _weave(frames, plan)


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
        y = cut(y, 1 + i, axis.crop_lo, axis.crop_lo + size, 1)
    return y


def _join(blocks: Sequence[mx.array], axis: int, plan: AxisPlan) -> mx.array:
    """Concatenates along the phase axis, zeros where no phase reads any input."""
    pieces = []
    for piece in plan.pieces:
        if piece.block is None:
            shape = list(blocks[0].shape)
            shape[axis] = piece.stop - piece.start
            pieces.append(mx.broadcast_to(mx.array(0, blocks[0].dtype), shape))
        else:
            pieces.append(cut(blocks[piece.block], axis, piece.start, piece.stop, 1))
    return mx.concatenate(pieces, axis) if len(pieces) > 1 else pieces[0]
