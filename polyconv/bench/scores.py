"""How does polyconv fare in rows that `polyconv bench` wrote? Standard library only.

A ratio is the median over all rounds of one time over another in the same round, because a shared
machine is faster in one round than in the next.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

RIVALS = ("torch", "torch channels last", "onnxruntime", "jax", "upfirdn")
NATIVE = ("mx", "mx as 2D")
_LEAST_MACS = 0.1e9  # 0.2 GFLOP: smaller rows are not bound by the product

Row = Mapping[str, Any]


def ratio(row: Row, other: str, ours: str = "packed") -> float:
    """The time of `other` over that of `ours`: above 1 where polyconv is faster."""
    theirs, own = row["timings"][other]["rounds"], row["timings"][ours]["rounds"]
    if len(theirs) == 1:
        theirs = theirs * len(own)
    return float(statistics.median(a / b for a, b in zip(theirs, own)))


def best_rival(row: Row) -> str | None:
    """The fastest of the other frameworks that were timed."""
    found = [name for name in RIVALS if name in row["timings"]]
    return min(found, key=lambda name: row["timings"][name]["ms"], default=None)


def best_native(row: Row) -> str | None:
    """The faster of MLX's own op as it stands and lifted to 2D."""
    found = [name for name in NATIVE if name in row["timings"]]
    return min(found, key=lambda name: row["timings"][name]["ms"], default=None)


class Score(NamedTuple):
    """The geometric mean of `n` rows, and the worst value with the name of its row."""

    mean: float
    worst: float
    where: str
    n: int

    def __str__(self) -> str:
        return f"geometric mean {self.mean:.3g} over {self.n} rows, worst {self.worst:.3g}"


def _score(values: Iterable[tuple[str, float]], worst_is_most: bool) -> Score | None:
    found = list(values)
    if not found:
        return None
    name, worst = (max if worst_is_most else min)(found, key=lambda pair: pair[1])
    mean = statistics.geometric_mean(value for _, value in found)
    return Score(mean, worst, name, len(found))


def scores(rows: Sequence[Row], ours: str = "packed") -> dict[str, Score]:
    """What the benchmarks claim, each as a score.

    * `rivals`: the time of the best other framework over ours.
    * `matmul`: our time over that of one product of as many multiply-accumulates, for dense rows of
      at least 0.2 GFLOP.
    * `native`: the time of MLX's own op over ours, for dense rows.
    * `memory`: MLX's peak beside input and packed weights, in bytes, over the output's bytes.
    * `errors`: our error over PyTorch's.
    """
    dense = [row for row in rows if "matmul" in row["timings"]]
    large = [row for row in dense if row["macs"] >= _LEAST_MACS]
    rivals = [(row, best_rival(row)) for row in rows]
    natives = [(row, best_native(row)) for row in dense]
    errors = [(row["name"], error_ratio(row)) for row in rows]
    peaks = [(row["name"], memory(row, ours)) for row in rows]
    found = {
        "rivals": _score(((row["name"], ratio(row, k, ours)) for row, k in rivals if k), False),
        "matmul": _score(((row["name"], 1 / ratio(row, "matmul", ours)) for row in large), True),
        "native": _score(((row["name"], ratio(row, k, ours)) for row, k in natives if k), False),
        # What is freed during a small call may be more than it needs, so that nothing is added.
        "memory": _score(((name, peak) for name, peak in peaks if peak > 0), True),
        "errors": _score(((name, error) for name, error in errors if error is not None), True),
    }
    return {name: score for name, score in found.items() if score}


def memory(row: Row, ours: str = "packed") -> float:
    """Bytes at the peak over bytes of the output: 1 at best."""
    return float(row["timings"][ours]["peak_bytes"]) / float(row["output_bytes"])


def error_ratio(row: Row) -> float | None:
    """The largest error of `packed` over PyTorch's. Both are measured against float64."""
    errors = [row["timings"].get(name, {}).get("error") for name in ("packed", "torch")]
    if None in errors or not min(errors):
        return None
    return float(errors[0]) / float(errors[1])


def summary(rows: Sequence[Row], ours: str = "packed") -> list[str]:
    """The scores, a line each."""
    told = {
        "rivals": f"best other framework / {ours}",
        "matmul": f"{ours} / matmul, dense rows of at least 0.2 GFLOP",
        "native": f"MLX's own op / {ours}, dense rows",
        "memory": "peak / output",
        "errors": "largest error / PyTorch's",
    }
    return [f"{told[key]}: {score} ({score.where})" for key, score in scores(rows, ours).items()]
