"""What did `convert` do, and what has come of it?"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace

from polyconv.models.dispatching import Count


@dataclass(frozen=True)
class Converted:
    """A layer that was converted, or why it was not.

    `path` is where the model has it, or several paths if it is shared. `saving` is how many times
    fewer multiply-accumulates it needs than with zeros between its inputs, None if its stride is
    not known before it runs. `left_alone` says why it was not converted, and is empty if it was.
    `note` says what else a user should know. `count` goes on: it counts what the layer calls.
    """

    path: str
    layer: str
    saving: float | None = None
    left_alone: str = ""
    note: str = ""
    count: Count = field(default_factory=Count, compare=False, repr=False)

    @property
    def calls(self) -> int:
        """How many transposed convolutions polyconv has computed for the layer since then."""
        return self.count.answered

    @property
    def is_not_reached(self) -> bool:
        """Whether it was called since then, and polyconv has computed nothing for it."""
        return self.count.runs > 0 and not self.count.answered

    def __str__(self) -> str:
        saving = f", {self.saving:.3g} times fewer multiply-accumulates" if self.saving else ""
        done = f"left alone: {self.left_alone}" if self.left_alone else f"converted{saving}"
        told = [f"{self.path}: {self.layer} {done}", self.note]
        if self.is_not_reached:
            told.append("it ran, and none of its transposed convolutions came to polyconv")
        return "; ".join(filter(None, told))


class Conversion(tuple[Converted, ...]):
    """What `convert` did: a `Converted` for each layer. It prints a line for each."""

    __slots__ = ()

    @property
    def converted(self) -> list[Converted]:
        return [each for each in self if not each.left_alone]

    @property
    def not_reached(self) -> list[Converted]:
        """Those that were called since then without a transposed convolution by polyconv."""
        return [each for each in self if each.is_not_reached]

    def __str__(self) -> str:
        """A line for each. A note that several have stands once, below."""
        counts = Counter(each.note for each in self if each.note)
        often = {note: n for note, n in counts.items() if n > 1}
        lines = [str(replace(each, note="") if each.note in often else each) for each in self]
        lines += [f"{n} of these: {note}" for note, n in often.items()]
        return "\n".join(lines) or "nothing converted"
