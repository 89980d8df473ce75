"""How far is it? A bar on standard error, where that is a terminal."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from typing import TypeVar

T = TypeVar("T")


def track(items: Sequence[T], what: str) -> Iterable[T]:
    """The items, with a progress bar if `rich` (an extra) is installed, else with their count."""
    if not sys.stderr.isatty():
        yield from items
        return
    try:
        from rich.console import Console
        from rich.progress import track as bar
    except ImportError:
        for done, item in enumerate(items):
            print(f"\r{what} {done + 1} of {len(items)}", end="", file=sys.stderr, flush=True)
            yield item
        print(file=sys.stderr)
        return
    yield from bar(items, what, console=Console(stderr=True))
