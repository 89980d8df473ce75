"""What is kept from chunk to chunk where a signal is not computed sample by sample.

A node takes what came of its inputs, and gives what is known with it. None stands for no samples,
and is what a node gives while nothing is known. With `ended` no more will come.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, TypeAlias

import mlx.core as mx

from polyconv.execution.arrays import cut

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
        if self.outer > 1:
            taken = cut(self._apart(chunk), self.at + 1, start, stop, step)
            return taken.flatten(self.at, self.at + 1)
        return cut(chunk, self.at, start, stop, step)

    def piece(self, chunk: Chunk, start: int, stop: int) -> Chunk:
        """As `cut`, but no samples are an array without any, for a piece that is known."""
        if chunk is None or start < stop:
            return self.cut(chunk, start, stop)
        return cut(chunk, self.at, 0, 0, 1)

    def _apart(self, chunk: mx.array) -> mx.array:
        return mx.unflatten(chunk, self.at, (self.outer, chunk.shape[self.at] // self.outer))


class Node:
    """Whether it `gives_piece`s, which stay known, or the samples of a signal.

    It remembers the samples in the attributes named by `kept`, and the numbers in those named by
    `counted`. What of it would come next depends on the samples' shapes and these numbers alone.
    """

    gives_piece = False
    kept: ClassVar[tuple[str, ...]] = ()
    counted: ClassVar[tuple[str, ...]] = ()

    def reset(self) -> None: ...

    @property
    def _chunks(self) -> list[Chunk]:
        values = [getattr(self, name) for name in self.kept]
        return [each for value in values for each in _several(value)]

    @property
    def held(self) -> list[mx.array]:
        return [each for each in self._chunks if each is not None]

    @property
    def moment(self) -> tuple[Any, ...]:
        """Alike in nodes that give as many samples for all that may come."""
        shapes = [None if each is None else each.shape for each in self._chunks]
        return (*[getattr(self, name) for name in self.counted], *shapes)

    def input_of(self, k: int) -> int:
        """Of which input the samples are that it keeps in place `k`, and gives as output `k`."""
        return 0

    @property
    def places(self) -> range:
        """Of the samples that it keeps, one if it is not known yet how many."""
        return range(len(self._chunks) or 1)

    def take(self, other: Node, choose: Callable[[int, mx.array, mx.array], mx.array]) -> None:
        """Keeps what `choose` makes of input, samples of the other at the same moment, and own."""
        pairs = zip(other._chunks, self._chunks, strict=True)
        chosen = iter(
            [
                None if new is None or old is None else choose(self.input_of(k), new, old)
                for k, (new, old) in enumerate(pairs)
            ]
        )
        for name in self.kept:
            value = getattr(self, name)
            new = [next(chosen) for _ in _several(value)]
            setattr(self, name, type(value)(new) if isinstance(value, (list, tuple)) else new[0])

    def run(self, chunks: Sequence[Chunk], ended: bool) -> Chunk | list[Chunk]:
        raise AssertionError  # each kind has its own


def _several(value: Any) -> Sequence[Chunk]:
    return value if isinstance(value, (list, tuple)) else (value,)


class Holding(Node):
    """Holds samples of one signal back."""

    kept = ("_held",)

    def __init__(self, line: Line) -> None:
        self._line = line
        self.reset()

    def reset(self) -> None:
        self._held: Chunk = None


class Aligned(Node):
    """Keeps what came early of several signals until the others have come."""

    kept = ("_waiting",)

    def __init__(self, lines: Sequence[Line]) -> None:
        self._lines = list(lines)
        self.reset()

    def reset(self) -> None:
        self._waiting: list[Chunk] = [None] * len(self._lines)

    def input_of(self, k: int) -> int:
        return k

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


class Cropped(Holding):
    """Drops `lo` samples in front and `hi` behind, and of the others takes one in `step`.

    There must be at `least` so many: where parts stand beside the signal, a crop of more would
    reach into these.
    """

    counted = ("_to_drop", "_to_skip", "_missing")

    def __init__(self, line: Line, lo: int, hi: int, step: int = 1, least: int = 0) -> None:
        self._lo, self._hi, self._step, self._least = lo, hi, step, least
        super().__init__(line)

    def reset(self) -> None:
        super().reset()
        self._to_drop, self._to_skip, self._missing = self._lo, 0, self._least

    def run(self, chunks: Sequence[Chunk], ended: bool) -> Chunk:
        line, (x,) = self._line, chunks
        n = line.count(x)
        self._missing = max(0, self._missing - n)
        if ended and self._missing:
            raise EndError(f"a signal must have at least {self._least} samples here")
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


class Grouped(Holding):
    """Gives samples in groups of `n`, of which the next operation makes one."""

    def __init__(self, line: Line, n: int) -> None:
        self._n = n
        super().__init__(line)

    def run(self, chunks: Sequence[Chunk], ended: bool) -> Chunk:
        x = self._line.join([self._held, chunks[0]])
        n = self._line.count(x)
        whole = n - n % self._n
        if ended and n > whole:
            raise EndError(f"a signal must be of a multiple of {self._n} samples here")
        self._held = self._line.cut(x, whole, n)
        return self._line.cut(x, 0, whole)


class Waiting(Holding):
    """Keeps a signal until all pieces that it meets are known. The signal is the first input."""

    def run(self, chunks: Sequence[Chunk], ended: bool) -> Chunk:
        x = self._line.join([self._held, chunks[0]])
        is_known = all(piece is not None for piece in chunks[1:])
        self._held = None if is_known else x
        return x if is_known else None


class Joined(Holding):
    """Pieces of known lengths in front of a signal and behind it.

    The inputs are the pieces in front, of which there are `n_front`, the signal, and the pieces
    behind. A piece that is known once is given each time.
    """

    counted = ("_has_begun",)

    def __init__(self, line: Line, n_front: int) -> None:
        self._n_front = n_front
        super().__init__(line)

    def reset(self) -> None:
        super().reset()
        self._has_begun = False

    def input_of(self, k: int) -> int:
        return self._n_front

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
