"""Into which undilated convolutions does one axis fall, and how are their outputs woven?

Standard library only.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import accumulate, pairwise
from operator import itemgetter
from typing import NamedTuple

from polyconv.planning.cached_property import cached_property
from polyconv.problem.phases import Phase, n_phases, phase_dilation, phase_stride, split
from polyconv.problem.spec import Axis

# A fold pads the kernel to so many times the taps that it holds, at most.
_MOST_PADDED = 16


@dataclass(frozen=True, slots=True)
class Rejection:
    """Why a method was not taken."""

    method: str
    reason: str


class Fold(NamedTuple):
    """A way to cut a kernel into the taps of a block by reshaping alone.

    Pad the kernel by `pad_lo` and `pad_hi` (crop it where negative) and reshape it to
    `(window, step)`: row u holds the u-th tap of each phase, the phases last to first.
    """

    pad_lo: int
    pad_hi: int
    step: int


class Piece(NamedTuple):
    """Phases `start` up to `stop` of a block; as many phases of zeros if `block` is None."""

    block: int | None
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class Block:
    """Phases of one axis that one convolution computes, as channels beside each other.

    `axis` is the convolution over the window that they share, of which `leads[i]` taps come before
    the first tap of `phases[i]`.
    """

    phases: tuple[Phase, ...]
    leads: tuple[int, ...]
    axis: Axis
    fold: Fold | None = None

    @property
    def cut(self) -> object:
        """What decides how a kernel is cut into these taps; a fold says it all, and is short."""
        phases = (self.phases, self.leads) if self.fold is None else len(self.phases)
        return (phases, self.fold, self.axis.kernel_size)


@dataclass(frozen=True)
class AxisPlan:
    """One axis as `n_frames` outputs of each of `n_phases` phases, interleaved.

    The first `crop_lo` of these outputs come before the axis' own first output and are dropped;
    the phases are counted from the first computed output. A phase that is not listed is zero.
    """

    axis: Axis
    phases: tuple[Phase, ...]
    n_phases: int
    n_frames: int
    crop_lo: int = 0
    stacked: bool = False
    grouped: bool = False
    native: bool = False

    @property
    def computed_size(self) -> int:
        return self.n_phases * self.n_frames

    @property
    def n_blocks(self) -> int:
        return len(self._stretches) if self.stacked or self.grouped else len(self.phases)

    @property
    def is_joined(self) -> bool:
        """Whether weaving must concatenate: several blocks, or phases that are zero."""
        return self.n_blocks > 1 or len(self.phases) < self.n_phases

    @cached_property
    def block_sizes(self) -> tuple[tuple[int, int], ...]:
        """`(phases, taps)` of each block, the zeros of a shared window among the taps."""
        if self.stacked and self.phases:
            return ((len(self.phases), _window(self.phases, phase_dilation(self.axis))[1]),)
        return tuple([(j - i, len(self.phases[i].taps)) for i, j in self._stretches])

    @cached_property
    def window_taps(self) -> int:
        """Input samples that all blocks together read for one frame."""
        return sum([taps for _, taps in self.block_sizes])

    @cached_property
    def block_taps(self) -> int:
        """Taps multiplied for one frame of all phases, the zeros of a shared window included."""
        return sum([phases * taps for phases, taps in self.block_sizes])

    @cached_property
    def _stretches(self) -> tuple[tuple[int, int], ...]:
        """`(start, stop)` of the phases of each block."""
        n = len(self.phases)
        if self.stacked or self.native:
            return ((0, n),) if n else ()
        if self.grouped:
            return tuple(_alike(self.phases))
        return tuple((i, i + 1) for i in range(n))

    @cached_property
    def blocks(self) -> tuple[Block, ...]:
        if self.native:
            return (Block(self.phases, (0,), self.axis),)
        return tuple(self._block(self.phases[i:j]) for i, j in self._stretches)

    @property
    def first_block(self) -> Block:
        """The first of `blocks`, without making the others."""
        one_by_one = not (self.stacked or self.grouped or self.native)
        return self._block(self.phases[:1]) if one_by_one else self.blocks[0]

    @property
    def largest_block(self) -> Block:
        """That of `blocks` with the most phases times taps, without making the others."""
        if self.native:
            return self.blocks[0]
        start, stop = max(
            self._stretches, key=lambda ends: (ends[1] - ends[0]) * len(self.phases[ends[0]].taps)
        )
        return self._block(self.phases[start:stop])

    @cached_property
    def is_kernel_padded(self) -> bool:
        """Whether a kernel must be padded or cropped, by a copy, before it is cut into blocks."""
        if not (self.stacked or self.grouped):
            return False
        return any(block.fold is not None and any(block.fold[:2]) for block in self.blocks)

    @cached_property
    def pieces(self) -> tuple[Piece, ...]:
        """What to concatenate, in this order, to have all phases."""
        pieces: list[Piece] = []
        end = 0
        for block, (first, last) in enumerate(self._stretches):
            residues = [phase.residue for phase in self.phases[first:last]]
            for start, stop in _runs(residues):
                if residues[start] > end:
                    pieces.append(Piece(None, 0, residues[start] - end))
                pieces.append(Piece(block, start, stop))
                end = residues[stop - 1] + 1
        if end < self.n_phases:
            pieces.append(Piece(None, 0, self.n_phases - end))
        return tuple(pieces)

    @cached_property
    def reach(self) -> tuple[int, int, int, int]:
        """`(step, scale, before, behind)`: what frame m reads, `step` and both ends in samples.

        They are samples i of the input with `step m - before <= scale i <= step m + behind`: of the
        input as it stands, so that `scale` is 1, or of the dilated one for MLX's own op.
        """
        if self.native:
            whole, lo = self.axis, self.axis.padding_lo
            return whole.stride, whole.input_dilation, lo, whole.window - 1 - lo
        dilation = phase_dilation(self.axis)
        before = max([lo for _, _, lo in self.phases], default=0)
        ends = [(len(taps) - 1) * dilation - lo for _, taps, lo in self.phases]
        return phase_stride(self.axis), 1, before, max(ends, default=-before - 1)

    def read_by(self, start: int, stop: int) -> tuple[int, int]:
        """The first of the samples that frames `start` up to `stop` read, and the one behind."""
        step, scale, before, behind = self.reach
        first = max(0, _ceil_div(step * start - before, scale))
        return first, max(first, min(self.axis.size, (step * (stop - 1) + behind) // scale + 1))

    def reading(self, start: int, stop: int) -> tuple[int, int]:
        """The first of the frames that read one of samples `start` up to `stop`, and the behind."""
        step, scale, before, behind = self.reach
        first = max(0, _ceil_div(scale * start - behind, step))
        last = (scale * (stop - 1) + before) // step
        return first, max(first, min(self.n_frames, last + 1))

    def part(self, frames: tuple[int, int], inputs: tuple[int, int]) -> AxisPlan:
        """These frames of the plan, as a plan for these samples of the input and no others.

        With frames from f and samples from a on, frame m' = m - f reads sample i' = i - a: in terms
        of `reach` its padding in front becomes `before - step f + scale a`, for each phase alike.
        """
        (first, behind), (a, b) = frames, inputs
        step, scale, *_ = self.reach
        shift = scale * a - step * first
        crop = max(0, self.crop_lo - self.n_phases * first)
        start, stop = self.outputs_of(frames)
        whole = self.axis
        lo = whole.padding_lo - whole.stride * start + whole.input_dilation * a
        axis = replace(whole, size=b - a, padding_lo=lo)
        hi = whole.stride * (stop - start - 1) + whole.window - axis.dilated_size - lo
        phases = tuple([Phase(r, taps, before + shift) for r, taps, before in self.phases])
        return replace(
            self,
            axis=replace(axis, padding_hi=hi),
            phases=phases if a < b else (),
            n_frames=behind - first,
            crop_lo=crop,
        )

    def outputs_of(self, frames: tuple[int, int]) -> tuple[int, int]:
        """The first output of these frames, and the one behind their last."""
        start, stop = [n * self.n_phases - self.crop_lo for n in frames]
        return max(0, start), min(self.axis.output_size, stop)

    def _block(self, phases: tuple[Phase, ...]) -> Block:
        stride, dilation = phase_stride(self.axis), phase_dilation(self.axis)
        padding_lo, taps = _window(phases, dilation)
        leads = tuple([(padding_lo - lo) // dilation for _, _, lo in phases])
        last = (self.n_frames - 1) * stride + (taps - 1) * dilation - padding_lo
        padding_hi = last + 1 - self.axis.size
        axis = Axis(self.axis.size, taps, stride, 1, dilation, padding_lo, padding_hi)
        fold = _fold(phases, leads, taps, self.axis) if len(phases) > 1 else None
        return Block(phases, leads, axis, fold)


def native_axis(axis: Axis) -> AxisPlan:
    """The axis as it stands, without the samples behind its last window.

    A stride may leave some; MLX's second-order gradients are wrong where it does.
    """
    if axis.input_dilation == 1:
        unread = (axis.size + axis.padding_lo + axis.padding_hi - axis.window) % axis.stride
        axis = replace(axis, padding_hi=axis.padding_hi - unread)
    whole = Phase(0, range(axis.kernel_size), axis.padding_lo)
    return AxisPlan(axis, (whole,), 1, axis.output_size, native=True)


def zero_axis(axis: Axis) -> AxisPlan:
    """The axis of a problem that has no product: all phases are zero."""
    return _from_origin(axis, (), crop_lo=0, stacked=False)


@lru_cache(64)
def per_phase_axis(axis: Axis) -> AxisPlan:
    """One convolution per phase, each with its own taps and no others."""
    return _from_origin(axis, split(axis), crop_lo=0, stacked=False)


@lru_cache(64)
def grouped_axis(axis: Axis) -> AxisPlan:
    """One convolution for each stretch of phases that read the same samples: no tap is zero."""
    return _from_origin(axis, split(axis), crop_lo=0, stacked=False, grouped=True)


@lru_cache(64)
def stacked_axis(axis: Axis) -> AxisPlan | Rejection:
    """One convolution for all phases, over the shortest window that holds the taps of each.

    Phases whose taps start earlier in the input lengthen the window for all. The origin, that is
    the output that phase 0 starts at, is free: computing `crop_lo` outputs more in front, to be
    dropped, turns the last phases into the first of the frame after. For K16 s8 p4 this brings
    the window from 3 taps to 2, at the cost of one frame.
    """
    phases = split(axis)
    longest = max((len(phase.taps) for phase in phases), default=0)
    if not phases or (phase_dilation(axis) == 1 and _window(phases, 1)[1] == longest):
        return _from_origin(axis, phases, crop_lo=0, stacked=True)
    best = min(_origins(axis, phases), default=None)
    if best is None:
        shared = phase_dilation(axis)
        reason = f"phases read inputs that differ modulo their kernel dilation of {shared}"
        return Rejection("stacked", f"{reason}, so no one dilated window holds them")
    return _from_origin(axis, phases, best[1], stacked=True)


def _origins(axis: Axis, phases: Sequence[Phase]) -> list[tuple[int, int]]:
    """`(taps computed, crop_lo)` for each rotation of the phases that one window can hold.

    With `crop_lo` outputs more in front, phase r becomes phase r + crop_lo; where that is P or
    more it becomes phase r + crop_lo - P one frame later, and so starts `stride` samples earlier
    in its frame. Among neighbours with the same span of taps, rotating some is never better than
    rotating none (same window or longer, and more outputs), so only the others are tried.
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
    """The rotations (first phase moved; 0 for none) whose phases agree modulo `dilation`."""
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
    n_frames = _ceil_div(axis.output_size + crop_lo, period)
    if crop_lo:
        phases = _rotated(phases, crop_lo, period, phase_stride(axis))
    # A lone frame need not be filled up with phases that nobody asked for.
    size = min(period, axis.output_size + crop_lo) if n_frames == 1 else period
    return AxisPlan(axis, phases, size, n_frames, crop_lo, stacked, grouped)


def _rotated(phases: Sequence[Phase], crop: int, period: int, stride: int) -> tuple[Phase, ...]:
    """Counts phases from `crop` outputs earlier; those that reach P go to the next frame."""
    kept = bisect_left(phases, period - crop, key=itemgetter(0))
    moved = [Phase(r + crop - period, taps, lo + stride) for r, taps, lo in phases[kept:]]
    return (*moved, *[Phase(r + crop, taps, lo) for r, taps, lo in phases[:kept]])


def _alike(phases: Sequence[Phase]) -> list[tuple[int, int]]:
    """`(start, stop)` of each stretch of neighbours with as many taps from the same sample on."""
    changes = [
        i
        for i in range(1, len(phases))
        if phases[i].residue != phases[i - 1].residue + 1
        or phases[i].padding_lo != phases[i - 1].padding_lo
        or len(phases[i].taps) != len(phases[i - 1].taps)
    ]
    return list(pairwise([0, *changes, len(phases)])) if phases else []


def _runs(indices: Sequence[int]) -> list[tuple[int, int]]:
    """`(start, stop)` of each stretch of `indices` that rises by one."""
    breaks = [i for i in range(1, len(indices)) if indices[i] != indices[i - 1] + 1]
    return list(pairwise([0, *breaks, len(indices)])) if indices else []


def _window(phases: Sequence[Phase], dilation: int) -> tuple[int, int]:
    """`padding_lo` and number of taps of the shortest window that holds all taps of `phases`."""
    padding_lo = max([lo for _, _, lo in phases])
    end = max([(len(taps) - 1) * dilation - lo for _, taps, lo in phases])
    return padding_lo, (padding_lo + end) // dilation + 1


def _fold(phases: Sequence[Phase], leads: Sequence[int], window: int, axis: Axis) -> Fold | None:
    """The fold that gives these phases their taps, if there is one.

    Tap u of the window is kernel index `start_i + step (u - lead_i)` for phase i. A fold is that
    with `start_i - step lead_i = first - i`: always so for a transposed convolution whose phases
    are not dilated, where output i + 1 meets the kernel one tap earlier than output i. Of few taps
    and a large stride it would be nearly all padding, as long as the stride.
    """
    step = phases[0].taps.step
    starts = [phase.taps.start - step * lead for phase, lead in zip(phases, leads, strict=True)]
    first = starts[0]
    if len(phases) > step or starts != list(range(first, first - len(phases), -1)):
        return None
    if step > _MOST_PADDED * len(phases):
        return None
    pad_lo = len(phases) - 1 - first
    return Fold(pad_lo, step * window - axis.kernel_size - pad_lo, step)


def _ceil_div(a: int, b: int) -> int:
    return -(-a // b)
