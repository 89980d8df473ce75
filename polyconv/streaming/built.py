"""The program of a model for chunks of one shape, and how far its output is behind."""

from __future__ import annotations

from fractions import Fraction
from math import ceil
from typing import NamedTuple

import mlx.core as mx

from polyconv.execution.arrays import zeros_for
from polyconv.execution.identity import handle_of
from polyconv.streaming.items import Items
from polyconv.streaming.lowering import Signal
from polyconv.streaming.program import Program

# Chunks in which the output fell no further behind, until its latency is taken for known.
_TRIED, _MOST_TRIED = 64, 1024


class Laid(NamedTuple):
    """How the output lies: in which slot, of which shape with any number of samples, and type.

    And where the items of a batch lie in it, if these are kept apart in all that is remembered, and
    after multiples of how many samples of the input they can begin in step with each other.
    """

    out: Signal
    shape: tuple[int, ...]
    dtype: mx.Dtype
    items: Items | None
    apart: int


class Steady(NamedTuple):
    """From which number of samples on, and by how many of the output, a stream is always behind.

    As it is after multiples of `apart` samples.
    """

    since: int
    late: int


class Built:
    """The program of a model for chunks of one shape, and where it takes and gives time."""

    def __init__(self, program: Program, at: int, laid: Laid) -> None:
        self.program, self.at, self.laid = program, at, laid
        self.out = laid.out

    @property
    def rate(self) -> Fraction:
        """Samples of the output for one of the input."""
        return self.out.rate

    def run(self, x: mx.array | None, ended: bool, like: mx.array) -> mx.array:
        """The samples that are known with a chunk, maybe none."""
        found = self.program.run(x, ended, self.out.slot)
        if found is not None:
            return handle_of(found)  # it may be `x`
        shape = [*self.laid.shape]
        shape[self.out.at] = 0
        return zeros_for(like, tuple(shape), self.laid.dtype)

    def copied(self) -> Built:
        """At the same point, to go on by itself."""
        return Built(self.program.copied(), self.at, self.laid)

    def fresh(self) -> Built:
        """At the beginning."""
        made = self.copied()
        made.program.reset()
        return made

    def latency(self, like: mx.array) -> tuple[int, int]:
        """How far the output is behind at most, found by a run that nobody evaluates."""
        size = self.rate.denominator
        trial, chunk = self.fresh(), self._nothing(like, size)
        given = came = 0
        behind: list[int] = []
        while len(behind) < _TRIED or behind[-1] != behind[-_TRIED]:
            came += size
            given += trial.run(chunk, False, chunk).shape[self.out.at]
            late = int(self.rate * came) - given
            behind.append(max(late, behind[-1] if behind else late))
            if len(behind) >= _MOST_TRIED:
                break
        return behind[-1], max(0, ceil(behind[-1] / self.rate))

    def steady(self, like: mx.array) -> Steady | None:
        """Since when the output is behind by the same, found in the same way. None: never.

        What a program gives next is told by its moment. So where one comes again at once, it stays.
        """
        apart, trial = self.laid.apart, self.fresh()
        chunk, more = self._nothing(like, apart), int(self.rate * apart)
        late, moment = [0], trial.program.moment
        for _ in range(_MOST_TRIED):
            given = trial.run(chunk, False, chunk).shape[self.out.at]
            before, moment = moment, trial.program.moment
            if moment == before and given == more:
                since = next(i for i in range(len(late)) if len(set(late[i:])) == 1)
                return Steady(apart * since, late[-1])
            late.append(late[-1] + more - given)
        return None

    def _nothing(self, like: mx.array, n: int) -> mx.array:
        shape = [*like.shape]
        shape[self.at] = n
        return mx.zeros(shape, like.dtype)


def beside(x: mx.array, axis: int) -> tuple[int, ...]:
    """The shape without time."""
    return (*x.shape[:axis], *x.shape[axis + 1 :])
