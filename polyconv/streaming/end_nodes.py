"""What depends on where a signal begins and ends: pieces of it, numbers beside it, frames."""

from __future__ import annotations

from collections.abc import Sequence

import mlx.core as mx

from polyconv.streaming.nodes import Chunk, EndError, Holding, Line, Node


class Early(Holding):
    """Samples `start` up to `stop` from the beginning, as one piece."""

    gives_piece = True

    def __init__(self, line: Line, start: int, stop: int) -> None:
        self._start, self._stop = start, stop
        super().__init__(line)

    def run(self, chunks: Sequence[Chunk], ended: bool) -> Chunk:
        self._held = self._line.join([self._held, chunks[0]])
        n = self._line.count(self._held)
        if not n and not ended:  # not even what a sample is like is known
            return None
        if n < self._stop:
            if ended:
                raise EndError(f"a signal must have at least {self._stop} samples here")
            return None
        piece = self._line.piece(self._held, self._start, self._stop)
        self._held = None
        return piece


class Late(Holding):
    """Samples `start` up to `stop`, counted back from the end, as one piece."""

    gives_piece = True

    def __init__(self, line: Line, start: int, stop: int) -> None:
        self._start, self._stop = start, stop
        super().__init__(line)

    def run(self, chunks: Sequence[Chunk], ended: bool) -> Chunk:
        x = self._line.join([self._held, chunks[0]])
        n = self._line.count(x)
        self._held = self._line.piece(x, n - self._start, n) if n > self._start else x
        if not ended:
            return None
        if n < self._start:
            raise EndError(f"a signal must have at least {self._start} samples here")
        return self._line.piece(self._held, 0, self._start - self._stop)


class Times(Holding):
    """A signal, and beside it numbers that are others at the beginning and at the end.

    Between these they are periodic. The samples of the end are known when the signal has ended.
    Of those that are done whole periods are forgotten.
    """

    counted = ("_done",)

    def __init__(self, line: Line, begin: mx.array, period: mx.array, end: mx.array) -> None:
        self._parts = (begin, period, end)
        self._sizes = tuple([line.count(each) for each in self._parts])
        super().__init__(line)

    def reset(self) -> None:
        super().reset()
        self._done = 0

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
        self._done = self._alike(self._done + known)
        return [line.cut(x, 0, known), line.join(numbers)]

    def _alike(self, done: int) -> int:
        """The smallest number of samples that are done behind which all is as it is here."""
        begin, period, end = self._sizes
        more = done - begin - end
        return done if more < 0 else begin + end + more % period


class OverlapAdded(Node):
    """Frames of `size` samples in axis 0, added up, each `hop` samples after the one before."""

    kept = ("_waiting", "_tail")

    def __init__(self, size: int, hop: int) -> None:
        self._size, self._hop, self._line = size, hop, Line(0)
        self.reset()

    def reset(self) -> None:
        self._waiting: Chunk = None
        self._tail: Chunk = None

    def run(self, chunks: Sequence[Chunk], ended: bool) -> Chunk:
        line, size, hop = self._line, self._size, self._hop
        x = line.join([self._waiting, chunks[0]])
        n = line.count(x) // size
        self._waiting = line.cut(x, n * size, line.count(x))
        y: Chunk = None
        if x is not None and n:
            total = self._added(x[: n * size].reshape(n, size, *x.shape[1:]))
            if self._tail is not None:
                widths = [(0, total.shape[0] - self._tail.shape[0]), *[(0, 0)] * (total.ndim - 1)]
                total = total + mx.pad(self._tail, widths)
            y = line.cut(total, 0, n * hop)
            self._tail = line.cut(total, n * hop, total.shape[0])
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
