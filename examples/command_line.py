"""What the examples' command lines have in common.

Answers: is an option's number sensible, can the output be written, how is progress shown, and how
does an error read?
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn


def at_least(minimum: float, kind: type, below: float = float("inf")) -> Callable[[str], float]:
    """An argparse type: numbers of at least `minimum`, and smaller than `below`."""

    def parse(text: str) -> float:
        value: float = kind(text)
        if not minimum <= value < below:
            limit = "" if below == float("inf") else f" and below {_told(below)}"
            must = f"a number of at least {_told(minimum)}{limit}"
            raise argparse.ArgumentTypeError(f"{text} is not {must}")
        return value

    parse.__name__ = kind.__name__  # what argparse calls a value that is no number at all
    return parse


def _told(number: float) -> str:
    return f"{number:.2g}" if isinstance(number, float) else str(number)


class Display:
    """Progress on stderr: one bar a pass on a terminal, one line a pass elsewhere.

    Args:
        steps: steps of a pass that does not say how many it has.
    """

    def __init__(self, steps: int) -> None:
        self.console = Console(stderr=True)
        columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
        self.bars = Progress(*columns, console=self.console, disable=not self.console.is_terminal)
        self.steps = steps

    def watch(self, description: str, steps: int | None = None) -> Callable[[str], None]:
        """Announce a pass; the callable it returns advances it by one step."""
        if not self.console.is_terminal:
            print(f"{description} ...", file=sys.stderr, flush=True)
        task = self.bars.add_task(description, total=steps or self.steps)
        return lambda name: self.bars.advance(task)


def prepare_outputs(folder: Path, names: Iterable[str]) -> None:
    """Find out before a long run, not after it, whether its files can be written."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).open("ab").close()


def reason(error: Exception) -> str:
    """One sentence for stderr, without the number of an `OSError`."""
    return f"{error.filename}: {error.strerror}" if isinstance(error, OSError) else str(error)
