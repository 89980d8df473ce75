"""How is one axis computed by each method?

A method that treats all axes alike has one function here. Standard library only.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from itertools import accumulate
from operator import itemgetter

from polyconv.planning.axis_plan import AxisPlan, Rejection, shortest_window
from polyconv.problem.phases import Phase, n_phases, phase_dilation, phase_stride, split
from polyconv.problem.spec import Axis


def native_axis(axis: Axis) -> AxisPlan:
    """The axis as it stands, without the samples behind its last window.

    A stride may leave such samples. MLX's second-order gradients are wrong where it does.
    """
    if axis.input_dilation == 1:
        unread = (axis.size + axis.padding_lo + axis.padding_hi - axis.window) % axis.stride
        axis = replace(axis, padding_hi=axis.padding_hi - unread)
    whole = Phase(0, range(axis.kernel_size), axis.padding_lo)
    return AxisPlan(axis, (whole,), 1, axis.output_size, native=True)


def zero_axis(axis: Axis) -> AxisPlan:
    """The axis of a problem without any product. All its phases are zero."""
    return _from_origin(axis, (), crop_lo=0, stacked=False)


@lru_cache(64)
def per_phase_axis(axis: Axis) -> AxisPlan:
    """One convolution per phase, each with its own taps and no others."""
    return _from_origin(axis, split(axis), crop_lo=0, stacked=False)


@lru_cache(64)
def grouped_axis(axis: Axis) -> AxisPlan:
    """One convolution for each stretch of phases that read the same samples. No tap is zero."""
    return _from_origin(axis, split(axis), crop_lo=0, stacked=False, grouped=True)


@lru_cache(64)
def stacked_axis(axis: Axis) -> AxisPlan | Rejection:
    """One convolution for all phases, over the shortest window that holds the taps of each.

    Phases whose taps start earlier in the input lengthen the window for all. But phase 0 may start
    at any output: with `crop_lo` more outputs in front, which are dropped, the last phases become
    the first of the next frame. For K16 s8 p4 this shortens the window from 3 taps to 2, and
    computes one frame more.
    """
    phases = split(axis)
    longest = max((len(phase.taps) for phase in phases), default=0)
    if not phases or (phase_dilation(axis) == 1 and shortest_window(phases, 1)[1] == longest):
        return _from_origin(axis, phases, crop_lo=0, stacked=True)
    best = min(_origins(axis, phases), default=None)
    if best is None:
        shared = phase_dilation(axis)
        reason = f"phases read inputs that differ modulo their kernel dilation of {shared}"
        return Rejection("stacked", f"{reason}, so no one dilated window holds them")
    return _from_origin(axis, phases, best[1], stacked=True)


def _origins(axis: Axis, phases: Sequence[Phase]) -> list[tuple[int, int]]:
    """`(taps computed, crop_lo)` for each rotation of the phases that one window can hold.

    With `crop_lo` outputs more in front, phase r becomes phase r + crop_lo. Where that is P or more
    it becomes phase r + crop_lo - P of the next frame, and so starts `stride` samples earlier in
    its frame. Of neighbours with the same span of taps either all are moved or none: to move some
    of them gives no shorter window, and more outputs.
    """
    stride, dilation, period = phase_stride(axis), phase_dilation(axis), n_phases(axis)
    spans = [(lo, (len(taps) - 1) * dilation - lo) for _, taps, lo in phases]
    firsts = [0, *[i for i in range(1, len(spans)) if spans[i] != spans[i - 1]]]
    los, ends = zip(*[spans[i] for i in firsts], strict=True)
    los_before, ends_before = list(accumulate(los, max)), list(accumulate(ends, max))
    los_after = list(accumulate(los[::-1], max))[::-1]
    ends_after = list(accumulate(ends[::-1], max))[::-1]
    rotations = [(0, los_before[-1], ends_before[-1])]
    for i in range(1, len(firsts)):
        lo = max(los_before[i - 1], los_after[i] + stride)
        end = max(ends_before[i - 1], ends_after[i] - stride)
        rotations.append((period - phases[firsts[i]].residue, lo, end))
    if dilation > 1:
        rotations = [rotations[i] for i in _alignable(los, stride, dilation)]
    size = axis.output_size
    return [
        (((lo + end) // dilation + 1) * -(-(size + crop) // period), crop)
        for crop, lo, end in rotations
    ]


def _alignable(los: Sequence[int], stride: int, dilation: int) -> list[int]:
    """The rotations whose phases agree modulo `dilation`.

    A rotation is the index of the first phase that it moves, or 0 if it moves none.
    """
    residues = [lo % dilation for lo in los]
    changes = [i for i in range(1, len(los)) if residues[i] != residues[i - 1]]
    if not changes:
        return list(range(len(los))) if stride % dilation == 0 else [0]
    moved = (residues[-1] + stride) % dilation
    return changes if len(changes) == 1 and residues[0] == moved else []


def _from_origin(
    axis: Axis, phases: tuple[Phase, ...], crop_lo: int, stacked: bool, grouped: bool = False
) -> AxisPlan:
    period = n_phases(axis)
    n_frames = -(-(axis.output_size + crop_lo) // period)
    if crop_lo:
        phases = _rotated(phases, crop_lo, period, phase_stride(axis))
    # A lone frame is not filled up with phases that nobody asked for.
    size = min(period, axis.output_size + crop_lo) if n_frames == 1 else period
    return AxisPlan(axis, phases, size, n_frames, crop_lo, stacked, grouped)


def _rotated(phases: Sequence[Phase], crop: int, period: int, stride: int) -> tuple[Phase, ...]:
    """Counts phases from `crop` outputs earlier. Those that reach P go to the next frame."""
    kept = bisect_left(phases, period - crop, key=itemgetter(0))
    moved = [Phase(r + crop - period, taps, lo + stride) for r, taps, lo in phases[kept:]]
    return (*moved, *[Phase(r + crop, taps, lo) for r, taps, lo in phases[:kept]])
