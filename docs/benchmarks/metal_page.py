"""Writes docs/benchmarks/metal_fit.md from metal_fit.json."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from statistics import median, quantiles
from typing import Any

MOVES = ("matmul", "matmul, NAX", "vector product", "copy", "concat")

ABOUT = """# A time model for Apple GPUs, from published timings

Nobody here has a Mac. This page holds how well `polyconv/metal/seconds.py` predicts timings of
MLX on Apple GPUs that others published. `make metal-fit` writes it, from
`metal_published_timings.csv`: id, source, date, device and shapes of each row, to be checked at
its source. `polyconv/planning/metal_seconds.py` adds up a plan, by which `auto` chooses on a Mac.

The time of a kernel is a launch and `sqrt(Tc^2 + Tb^2)`, with

    Tc = (MACs + load * loads + tile * tiles) / (peak * share * fill)
    fill = tiles / (tiles + tiles a core * cores)
    Tb = bytes / (bandwidth * share)

in the tiles and padded channels of MLX's own dispatch (`polyconv/metal/work.py`), peak and
bandwidth as published for the device. What was timed op by op has the time of an evaluation on
top, one number for each source and device. The fit is by least squares on the logarithm of the
error, with a soft L1 loss.

Of 2,118 rows collected, 991 are used. Left out are: ops that no plan uses (454), rows that their
own spread, or others of the same run, show to be unreliable (233), ratios, minima beside their
medians and unclear units (171), other engines on the same hardware (68), devices that are not
stated (60), kernels that MLX no longer has (54), sums split over many threadgroups, which the
model does not know (34), rows without shapes and single ops that no plan uses (26), devices whose
peak is not published (19), and several ops in one timing (8). Repeats of one source on one device
are one row below, by their median.

What it does not tell: winograd, `depthwise_1d` and a product per phase in 3D have no usable row;
convolutions in 3D, transposed ones and those with one channel a group have one or two; no
convolution was timed on an M5, and those of `explicit_gemm_group_nd` not at all. Kernels that run
at the same time are counted one after the other. No share of the float32 peak may exceed 0.8, the
most that was published of any kernel; a share that is 0.8 below lies at that bound, and `load` and
`tile` make up for it.
"""


def page(found: Mapping[str, Any]) -> str:
    rows = found["timings"]
    return "\n".join(
        (
            ABOUT,
            "## Parameters\n\nUnits stand in `polyconv/metal/seconds.py`. "
            "*rows* are those whose kernels ask for it.\n",
            _table(
                ("parameter", "fitted", "rows"),
                (
                    (f"`{name}`", f"{value:g}", str(found["rows"].get(name, "published")))
                    for name, value in found["parameters"].items()
                ),
            ),
            ERRORS,
            _table(HEAD, _errors(rows)),
            "Time of an evaluation in milliseconds, as fitted: "
            + ", ".join(f"{device} {ms:g} ({source})" for source, device, ms in found["floors"])
            + ".\n",
            "## Every row\n\nMilliseconds, the evaluation included. "
            "*apart*: by a fit without this device. *n*: repeats.\n",
            _table(
                ("device", "kernels", "what", "n", "published", "fit", "apart", "factor", "source"),
                (_row(row) for row in rows),
            ),
        )
    )


ERRORS = """## Errors

As factors, the larger over the smaller of predicted and published: median / 90th percentile.
Counted are rows of which more than half is the time of the kernels, not of the evaluation.
*apart*: each device by a fit to all others; of itself only its evaluation's time is taken, from
rows that are no convolutions. *new shape*: each shape by a fit to all others, which says more about
other layers, as one benchmark of few shapes ran on most devices. Families with under five rows are
marked with a star: their figures say little.
"""
COLUMNS = ("fit_ms", "left_out_ms", "new_shape_ms")
HEAD = ("kernels", "rows", "devices", "shapes", "fit", "apart", "new shape")


def counted(rows: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Rows that are mostly the time of the kernels."""
    return [row for row in rows if row["ms"] > 2 * row["floor_ms"]]


def factor(row: Mapping[str, Any], by: str) -> float:
    ratio = row[by] / row["ms"]
    return max(ratio, 1 / ratio)


def spread(rows: Sequence[Mapping[str, Any]], by: str) -> tuple[float, float]:
    """Median and 90th percentile of the error's factor."""
    factors = [factor(row, by) for row in rows]
    if len(factors) == 1:
        return factors[0], factors[0]
    return median(factors), quantiles(factors, n=10, method="inclusive")[-1]


def tested(rows: Sequence[Mapping[str, Any]]) -> dict[str, tuple[int, float]]:
    """Of each kind of kernel, how many rows count, and the 90th percentile of *apart*."""
    found: dict[str, list[Mapping[str, Any]]] = {}
    for row in counted(rows):
        found.setdefault(row["family"], []).append(row)
    return {
        kind: (len(each), float(f"{spread(each, 'left_out_ms')[1]:.3g}"))
        for kind, each in sorted(found.items())
    }


def convolutions(rows: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    return [row for row in counted(rows) if row["family"] not in MOVES]


def _errors(rows: Sequence[Mapping[str, Any]]) -> Iterable[Sequence[str]]:
    used = counted(rows)
    families = sorted({row["family"] for row in used})
    groups = [(name, [row for row in used if row["family"] == name]) for name in families]
    groups.append(("**all convolutions**", convolutions(rows)))
    for name, each in groups:
        mark = " \\*" if len(each) < 5 else ""
        cells = ("{:.2f} / {:.2f}".format(*spread(each, by)) for by in COLUMNS)
        counts = (len({row[name] for row in each}) for name in ("device", "what"))
        yield (name + mark, str(len(each)), *map(str, counts), *cells)


def _row(row: Mapping[str, Any]) -> Sequence[str]:
    mostly = row["ms"] > 2 * row["floor_ms"]
    shown = f"{factor(row, 'left_out_ms'):.2f}" if mostly else "-"
    times = (f"{row[name]:.3g}" for name in ("ms", "fit_ms", "left_out_ms"))
    return (
        row["device"],
        row["family"],
        row["what"],
        str(row["repeats"]),
        *times,
        shown,
        row["source"],
    )


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)
