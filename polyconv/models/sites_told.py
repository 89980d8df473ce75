"""How does what `watch` saw read? A table with a bar for each place, or fewer columns and lines."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from polyconv.inspection import report, terminal
from polyconv.inspection.explanation import explain_problem
from polyconv.planning.devices import Metal
from polyconv.planning.rates import si
from polyconv.problem.spec import ConvSpec

_HEAD = ("where", "op", "calls", "shapes", "time here", "share of it")
_PREDICTED = ("MACs", "of them on zeros", "unfold", "polyconv: MACs", "unfold")
_BAR = 12


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


def text(seen: Collection[Site], metal: Metal, columns: int | None, blocks: bool) -> str:
    """The places, by time, and what is predicted of them.

    Args:
        seen: The places.
        metal: The device for which it is predicted.
        columns: Those of the terminal. What is wider than it is told in lines below. Default: as
            wide as it is.
        blocks: Whether bars are of block characters, else of ASCII.
    """
    if not seen:
        return "no transposed convolution was called through mx or polyconv"
    sites = sorted(seen, key=lambda site: -(site.seconds or 0))
    total = sum(site.seconds or 0 for site in sites)
    called = [(*_called(site), *_time(site, total, blocks)) for site in sites]
    predicted = [_predicted(site, metal) for site in sites]
    about = (
        f"MACs and bytes unfolded are predicted for {metal.name}. The time is of here; its share "
        "is of that of all transposed convolutions."
    )
    if any(site.seconds is None for site in sites):
        about += " A dash: polyconv's own calls are not timed, nor what mx.compile traced."
    rows = [_HEAD + _PREDICTED, *[one + other for one, other in zip(called, predicted)]]
    lines = report.table(rows)
    if columns is None or max(map(len, lines)) <= columns:
        return "\n".join([*lines, about])
    return "\n".join([*_narrow(called, predicted), about])


def _narrow(called: Sequence[tuple[str, ...]], predicted: Sequence[tuple[str, ...]]) -> list[str]:
    """Where, time and bar in a table, and each other column as a line below its place."""
    short = report.table([(_HEAD[0], *_HEAD[4:]), *[(row[0], *row[4:]) for row in called]])
    lines = short[:1]
    for line, row, more in zip(short[1:], called, predicted):
        lines.append(line)
        lines.append(f"  {row[1]}, calls: {row[2]}, {row[3]}")
        lines.append(f"  MACs {more[0]}, {more[1]} on zeros, unfold {more[2]}")
        lines.append(f"  polyconv: MACs {more[3]}, unfold {more[4]}")
    return lines


def _called(site: Site) -> tuple[str, ...]:
    shapes = {(p.batch, *[a.size for a in p.axes], p.in_channels) for p in site.problems}
    told = str(*shapes) if len(shapes) == 1 else f"{len(shapes)} shapes"
    return (site.where, site.op, str(site.n_calls), told)


def _time(site: Site, total: float, blocks: bool) -> tuple[str, str]:
    """The time, and its share as a number and a bar."""
    if site.seconds is None:
        return "-", "-"
    share = site.seconds / total if total else 0.0
    told = f"{share:>4.0%} {terminal.bar(share, _BAR, blocks)}"
    return f"{1e3 * site.seconds:.3g} ms", told.rstrip()


def _predicted(site: Site, metal: Metal) -> tuple[str, ...]:
    native = ours = zeros = 0
    unfolds = [0, 0]
    for problem, n in site.problems.items():
        told = explain_problem(problem, "", site.op.partition(".")[2], metal)
        lines = {line.method: line for line in told.lines}
        pair = lines["native"], lines[told.chosen]
        native, ours = native + n * pair[0].macs, ours + n * pair[1].macs
        zeros += n * pair[0].macs_on_zeros
        unfolds = [max(a, line.unfold_bytes) for a, line in zip(unfolds, pair)]
    share = f"{zeros / native:.0%}" if native else "-"
    return si(native).strip(), share, f"{si(unfolds[0])}B", si(ours).strip(), f"{si(unfolds[1])}B"
