"""Into which undilated convolutions does one axis fall, and how are their outputs woven?

Standard library only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

from polyconv.planning.cached_property import cached_property
from polyconv.problem.phases import Phase, phase_dilation, phase_stride
from polyconv.problem.spec import Axis

# A fold pads the kernel to at most this many times the taps that it holds.
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
    """Phases `start` up to `stop` of a block. Without a block they are phases of zeros."""

    block: int | None
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class Block:
    """Phases of one axis that one convolution computes, as channels beside each other.

    The phases share a window, and `axis` is the convolution over it. `leads[i]` taps of the window
    come before the first tap of `phases[i]`.
    """

    phases: tuple[Phase, ...]
    leads: tuple[int, ...]
    axis: Axis
    fold: Fold | None = None

    @property
    def cut(self) -> object:
        """Blocks of which this is equal cut a kernel alike. A fold says it all, and is short."""
        phases = (self.phases, self.leads) if self.fold is None else len(self.phases)
        return (phases, self.fold, self.axis.kernel_size)


@dataclass(frozen=True)
class AxisPlan:
    """One axis as `n_frames` outputs of each of `n_phases` phases, interleaved.

    The first `crop_lo` of these outputs come before the axis' own first output and are dropped.
    Phases are counted from the first computed output. A phase that is not listed is zero. With
    `stacked` all phases share a block, with `grouped` those that read the same samples. With
    `native` the axis is MLX's own op's. Otherwise each phase has a block of its own.
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
        """Whether weaving must concatenate, as there are several blocks or phases of zeros."""
        return self.n_blocks > 1 or len(self.phases) < self.n_phases

    @cached_property
    def block_sizes(self) -> tuple[tuple[int, int], ...]:
        """`(phases, taps)` of each block. The zeros of a shared window count as taps."""
        if self.stacked and self.phases:
            return ((len(self.phases), shortest_window(self.phases, phase_dilation(self.axis))[1]),)
        return tuple([(j - i, len(self.phases[i].taps)) for i, j in self._stretches])

    @cached_property
    def window_taps(self) -> int:
        """Input samples that all blocks together read for one frame."""
        return sum([taps for _, taps in self.block_sizes])

    @cached_property
    def block_taps(self) -> int:
        """Taps multiplied for one frame of all phases. Zeros of a shared window are among them."""
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

    @cached_property
    def kinds(self) -> tuple[tuple[Block, int], ...]:
        """A block of each number of phases and taps, and how many `blocks` have these."""
        first: dict[tuple[int, int], int] = {}
        sizes = self.block_sizes
        for i, size in enumerate(sizes):
            first.setdefault(size, i)
        if self.native:
            return ((self.blocks[0], 1),)
        stretches = self._stretches
        return tuple(
            [
                (self._block(self.phases[slice(*stretches[i])]), sizes.count(size))
                for size, i in first.items()
            ]
        )

    @property
    def first_block(self) -> Block:
        """The first of `blocks`, without making the others."""
        one_by_one = not (self.stacked or self.grouped or self.native)
        return self._block(self.phases[:1]) if one_by_one else self.blocks[0]

    @property
    def largest_block(self) -> Block:
        """The one of `blocks` with the most phases times taps, without making the others."""
        if self.native:
            return self.blocks[0]
        start, stop = max(
            self._stretches, key=lambda ends: (ends[1] - ends[0]) * len(self.phases[ends[0]].taps)
        )
        return self._block(self.phases[start:stop])

    @cached_property
    def is_kernel_padded(self) -> bool:
        """Whether a copy must pad or crop a kernel before it is cut into blocks."""
        if not (self.stacked or self.grouped):
            return False
        return any(block.fold is not None and any(block.fold[:2]) for block in self.blocks)

    @cached_property
    def pieces(self) -> tuple[Piece, ...]:
        """What is concatenated, in this order, to give all phases."""
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
        """`(step, scale, before, behind)`, which say what frame m reads.

        It reads the samples i of the input with `step m - before <= scale i <= step m + behind`.
        `scale` is 1, but for MLX's own op the input dilation: there all else counts samples of the
        dilated input.
        """
        if self.native:
            whole, lo = self.axis, self.axis.padding_lo
            return whole.stride, whole.input_dilation, lo, whole.window - 1 - lo
        dilation = phase_dilation(self.axis)
        before = max([lo for _, _, lo in self.phases], default=0)
        ends = [(len(taps) - 1) * dilation - lo for _, taps, lo in self.phases]
        return phase_stride(self.axis), 1, before, max(ends, default=-before - 1)

    def _block(self, phases: tuple[Phase, ...]) -> Block:
        stride, dilation = phase_stride(self.axis), phase_dilation(self.axis)
        padding_lo, taps = shortest_window(phases, dilation)
        leads = tuple([(padding_lo - lo) // dilation for _, _, lo in phases])
        last = (self.n_frames - 1) * stride + (taps - 1) * dilation - padding_lo
        padding_hi = last + 1 - self.axis.size
        axis = Axis(self.axis.size, taps, stride, 1, dilation, padding_lo, padding_hi)
        fold = _fold(phases, leads, taps, self.axis) if len(phases) > 1 else None
        return Block(phases, leads, axis, fold)


def _alike(phases: Sequence[Phase]) -> list[tuple[int, int]]:
    """`(start, stop)` of each stretch of neighbouring phases that read the same samples.

    Their taps are equally many and start at the same sample.
    """
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


def shortest_window(phases: Sequence[Phase], dilation: int) -> tuple[int, int]:
    """`padding_lo` and taps of the shortest window that holds all taps of `phases`."""
    padding_lo = max([lo for _, _, lo in phases])
    end = max([(len(taps) - 1) * dilation - lo for _, taps, lo in phases])
    return padding_lo, (padding_lo + end) // dilation + 1


def _fold(phases: Sequence[Phase], leads: Sequence[int], window: int, axis: Axis) -> Fold | None:
    """The fold that gives these phases their taps, if there is one.

    Tap u of the window is kernel index `start_i + step (u - lead_i)` for phase i. There is a fold
    if `start_i - step lead_i = first - i`. This holds for every transposed convolution whose phases
    are not dilated: output i + 1 meets the kernel one tap earlier than output i. With few taps and
    a large stride a fold would be nearly all padding, as it is as long as the stride, and is not
    taken.
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
