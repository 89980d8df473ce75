"""Writes docs/benchmarks/tuned.md from tuned.json, which `tuned.py` measured."""

from __future__ import annotations

import json
from math import exp, log
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
WITHIN = 1.05
AUTO, MX = "auto", "mx"

ABOUT = """# `auto`, tuned

{n} layers drawn at random, of 1D, 2D and 3D in equal numbers, every second one with a packed
weight (`tuned.py`, seed {seed}). Each was tuned by `polyconv tune`, then timed again with other
arrays, all plans in interleaved rounds. *Slower* is the time of the plan that is taken over that of
the fastest plan: by the least of the rounds, and by their median. The machine was busy, two shared
cores with other programs on them. So BLAS had one thread, and the stopwatch of `tune` and of the
rounds later read {clock} (`--cpu-time`): on an idle machine the two are the same but for
waiting. What others do to caches and clocks stays in it.

    {what}

| | least: within 1.05 | within 1.15 | mean | median: within 1.05 | within 1.15 | mean |
|---|---:|---:|---:|---:|---:|---:|
{shares}

Means are geometric. Against MLX's own op, both as they are called, with Python and gradient rule,
where MLX's op was not more than twice as slow as the fastest plan: {against} Python counts in
full there, which a call of 0.1 ms feels.

## Misses

Layers whose tuned plan was more than 1.05 times as slow as the fastest, by the least times.
*Before* is by how much the fastest plan was slower than the taken one when the layer was tuned.

| layer | weight | taken | fastest later | slower | before | ms | rounds |
|---|---|---|---|---:|---:|---:|---:|
{misses}

Without tuning, the worst layers were these:

| layer | weight | taken | fastest | slower | ms |
|---|---|---|---|---:|---:|
{untuned}
"""


def ratios(rows: list[dict[str, Any]], which: str, by: str) -> list[float]:
    """Of each layer, how many times as slow a plan was as the fastest."""
    return [_of(row, row[which], by) / min(_plans(row, by).values()) for row in rows]


def _plans(row: dict[str, Any], by: str) -> dict[str, float]:
    """Times of plans. What was left out after some rounds has no median to compare."""
    kept = {name: ms for name, ms in row["ms"].items() if name not in (AUTO, MX)}
    least = min(ms["least"] for ms in kept.values())
    return {
        name: ms[by]
        for name, ms in kept.items()
        if by == "least" or ms["least"] < 2 * least or name in (row["tuned"], row["untuned"])
    }


def _of(row: dict[str, Any], name: str, by: str) -> float:
    return float(row["ms"][name][by])


def share(found: list[float], within: float) -> float:
    return sum(each <= within for each in found) / len(found)


def mean(found: list[float]) -> float:
    return exp(sum(map(log, found)) / len(found))


def misses(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    found = zip(ratios(rows, "tuned", "least"), rows, strict=True)
    return [row for ratio, row in sorted(found, key=lambda each: -each[0]) if ratio > WITHIN]


def against_mx(rows: list[dict[str, Any]], by: str) -> list[float]:
    """`auto` over MLX's own op, as they are called."""
    near = [row for row in rows if MX in row["ms"] and _is_near(row)]
    return [_of(row, AUTO, by) / _of(row, MX, by) for row in near]


def _is_near(row: dict[str, Any]) -> bool:
    return _of(row, MX, "least") < 2 * min(_plans(row, "least").values())


def page(found: dict[str, Any]) -> str:
    rows = found["rows"]
    untuned = zip(ratios(rows, "untuned", "least"), rows, strict=True)
    worst = sorted(untuned, key=lambda each: -each[0])[:8]
    return ABOUT.format(
        n=len(rows),
        seed=found["seed"],
        clock=found["clock"],
        what="\n    ".join(found["what"]),
        shares="\n".join(_share_line(rows, which) for which in ("tuned", "untuned")),
        against=_against(rows),
        misses="\n".join(map(_miss, misses(rows))) or "| none | | | | | | | |",
        untuned="\n".join(_untuned(ratio, row) for ratio, row in worst),
    )


def _share_line(rows: list[dict[str, Any]], which: str) -> str:
    cells = []
    for by in ("least", "median"):
        found = ratios(rows, which, by)
        cells += [f"{share(found, within):.0%}" for within in (WITHIN, 1.15)] + [
            f"{mean(found):.3f}"
        ]
    return f"| {which} | {' | '.join(cells)} |"


def _against(rows: list[dict[str, Any]]) -> str:
    least, median = against_mx(rows, "least"), against_mx(rows, "median")
    if not least:
        return "that was no layer."
    slower = sum(each > WITHIN for each in least)
    return (
        f"{len(least)} layers. `auto` was slower by more than 5 % on {slower} by the least times; "
        f"at most {max(least):.2f} times as long, {max(median):.2f} by the median."
    )


def _before(row: dict[str, Any]) -> float:
    """What turned out to be the fastest later, over what was taken, when it was tuned."""
    later = _plans(row, "least")
    best = min(later, key=later.__getitem__)
    return float(row["tuning"][best] / row["tuning"][row["tuned"]])


def _layer(row: dict[str, Any]) -> tuple[str, str]:
    names = ("stride", "padding", "kernel_dilation", "groups")
    options = ", ".join(f"{name}={row[name]}" for name in names if name in row)
    told = f"`{row['op']}` {tuple(row['input'])} {tuple(row['weight'])} {options}"
    return told, "packed" if row["packed"] else "plain"


def _miss(row: dict[str, Any]) -> str:
    later = _plans(row, "least")
    best = min(later, key=later.__getitem__)
    layer, weight = _layer(row)
    ratio = _of(row, row["tuned"], "least") / later[best]
    numbers = f"{ratio:.2f} | {_before(row):.2f} | {later[best]:.3g} | {row['rounds']}"
    return f"| {layer} | {weight} | {row['tuned']} | {best} | {numbers} |"


def _untuned(ratio: float, row: dict[str, Any]) -> str:
    later = _plans(row, "least")
    best = min(later, key=later.__getitem__)
    layer, weight = _layer(row)
    return f"| {layer} | {weight} | {row['untuned']} | {best} | {ratio:.2f} | {later[best]:.3g} |"


if __name__ == "__main__":
    (HERE / "tuned.md").write_text(page(json.loads((HERE / "tuned.json").read_text())))
