"""Which transposed convolutions does a program run, how long do they take, what would they cost?"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import mlx.nn as nn

from polyconv.execution.locking import ALONE
from polyconv.execution.modules import names_of
from polyconv.inspection import explain, terminal
from polyconv.models.recording import listening, where
from polyconv.models.sites_told import Site, text
from polyconv.planning.devices import Metal
from polyconv.problem.spec import ConvSpec


class Watched:
    """What `watch` saw: `sites` by place and op. It prints as a table."""

    def __init__(self, metal: Metal) -> None:
        self.sites: dict[tuple[str, str], Site] = {}
        self._metal = metal

    def add(self, where: str, op: str, problem: ConvSpec, seconds: float | None) -> None:
        with ALONE:
            site = self.sites.setdefault((where, op), Site(where, op))
            site.problems[problem] = site.problems.get(problem, 0) + 1
            known = site.seconds is not None and seconds is not None
            site.seconds = site.seconds + seconds if known else None  # type: ignore[operator]

    def __str__(self) -> str:
        """As wide as the terminal, in characters that standard output takes."""
        columns, blocks = terminal.columns(), terminal.takes(terminal.BLOCKS)
        return text(self.sites.values(), self._metal, columns, blocks)


@contextmanager
def watch(model: nn.Module | None = None, *, device: str | None = None) -> Iterator[Watched]:
    """Records each transposed convolution that is run inside, and prints them by place at the end.

    A bar of each place is its share of the time. In a terminal that is too narrow for the table,
    the other columns are lines below.

    Each call is evaluated at once, for its time. Nothing else changes. Calls in other threads
    are seen too if they go through `mx`.

    Args:
        model (nn.Module, optional): A place inside it is told as the path of a module. Default: all
            places are lines of files.
        device (str, optional): The device for which MACs and bytes are predicted, as for
            :func:`polyconv.explain`.

    Yields:
        Watched: What was seen, with `sites`.

    Raises:
        ValueError: If the device is not known.
    """
    seen = Watched(explain.metal_named(device))
    names = names_of(model)

    def listen(lib: str, op: str, problem: ConvSpec, seconds: float | None, _: bool) -> None:
        seen.add(where(names), f"{lib}.{op}", problem, seconds)

    with listening(listen, timed=True):
        yield seen
    print(seen)
