"""What is kept from chunk to chunk where a signal is not computed sample by sample.

A node takes what came of its inputs, and gives what is known with it. None stands for no samples,
and is what a node gives while nothing is known. With `ended` no more will come.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import mlx.core as mx

from polyconv.execution.packing import PackedWeight
from polyconv.ops.conv_transpose import conv_general
from polyconv.problem.spec import Axis
from polyconv.streaming.timeline import Piece, Timeline

Chunk: TypeAlias = "mx.array | None"


class EndError(Exception):
    """Why a signal cannot end where it does."""


class Line:
    """Samples along an axis of an array, of which `outer` lines lie one behind the other."""

    def __init__(self, at: int, outer: int = 1) -> None:
        self.at, self.outer = at, outer

    def count(self, chunk: Chunk) -> int:
        return 0 if chunk is None else chunk.shape[self.at] // self.outer

    def join(self, chunks: Sequence[Chunk]) -> Chunk:
        """One behind the other."""
        some = [each for each in chunks if self.count(each)]
        if len(some) < 2:
            return some[0] if some else None
        if self.outer == 1:
            return mx.concatenate(some, self.at)
        apart = [self._apart(each) for each in some]
        return mx.concatenate(apart, self.at + 1).flatten(self.at, self.at + 1)

    def cut(self, chunk: Chunk, start: int, stop: int, step: int = 1) -> Chunk:
        """Samples `start` up to `stop`."""
        n = self.count(chunk)
        start, stop = min(start, n), min(stop, n)
        if chunk is None or start >= stop:
            return None
        if (start, stop, step) == (0, n, 1):
            return chunk
        at = (slice(None),) * self.at
        if self.outer == 1:
            return chunk[(*at, slice(start, stop, step))]
        apart = self._apart(chunk)[(*at, slice(None), slice(start, stop, step))]
        return apart.flatten(self.at, self.at + 1)

    def _apart(self, chunk: mx.array) -> mx.array:
        return mx.unflatten(chunk, self.at, (self.outer, chunk.shape[self.at] // self.outer))


class Node:
    """Whether it `gives_piece`s, which stay known, or the samples of a signal."""

    gives_piece = False

    def reset(self) -> None: ...

    @property
    def held(self) -> list[mx.array]:
        return []

    def run(self, chunks: Sequence[Chunk], ended: bool) -> Chunk | list[Chunk]:
        raise AssertionError  # each kind has its own


class Convolution(Node):
    """A convolution along one of the spatial axes, `(N, *S, C)`, whose weight is packed once."""

    def __init__(
        self, axes: tuple[Axis, ...], time: int, weight: mx.array, groups: int, flip: bool
    ) -> None:
        along = axes[time]
        self._line, self._time = Line(1 + time), time
        self._timeline = Timeline(
            *(along.kernel_size, along.stride, along.input_dilation, along.kernel_dilation),
            *(along.padding_lo, along.padding_hi),
        )
        self._packed = PackedWeight(weight)
        self._stride = [axis.stride for axis in axes]
        self._padding = ([a.padding_lo for a in axes], [a.padding_hi for a in axes])
        self._kernel_dilation = [axis.kernel_dilation for axis in axes]
        self._input_dilation = [axis.input_dilation for axis in axes]
        self._groups, self._flip = groups, flip
        self.reset()

    def reset(self) -> None:
        self._tail: Chunk = None
        self._position = self._timeline.start

    @property
    def held(self) -> list[mx.array]:
        return [] if self._tail is None else [self._tail]

    def run(self, chunks: Sequence[Chunk], ended: bool) -> Chunk:
        (x,) = chunks
        if x is None and not ended:
            return None
        n, line = self._line.count(x), self._line
        samples = x if self._tail is None else line.join([self._tail, x])
        if samples is None:
            return None  # it ended before it began
        y = None
        if n:
            if self._tail is None:
                samples = self._begun(samples)
            piece = self._timeline.step(self._position, n)
            y = self._convolved(samples, piece)
            self._position = piece.position
            kept = self._timeline.history
            whole = line.count(samples)
            samples = self._tail = line.cut(samples, whole - kept, whole) if kept else None
        if ended:
            piece = self._timeline.flush(self._position)
            y = line.join([y, self._convolved(samples, piece)])
        return y

    def _begun(self, samples: mx.array) -> mx.array:
        widths = [(0, 0)] * samples.ndim
        widths[self._line.at] = (self._timeline.history, 0)
        return mx.pad(samples, widths) if self._timeline.history else samples

    def _convolved(self, samples: Chunk, piece: Piece) -> Chunk:
        if not piece.n_outputs:
            return None
        line, time = self._line, self._time
        read = line.cut(samples, piece.first, piece.first + piece.n_samples)
        assert read is not None
        missing = piece.n_samples - line.count(read)
        if missing:
            widths = [(0, 0)] * read.ndim
            widths[line.at] = (0, missing)
            read = mx.pad(read, widths)
        lo, hi = list(self._padding[0]), list(self._padding[1])
        lo[time], hi[time] = piece.padding_lo, piece.padding_hi
        y = conv_general(
            *(read, self._packed, self._stride, (lo, hi), self._kernel_dilation),
            *(self._input_dilation, self._groups, self._flip),
        )
        return line.cut(y, piece.skip, piece.skip + piece.n_outputs)


class Aligned(Node):
    """Keeps what came early of several signals until the others have come."""

    def __init__(self, lines: Sequence[Line]) -> None:
        self._lines = list(lines)
        self.reset()

    def reset(self) -> None:
        self._waiting: list[Chunk] = [None] * len(self._lines)

    @property
    def held(self) -> list[mx.array]:
        return [each for each in self._waiting if each is not None]

    def run(self, chunks: Sequence[Chunk], ended: bool) -> list[Chunk]:
        lines = self._lines
        held = [line.join(pair) for line, *pair in zip(lines, self._waiting, chunks, strict=True)]
        counts = [line.count(each) for line, each in zip(lines, held, strict=True)]
        n = min(counts)
        if ended and max(counts) > n:
            raise EndError(f"signals of unequal lengths meet: {max(counts) - n} samples left over")
        self._waiting = [
            line.cut(each, n, count) for line, each, count in zip(lines, held, counts, strict=True)
        ]
        return [line.cut(each, 0, n) for line, each in zip(lines, held, strict=True)]


class Cropped(Node):
    """Drops `lo` samples in front and `hi` behind, and of the others takes one in `step`."""

    def __init__(self, line: Line, lo: int, hi: int, step: int = 1) -> None:
        self._line, self._lo, self._hi, self._step = line, lo, hi, step
        self.reset()

    def reset(self) -> None:
        self._to_drop, self._to_skip = self._lo, 0
        self._held: Chunk = None

    @property
    def held(self) -> list[mx.array]:
        return [] if self._held is None else [self._held]

    def run(self, chunks: Sequence[Chunk], ended: bool) -> Chunk:
        line, (x,) = self._line, chunks
        n = line.count(x)
        dropped = min(self._to_drop, n)
        self._to_drop -= dropped
        x = line.join([self._held, line.cut(x, dropped, n)])
        n = line.count(x)
        known = max(0, n - self._hi)
        self._held = None if ended else line.cut(x, known, n)
        y = line.cut(x, 0, known)
        if self._step == 1:
            return y
        first = self._to_skip
        self._to_skip = (first - known) % self._step if known > first else first - known
        return line.cut(y, first, known, self._step)


class Grouped(Node):
    """Gives samples in groups of `n`, of which the next operation makes one."""

    def __init__(self, line: Line, n: int) -> None:
        self._line, self._n = line, n
        self.reset()

    def reset(self) -> None:
        self._held: Chunk = None

    @property
    def held(self) -> list[mx.array]:
        return [] if self._held is None else [self._held]

    def run(self, chunks: Sequence[Chunk], ended: bool) -> Chunk:
        x = self._line.join([self._held, chunks[0]])
        n = self._line.count(x)
        whole = n - n % self._n
        if ended and n > whole:
            raise EndError(f"a signal must be of a multiple of {self._n} samples here")
        self._held = self._line.cut(x, whole, n)
        return self._line.cut(x, 0, whole)


class Early(Node):
    """Samples `start` up to `stop` from the beginning, as one piece."""

    gives_piece = True

    def __init__(self, line: Line, start: int, stop: int) -> None:
        self._line, self._start, self._stop = line, start, stop
        self.reset()

    def reset(self) -> None:
        self._held: Chunk = None
        self._is_done = False

    @property
    def held(self) -> list[mx.array]:
        return [] if self._held is None else [self._held]

    def run(self, chunks: Sequence[Chunk], ended: bool) -> Chunk:
        if self._is_done:
            return None
        self._held = self._line.join([self._held, chunks[0]])
        n = self._line.count(self._held)
        if n < self._stop:
            if ended:
                raise EndError(f"a signal must have at least {self._stop} samples here")
            return None
        piece = self._line.cut(self._held, self._start, self._stop)
        self._held, self._is_done = None, True
        return piece


class Late(Node):
    """Samples `start` up to `stop`, counted back from the end, as one piece."""

    gives_piece = True

    def __init__(self, line: Line, start: int, stop: int) -> None:
        self._line, self._start, self._stop = line, start, stop
        self.reset()

    def reset(self) -> None:
        self._held: Chunk = None

    @property
    def held(self) -> list[mx.array]:
        return [] if self._held is None else [self._held]

    def run(self, chunks: Sequence[Chunk], ended: bool) -> Chunk:
        x = self._line.join([self._held, chunks[0]])
        n = self._line.count(x)
        self._held = self._line.cut(x, n - self._start, n) if n > self._start else x
        if not ended:
            return None
        if n < self._start:
            raise EndError(f"a signal must have at least {self._start} samples here")
        return self._line.cut(self._held, 0, self._start - self._stop)


class Times(Node):
    """A signal, and beside it numbers that are others at the beginning and at the end.

    Between these they are periodic. The samples of the end are known when the signal has ended.
    """

    def __init__(self, line: Line, begin: mx.array, period: mx.array, end: mx.array) -> None:
        self._line, self._parts = line, (begin, period, end)
        self._sizes = tuple([line.count(each) for each in self._parts])
        self.reset()

    def reset(self) -> None:
        self._held: Chunk = None
        self._done = 0

    @property
    def held(self) -> list[mx.array]:
        return [] if self._held is None else [self._held]

    def run(self, chunks: Sequence[Chunk], ended: bool) -> list[Chunk]:
        line, (begin, period, end) = self._line, self._sizes
        x = line.join([self._held, chunks[0]])
        n = line.count(x)
        total, known = self._done + n, n if ended else max(0, n - end)
        if ended and (total < begin + end or (total - begin - end) % period):
            raise EndError(f"a signal must end after a multiple of {period} samples here")
        numbers = [line.cut(self._parts[0], self._done, min(begin, self._done + known))]
        between = known - line.count(numbers[0]) - (min(end, known) if ended else 0)
        if between > 0:
            first = max(0, self._done - begin) % period
            whole = line.join([self._parts[1]] * -(-(first + between) // period))
            numbers.append(line.cut(whole, first, first + between))
        if ended:
            numbers.append(line.cut(self._parts[2], max(0, end - known), end))
        self._held = line.cut(x, known, n)
        self._done += known
        return [line.cut(x, 0, known), line.join(numbers)]


class OverlapAdded(Node):
    """Frames of `size` samples in axis 0, added up, each `hop` samples after the one before."""

    def __init__(self, size: int, hop: int) -> None:
        self._size, self._hop, self._line = size, hop, Line(0)
        self.reset()

    def reset(self) -> None:
        self._waiting: Chunk = None
        self._tail: Chunk = None

    @property
    def held(self) -> list[mx.array]:
        return [each for each in (self._waiting, self._tail) if each is not None]

    def run(self, chunks: Sequence[Chunk], ended: bool) -> Chunk:
        line, size, hop = self._line, self._size, self._hop
        x = line.join([self._waiting, chunks[0]])
        n = line.count(x) // size
        self._waiting = line.cut(x, n * size, line.count(x))
        y: Chunk = None
        if x is not None and n:
            y = self._added(x[: n * size].reshape(n, size, *x.shape[1:]))
            if self._tail is not None:
                behind = [(0, y.shape[0] - self._tail.shape[0]), *[(0, 0)] * (y.ndim - 1)]
                y = y + mx.pad(self._tail, behind)
            y, self._tail = line.cut(y, 0, n * hop), line.cut(y, n * hop, y.shape[0])
        if ended:
            y, self._tail = line.join([y, self._tail]), None
        return y

    def _added(self, frames: mx.array) -> mx.array:
        """Of n frames `(n - 1) hop + size` samples."""
        n, size, hop = frames.shape[0], self._size, self._hop
        parts = -(-size // hop)
        beside = [(0, 0)] * (frames.ndim - 2)
        frames = mx.pad(frames, [(0, 0), (0, parts * hop - size), *beside])
        frames = frames.reshape(n, parts, hop, *frames.shape[2:])
        shifted = [
            mx.pad(frames[:, j], [(j, parts - 1 - j), (0, 0), *beside]) for j in range(parts)
        ]
        total = sum(shifted[1:], shifted[0])
        return total.flatten(0, 1)[: (n - 1) * hop + size]


class Waiting(Node):
    """Keeps a signal until all pieces that it meets are known. The signal is the first input."""

    def __init__(self, line: Line) -> None:
        self._line = line
        self.reset()

    def reset(self) -> None:
        self._held: Chunk = None

    @property
    def held(self) -> list[mx.array]:
        return [] if self._held is None else [self._held]

    def run(self, chunks: Sequence[Chunk], ended: bool) -> Chunk:
        x = self._line.join([self._held, chunks[0]])
        is_known = all(piece is not None for piece in chunks[1:])
        self._held = None if is_known else x
        return x if is_known else None


class Joined(Node):
    """Pieces of known lengths in front of a signal and behind it.

    The inputs are the pieces in front, of which there are `n_front`, the signal, and the pieces
    behind. A piece that is known once is given each time.
    """

    def __init__(self, line: Line, n_front: int) -> None:
        self._line, self._n_front = line, n_front
        self.reset()

    def reset(self) -> None:
        self._held: Chunk = None
        self._has_begun = False

    @property
    def held(self) -> list[mx.array]:
        return [] if self._held is None else [self._held]

    def run(self, chunks: Sequence[Chunk], ended: bool) -> Chunk:
        front, (x, *behind) = chunks[: self._n_front], chunks[self._n_front :]
        before: list[Chunk] = []
        if not self._has_begun:
            x = self._line.join([self._held, x])
            is_known = all(piece is not None for piece in front)
            if not is_known or (x is None and not ended):
                self._held = x
                return None
            self._has_begun, self._held = True, None
            before = list(front)
        return self._line.join([*before, x, *(behind if ended else [])])
