"""How does an explanation read? Words and tables, nothing worked out. Standard library only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import prod
from typing import TYPE_CHECKING, Any

from polyconv.metal.kernels import NEWEST, RULE_SETS
from polyconv.metal.seconds import Prediction
from polyconv.planning.devices import Metal
from polyconv.planning.forms import Form
from polyconv.planning.rates import si

if TYPE_CHECKING:
    from polyconv.planning.tiling import Tiling

HEADINGS = (
    "   method",
    "predicted",
    "timings",
    "launches",
    "convs",
    "taps",
    "MACs",
    "on zeros",
    "Metal kernel",
    "unfold",
    "other",
    "peak",
)


def gain(told: Explanation) -> list[str]:
    """How MLX's own op compares with what is taken, if another is."""
    native = next(line for line in told.lines if line.method == "native")
    taken = next(line for line in told.lines if line.method == told.chosen)
    if taken is native or not (native.time and taken.time):
        return []
    ratio = native.time.seconds / taken.time.seconds
    least, most = native.time.least / taken.time.most, native.time.most / taken.time.least
    sure = "" if least > 1 or most < 1 else ", which is not sure"
    return [
        f"Gain over MLX's own op: {_times(ratio)} times, by the bounds of both {_times(least)} to "
        f"{_times(most)} times{sure}."
    ]


def _times(ratio: float) -> str:
    """Two digits of it, without an exponent."""
    return f"{float(f'{ratio:.2g}'):,g}"


NO_GAIN = (
    "MLX's own 2D kernel unfolds nothing here and skips the zeros itself: no memory is gained."
)


@dataclass(frozen=True, slots=True)
class Line:
    """What one method does; zeros if it cannot compute the problem. `reason`: why it is not taken.

    `taps` are those of the largest of its convolutions. `macs_on_zeros` are the multiplications
    beyond the ideal: on zeros between samples, zero taps, spare frames and padded channels.
    `temporaries` are bytes by purpose, without the unfold buffer; `peak_bytes` is an upper bound
    for all that lives at a time, input, weight and output included. `time` is predicted for a plain
    weight, `packed_time` for a packed one.
    """

    method: str
    reason: str
    n_convs: int = 0
    taps: tuple[int, ...] = ()
    macs: int = 0
    macs_on_zeros: int = 0
    kernels: tuple[tuple[str, int], ...] = ()
    because: str = ""
    source: str = ""
    forms: tuple[str, ...] = ()
    unfold_bytes: int = 0
    temporaries: tuple[tuple[str, int], ...] = ()
    peak_bytes: int = 0
    error: str = ""
    hazard: str = ""
    time: Prediction | None = None
    packed_time: Prediction | None = None

    @property
    def temporary_bytes(self) -> int:
        return sum(size for _, size in self.temporaries)


@dataclass(frozen=True, slots=True)
class Explanation:
    """One convolution, a line per method, and the method taken. Print it, or `to_dict()`."""

    call: str
    output_shape: tuple[int, ...]
    device: str
    rule_set: str
    chosen: str
    n_phases: tuple[int, ...]
    lines: tuple[Line, ...]
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def __str__(self) -> str:
        return text(self)


def text(told: Explanation) -> str:
    """The whole of an explanation, for a terminal without colours or for a file."""
    lines = [f"{told.call} -> {told.output_shape}", "", *table(rows(told)), ""]
    return "\n".join([*lines, *notes(told)])


def rows(told: Explanation) -> list[tuple[str, ...]]:
    """The table, headings first."""
    return [HEADINGS, *[_cells(line, told.chosen) for line in told.lines]]


def table(cells: Sequence[tuple[str, ...]]) -> list[str]:
    """Columns as wide as their widest cell."""
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    padded = ["  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) for row in cells]
    return [row.rstrip() for row in padded]


def notes(told: Explanation) -> list[str]:
    """What a phase is; of each method its kernel, and why it is not taken; what this rests on."""
    phases = prod(told.n_phases)
    said = gain(told)
    if phases > 1:
        equal = len(set(told.n_phases)) == 1
        each = _ordinal(told.n_phases[0]) if equal else ", ".join(map(_ordinal, told.n_phases))
        along = "Every" if len(told.n_phases) == 1 else "Along each axis every"
        said.append(
            f"{along} {each} output meets the input with the same taps of the kernel. Such outputs "
            "are a phase: an ordinary convolution of the input, with no zeros between its samples. "
            f"Here are {phases}."
        )
    said += [_note(line) for line in told.lines]
    said += told.notes
    said.append(
        f"Kernels and bytes are predicted for {told.device} by the rules of {told.rule_set}, times "
        "by a model of timings that others published; nothing is measured. Nine times in ten a "
        "time lies between its bounds, as far as these timings tell: 'timings' are those of the "
        "least tested kernel. 'other' and 'peak' are upper bounds."
    )
    return said


def summary(told: list[tuple[str, str, int, Explanation]]) -> list[str]:
    """A line per transposed convolution of a model, largest first, and totals.

    Each entry of `told` is where it is, whose op it calls, how often, and its explanation.
    """
    cells = [
        (
            "where",
            "op of",
            "calls",
            "native unfold",
            "native peak",
            "MACs",
            "polyconv",
            "peak",
            "MACs",
        )
    ]
    totals, largest = [0, 0], []
    for where, lib, n, each in told:
        native = next(line for line in each.lines if line.method == "native")
        ours = next(line for line in each.lines if line.method == each.chosen)
        totals = [totals[0] + n * native.macs, totals[1] + n * ours.macs]
        largest.append((native.unfold_bytes, native.peak_bytes, ours.peak_bytes))
        own = (_bytes(native.unfold_bytes), _bytes(native.peak_bytes), si(native.macs).strip())
        new = (each.chosen, _bytes(ours.peak_bytes), si(ours.macs).strip())
        cells.append((where, lib, str(n), *own, *new))
    if not told:
        return ["No transposed convolution was called through mx or polyconv."]
    n_calls = sum(n for _, _, n, _ in told)
    unfold, peak, new_peak = (_bytes(max(column)) for column in zip(*largest, strict=True))
    own_macs, new_macs = (si(total).strip() for total in totals)
    cells.append(("all", "", str(n_calls), unfold, peak, own_macs, "", new_peak, new_macs))
    return [*table(cells), "In the last line MACs are summed, and bytes are the largest."]


def side_by_side(told: Sequence[Explanation]) -> str:
    """One call on several devices: the predicted time of each method, and what is taken."""
    methods = [line.method for line in told[0].lines]
    cells: list[tuple[str, ...]] = [("method", *[each.device for each in told])]
    for i, method in enumerate(methods):
        lines = [each.lines[i] for each in told]
        marks = ["-> " if each.chosen == method else "   " for each in told]
        times = [mark + interval(line.time) for mark, line in zip(marks, lines, strict=True)]
        cells.append((method, *times))
    first = told[0]
    about = (
        "The arrow marks what `auto` takes. Times are predicted by a model of timings that others "
        "published; nothing is measured. `polyconv explain` with one device says more."
    )
    return "\n".join([f"{first.call} -> {first.output_shape}", "", *table(cells), "", about])


def exceeds(whole: int, metal: Metal) -> str:
    """What happens to an unfold buffer that is too large, by version."""
    largest = metal.limits.max_buffer_bytes
    throw = [rules.number for rules in RULE_SETS if not rules.unfolds_in_tiles]
    tile = next(rules.number for rules in RULE_SETS if rules.unfolds_in_tiles)
    return (
        f"native would unfold {si(whole)}B, and the largest buffer of {metal.name} has "
        f"{si(largest)}B: MLX {' and '.join(throw)} raise an error, {tile} and later fill one "
        f"buffer of that size {-(-whole // largest)} times."
    )


def in_tiles(tiling: Tiling, limit: int) -> str:
    """The note on tiles: how large they are, and why."""
    along = tiling.plan.axes[tiling.axis]
    outputs = min(tiling.n_steps * along.n_phases, along.axis.output_size)
    return (
        f"Computed in {tiling.n_tiles} tiles, one after the other, of {tiling.n_items} of "
        f"{tiling.most_items} items and {outputs} of {along.axis.output_size} outputs along axis "
        f"{tiling.axis + 1}: so at most {si(tiling.bytes)}B are allocated at a time besides "
        f"arguments and result, and {si(limit)}B may be."
    )


def newer(running: str) -> str:
    """The notice for an MLX that is newer than the model."""
    return (
        f"The MLX that runs here is {running}, newer than the newest rules known to polyconv "
        f"({NEWEST.name}): kernels may have changed."
    )


def form(given: Form) -> str:
    """What is done to a convolution on its way to MLX, on a Mac."""
    said = []
    if given.lift == "plane":
        said.append("issued as 2D with an axis of 1")
    if given.lift == "frames":
        said.append("issued as 2D, a tap in depth at a time")
    if given.extra_in:
        said.append(f"{given.extra_in} input channels of zeros added per group")
    if given.extra_out:
        said.append(f"{given.extra_out} output channels of zeros added per group")
    if any(given.pad_hi):
        said.append("padded behind by a copy")
    return ", ".join(said)


def _cells(line: Line, chosen: str) -> tuple[str, ...]:
    name = f"{'->' if line.method == chosen else '  '} {line.method}"
    if not line.n_convs:
        return (name, *["-"] * (len(HEADINGS) - 1))
    return (
        name,
        interval(line.time),
        str(line.time.n_timings) if line.time else "-",
        str(line.time.n_launches) if line.time else "-",
        str(line.n_convs),
        "x".join(map(str, line.taps)),
        si(line.macs).strip(),
        f"{line.macs_on_zeros / line.macs:.1%}" if line.macs else "-",
        ", ".join(path for path, _ in line.kernels),
        _bytes(line.unfold_bytes),
        _bytes(line.temporary_bytes),
        _bytes(line.peak_bytes),
    )


def interval(time: Prediction | None) -> str:
    """``"0.81 to 1.3 ms"``."""
    if time is None:
        return "-"
    scale, unit = (1e3, "ms") if time.most >= 1e-4 else (1e6, "us")
    least, most = [f"{float(f'{scale * t:.2g}'):g}" for t in (time.least, time.most)]
    return f"{least} to {most} {unit}"


def assumed(metal: Metal) -> str:
    """The note on a GPU that is not in the table."""
    return (
        f"What the GPU of {metal.name} can do is not published: times are those of one with "
        f"{metal.gpu.cores} cores, {metal.gpu.tflops:g} TFLOP/s and {metal.gpu.bandwidth:g} GB/s."
    )


def _bytes(size: int) -> str:
    return f"{si(size)}B" if size else "0"


def _note(line: Line) -> str:
    said = []
    if line.because:
        paths = " and ".join(path for path, _ in line.kernels)
        said.append(f"{paths} by the rule '{line.because}' ({line.source})")
    said += line.forms
    if line.packed_time and line.packed_time != line.time:
        said.append(f"with packed weights predicted {interval(line.packed_time)}")
    if line.error:
        said.append(f"MLX raises an error: {line.error}")
    if line.hazard:
        said.append(f"MLX's kernel {line.hazard}")
    if line.reason:
        said.append(f"not taken: {line.reason}")
    return f"{line.method}: {'; '.join(said) or 'nothing to compute'}."


def _ordinal(number: int) -> str:
    """1st, 2nd, 3rd, 4th, 11th, 21st."""
    last = 0 if number % 100 in (11, 12, 13) else number % 10
    return f"{number}{ {1: 'st', 2: 'nd', 3: 'rd'}.get(last, 'th') }"
