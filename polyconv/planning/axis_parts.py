"""A part of an axis plan: which samples and frames belong together, and what is its plan?

Tiles are such parts. Standard library only.
"""

from __future__ import annotations

from dataclasses import replace

from polyconv.planning.axis_plan import AxisPlan
from polyconv.problem.phases import Phase


def samples_read(plan: AxisPlan, start: int, stop: int) -> tuple[int, int]:
    """From which sample up to which do frames `start` up to `stop` read?"""
    step, scale, before, behind = plan.reach
    first = max(0, _ceil_div(step * start - before, scale))
    return first, max(first, min(plan.axis.size, (step * (stop - 1) + behind) // scale + 1))


def frames_reading(plan: AxisPlan, start: int, stop: int) -> tuple[int, int]:
    """From which frame up to which are samples `start` up to `stop` read?"""
    step, scale, before, behind = plan.reach
    first = max(0, _ceil_div(scale * start - behind, step))
    last = (scale * (stop - 1) + before) // step
    return first, max(first, min(plan.n_frames, last + 1))


def part_of(plan: AxisPlan, frames: tuple[int, int], inputs: tuple[int, int]) -> AxisPlan:
    """These frames of the plan, as a plan for these samples of the input and no others.

    The first frame is f, the first sample a, so frame m' = m - f reads sample i' = i - a. In terms
    of `AxisPlan.reach` the padding before each phase becomes `before - step f + scale a`.
    """
    (first, behind), (a, b) = frames, inputs
    step, scale, *_ = plan.reach
    shift = scale * a - step * first
    crop = max(0, plan.crop_lo - plan.n_phases * first)
    start, stop = outputs_of(plan, frames)
    whole = plan.axis
    lo = whole.padding_lo - whole.stride * start + whole.input_dilation * a
    axis = replace(whole, size=b - a, padding_lo=lo)
    hi = whole.stride * (stop - start - 1) + whole.window - axis.dilated_size - lo
    phases = tuple([Phase(r, taps, before + shift) for r, taps, before in plan.phases])
    return replace(
        plan,
        axis=replace(axis, padding_hi=hi),
        phases=phases if a < b else (),
        n_frames=behind - first,
        crop_lo=crop,
    )


def outputs_of(plan: AxisPlan, frames: tuple[int, int]) -> tuple[int, int]:
    """From which output up to which do these frames lead? The end is not among them."""
    start, stop = [n * plan.n_phases - plan.crop_lo for n in frames]
    return max(0, start), min(plan.axis.output_size, stop)


def _ceil_div(a: int, b: int) -> int:
    return -(-a // b)
