"""Which transposed convolutions does a program run, how long do they take, what would they cost?"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import mlx.nn as nn

from polyconv.execution.locking import ALONE
from polyconv.execution.modules import names_of
from polyconv.inspection import explain, report
from polyconv.inspection.explanation import explain_problem
from polyconv.models.recording import listening, where
from polyconv.planning.devices import Metal
from polyconv.planning.rates import si
from polyconv.problem.spec import ConvSpec


@dataclass
class Site:
    """A place in a program that calls transposed convolutions, and what it called.

    `seconds` is how long they took. It is None if that could not be measured, as inside
    `mx.compile`.
    """

    where: str
    op: str
    problems: dict[ConvSpec, int] = field(default_factory=dict)
    seconds: float | None = 0.0

    @property
    def n_calls(self) -> int:
        return sum(self.problems.values())


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
        if not self.sites:
            return "no transposed convolution was called through mx or polyconv"
        head = ("where", "op", "calls", "shapes", "time here", "MACs", "of them on zeros", "unfold")
        rows: list[tuple[str, ...]] = [(*head, "polyconv: MACs", "unfold")]
        sites = sorted(self.sites.values(), key=lambda site: -(site.seconds or 0))
        rows += [self._row(site) for site in sites]
        about = (
            f"MACs and bytes unfolded are predicted for {self._metal.name}; the time is of here."
        )
        return "\n".join([*report.table(rows), about])

    def _row(self, site: Site) -> tuple[str, ...]:
        native = ours = zeros = 0
        unfolds = [0, 0]
        for problem, n in site.problems.items():
            told = explain_problem(problem, "", site.op.partition(".")[2], self._metal)
            lines = {line.method: line for line in told.lines}
            pair = lines["native"], lines[told.chosen]
            native, ours = native + n * pair[0].macs, ours + n * pair[1].macs
            zeros += n * pair[0].macs_on_zeros
            unfolds = [max(a, line.unfold_bytes) for a, line in zip(unfolds, pair)]
        spent = "-" if site.seconds is None else f"{1e3 * site.seconds:.3g} ms"
        share = f"{zeros / native:.0%}" if native else "-"
        sizes = si(native), share, f"{si(unfolds[0])}B", si(ours), f"{si(unfolds[1])}B"
        return (site.where, site.op, str(site.n_calls), _shapes(site.problems), spent, *sizes)


def _shapes(problems: Collection[ConvSpec]) -> str:
    shapes = [(p.batch, *[a.size for a in p.axes], p.in_channels) for p in problems]
    return str(shapes[0]) if len(set(shapes)) == 1 else f"{len(set(shapes))} shapes"


@contextmanager
def watch(model: nn.Module | None = None, *, device: str | None = None) -> Iterator[Watched]:
    """Records each transposed convolution that is run inside, and prints them by place at the end.

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
