"""Which plan was the fastest where plans were timed? Standard library only.

A plan is named by its `label`. An entry is of one convolution, with a weight that is packed or cut
up in each call. `tuning_file.py` reads and writes them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from math import log

from polyconv.planning.cached_property import cached_property
from polyconv.problem.spec import ConvSpec


@dataclass(frozen=True)
class Entry:
    """Milliseconds of the plans of a convolution, by label."""

    problem: ConvSpec
    packed: bool
    ms: Mapping[str, float]

    @property
    def labels(self) -> list[str]:
        """The fastest first."""
        return sorted(self.ms, key=self.ms.__getitem__)


@dataclass(frozen=True, eq=False)
class Tuning:
    """What was timed on a device, for `auto`. Two of them are equal if they are the same object.

    With `allow_unfold` also plans may be taken that allocate a copy of all windows.
    """

    entries: tuple[Entry, ...] = field(repr=False)
    allow_unfold: bool = False

    @cached_property
    def _by_layer(self) -> dict[object, list[Entry]]:
        found: dict[object, list[Entry]] = {}
        for entry in self.entries:
            found.setdefault((_layer(entry.problem), entry.packed), []).append(entry)
        return found

    def nearest(self, problem: ConvSpec, packed: bool) -> Entry | None:
        """The entry of a convolution, or else of the same layer with the nearest size.

        Sizes are compared by the ratio of their numbers of outputs. None if the layer was not
        timed.
        """
        if problem.is_empty:
            return None
        known = self._by_layer.get((_layer(problem), packed), ())
        return min(known, key=lambda entry: _distance(entry.problem, problem), default=None)


def _layer(problem: ConvSpec) -> ConvSpec:
    """All of a convolution but the sizes of its input."""
    return replace(problem, batch=0, axes=tuple([replace(axis, size=0) for axis in problem.axes]))


def _distance(known: ConvSpec, problem: ConvSpec) -> tuple[bool, float, int]:
    """Whether they differ, by which ratio, and which one is smaller, for a tie."""
    ratio = known.n_outputs / problem.n_outputs
    return known != problem, abs(log(ratio)), known.n_outputs
