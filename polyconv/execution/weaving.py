"""How do the outputs of subconvs become the output of a plan?

Letters in shape comments: N batch, M frames, R phases of a block, G groups, O output channels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import mlx.core as mx

from polyconv.execution.recipe import Recipe, Shape, Step
from polyconv.planning.axis_plan import AxisPlan
from polyconv.planning.plan import ConvPlan, SubConv

Weave: TypeAlias = "Callable[[Sequence[mx.array]], mx.array]"

# From so many contiguous numbers on, MLX's CPU multiplies a transposed array by ones faster than it
# copies it. Its binary operations are vectorised on strided inputs, its copies are not.
_RUN = 64


def assembly(plan: ConvPlan, linear: bool = False) -> Weave:
    """Weaves the outputs of the subconvs, `(N, *M, G * prod(R) * O / G)`, into that of the plan.

    With `linear` it only moves numbers. Then its transpose only moves numbers, too.
    """
    if plan.is_native:
        return lambda outputs: outputs[0]
    frames = [to_frames(Recipe(s.spec.output_shape), s, plan, linear) for s in plan.subconvs]
    return weave(plan, frames)


def to_frames(recipe: Recipe, sub: SubConv, plan: ConvPlan, linear: bool = False) -> Recipe:
    """Brings phases next to their frames: `(N, M1, R1, M2, R2, ..., G, O / G)`."""
    n, *frames, _ = recipe.shape
    ndim, groups = len(frames), plan.problem.groups
    recipe.reshape(n, *frames, groups, *sub.n_phases, -1)
    pairs = [i for a in range(ndim) for i in (1 + a, 2 + ndim + a)]
    recipe.transpose(0, *pairs, 1 + ndim, 2 + 2 * ndim)
    moved = ndim > 1 and max(sub.n_phases[:-1]) > 1
    run = recipe.shape[-3:]
    is_slow = plan.device.backend.copies_transposed_slowly
    if moved and not linear and is_slow and run[0] * run[2] >= _RUN:
        recipe.then(lambda y: y * mx.ones(run, y.dtype))
    return recipe


def weave(plan: ConvPlan, frames: list[Recipe]) -> Weave:
    """Joins the blocks of each axis, last axis first, interleaves the phases, and crops.

    Each recipe in `frames` leads to `(N, M1, R1, M2, R2, ..., G, O / G)`. More frames than planned
    are cropped.
    """
    if not any(axis.is_joined for axis in plan.axes):
        whole = _interleaved(frames[0], plan).made()
        return lambda outputs: whole(outputs[0])
    starts = [each.made() for each in frames]
    shapes = [each.shape for each in frames]
    levels = []
    for i in reversed(range(len(plan.axes))):
        n, at = plan.axes[i].n_blocks, 2 + 2 * i
        runs = [shapes[k : k + n] for k in range(0, len(shapes), n)]
        levels.append((n, [_join(plan.axes[i], at, run) for run in runs]))
        shapes = [(*run[0][:at], plan.axes[i].n_phases, *run[0][at + 1 :]) for run in runs]
    end = _interleaved(Recipe(shapes[0]), plan).made()

    def woven(outputs: Sequence[mx.array]) -> mx.array:
        pieces = [start(y) for start, y in zip(starts, outputs, strict=True)]
        for n, joins in levels:
            pieces = [join(pieces[k * n : k * n + n]) for k, join in enumerate(joins)]
        return end(pieces[0])

    return woven


def _interleaved(recipe: Recipe, plan: ConvPlan) -> Recipe:
    """Interleaves the phases of each axis with its frames, and crops to the output."""
    n, *frames, _, _ = recipe.shape
    sizes = [m * r for m, r in zip(frames[::2], frames[1::2], strict=True)]
    recipe.reshape(n, *sizes, plan.problem.out_channels)
    for i, (axis, size) in enumerate(zip(plan.axes, plan.problem.output_sizes, strict=True)):
        recipe.cut(1 + i, axis.crop_lo, axis.crop_lo + size)
    return recipe


def _join(plan: AxisPlan, at: int, shapes: Sequence[Shape]) -> Weave:
    """Concatenates blocks of these shapes along the phase axis `at`.

    Zeros stand where no phase reads any input.
    """
    if not plan.is_joined:
        return lambda blocks: blocks[0]
    pieces: list[Weave] = []
    for block, start, stop in plan.pieces:
        if block is None:
            pieces.append(_zeros((*shapes[0][:at], stop - start, *shapes[0][at + 1 :])))
        else:
            pieces.append(_part(block, Recipe(shapes[block]).cut(at, start, stop).made()))
    if len(pieces) == 1:
        return pieces[0]
    return lambda blocks: mx.concatenate([piece(blocks) for piece in pieces], at)


def _part(block: int, step: Step) -> Weave:
    return lambda blocks: step(blocks[block])


def _zeros(shape: Shape) -> Weave:
    return lambda blocks: mx.broadcast_to(mx.array(0, blocks[0].dtype), shape)
