"""How do the outputs of subconvs become the output of a plan?

Letters in shape comments: N batch, M frames, R phases of a block, G groups, O output channels.
"""

from __future__ import annotations

from collections.abc import Sequence

import mlx.core as mx

from polyconv.execution.arrays import cut
from polyconv.planning.axis_plan import AxisPlan
from polyconv.planning.plan import ConvPlan, SubConv

# From so many contiguous numbers on, MLX's CPU multiplies a transposed array by ones faster than it
# copies it: its binary operations are vectorised on strided inputs, its copies are not.
_RUN = 64


def assemble(plan: ConvPlan, outputs: list[mx.array], linear: bool = False) -> mx.array:
    """Weaves the outputs of the subconvs, `(N, *M, G * prod(R) * O / G)`, into that of the plan.

    With `linear` by moving numbers alone, so that its transpose does no more either.
    """
    if plan.is_native:
        return outputs[0]
    if plan.is_in_order:
        y, (axis,) = outputs[0], plan.axes
        y = y.reshape(y.shape[0], -1, plan.problem.out_channels)
        return cut(y, 1, axis.crop_lo, axis.crop_lo + plan.problem.output_sizes[0], 1)
    frames = [frames_of(y, sub, plan, linear) for y, sub in zip(outputs, plan.subconvs)]
    return weave(frames, plan)


def frames_of(y: mx.array, sub: SubConv, plan: ConvPlan, linear: bool = False) -> mx.array:
    """Brings phases next to their frames: `(N, M1, R1, M2, R2, ..., G, O / G)`."""
    n, *frames, channels = y.shape
    ndim, groups = len(frames), plan.problem.groups
    if max(sub.n_phases) == 1:
        pairs = [size for m in frames for size in (m, 1)]
        return y.reshape(n, *pairs, groups, channels // groups)
    y = y.reshape(n, *frames, groups, *sub.n_phases, -1)
    pairs = [i for a in range(ndim) for i in (1 + a, 2 + ndim + a)]
    y = y.transpose(0, *pairs, 1 + ndim, 2 + 2 * ndim)
    moved = ndim > 1 and max(sub.n_phases[:-1]) > 1
    if moved and not linear and plan.device.name == "cpu" and y.shape[-1] * y.shape[-3] >= _RUN:
        return y * mx.ones(y.shape[-3:], y.dtype)
    return y


def weave(outputs: list[mx.array], plan: ConvPlan) -> mx.array:
    """Joins the blocks of each axis, last axis first, interleaves the phases, and crops.

    Each of `outputs` is `(N, M1, R1, M2, R2, ..., G, O / G)`; more frames than planned are cropped.
    """
    for i in reversed(range(len(plan.axes))):
        axis = plan.axes[i]
        runs = range(0, len(outputs), axis.n_blocks)
        outputs = [_join(outputs[k : k + axis.n_blocks], 2 + 2 * i, axis) for k in runs]
    spec = plan.problem
    n, *frames, _, _ = outputs[0].shape
    sizes = [m * r for m, r in zip(frames[::2], frames[1::2], strict=True)]
    y = outputs[0].reshape(n, *sizes, spec.out_channels)
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
