"""Items of a batch that begin anew while the others go on.

A new stream runs beside the others', of the chunks since then. What it gives is what these items
are to give. Once it has come to the same moment as the others, which gives as much from then on,
all that it remembers of these items takes the place of what the others remember of them.
"""

from __future__ import annotations

import copy
from typing import Any

import mlx.core as mx

from polyconv.problem import arguments
from polyconv.streaming import functional
from polyconv.streaming.built import Built, Steady
from polyconv.streaming.functional import is_none
from polyconv.streaming.nodes import Chunk


class Restart:
    """A new stream for the items `which`, whose first output lies `late` samples ahead."""

    def __init__(self, built: Built, which: mx.array, late: int) -> None:
        self._built, self.which, self._late = built, which, late
        self._early: Chunk = None  # what is given, and is not due yet

    def copied(self) -> Restart:
        made = copy.copy(self)
        made._built = self._built.copied()
        return made

    def without(self, which: mx.array) -> Restart | None:
        """For the items that do not begin anew once more, if there are some."""
        made = copy.copy(self)
        made.which = self.which & ~which
        return None if is_none(made.which) else made

    @property
    def held(self) -> list[mx.array]:
        early = [] if self._early is None else [self._early]
        return [self.which, *self._built.program.held, *early]

    def given(self, y: mx.array, x: mx.array | None, ended: bool, like: mx.array) -> mx.array:
        """The output of the batch for a chunk, with that of these items in its place."""
        line, items = self._built.out.line, self._built.laid.items
        assert items is not None
        mine = line.join([self._early, self._built.run(x, ended, like)])
        n, known = line.count(y), line.count(mine)
        before = min(n, self._late)
        due = n - before
        if due > known or (ended and due < known):
            self._refuse(x, ended)
        self._late -= before
        self._early = line.cut(mine, due, known)
        mine = line.join([line.cut(y, 0, before), line.cut(mine, 0, due)])
        return y if mine is None else items.chosen(self.which, mine, y)

    def _refuse(self, x: mx.array | None, ended: bool) -> None:
        if ended or x is None:
            must = "the input must end where the outputs of all items end together"
            arguments.refuse("stream", must, "items that began anew shortly before")
        must = "a chunk must hold what the first outputs behind a reset wait for"
        arguments.refuse("stream", must, f"one of {x.shape[self._built.at]} samples")

    def joins(self, built: Built) -> bool:
        """Whether it was in step with the others, and these now remember what it did."""
        program = self._built.program
        if self._late or self._early is not None or program.moment != built.program.moment:
            return False
        built.program.take(self.which, program)
        return True


def check_reset(op: str, reset: Any, axis: int, batch: int) -> None:
    """Refuses what is not a boolean for each item of a batch, or where there is none."""
    if axis == 0:
        must = "reset must come to a stream whose axis 0 are the items of a batch"
        arguments.refuse(op, must, "time there")
    functional.check_reset(op, reset, batch)


def check_moment(built: Built, steady: Steady | None, came: int) -> None:
    """Refuses to begin items anew after so many samples, if they would be out of step."""
    if built.laid.items is None:
        must = "reset must come to a model that keeps the items of a batch apart"
        arguments.refuse("stream", must, "one of which that is not known")
    if steady is None:
        must = "reset must come to a stream that does not wait for the end of its input"
        arguments.refuse("stream", must, "one that does")
    if steady.late < 0 or came % built.laid.apart or came < steady.since:
        apart = built.laid.apart if came % built.laid.apart else None
        functional.refuse_moment("stream", steady.late, apart, steady.since, came)
