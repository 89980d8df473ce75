"""Peak memory and time of a call at falling max_workspace, written to memory.json.

    python docs/benchmarks/memory.py [--rounds 7]

One layer, forward and with both gradients, the limits interleaved; MLX's peak less what was there
and the result, so what `max_workspace` bounds.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import time
from pathlib import Path

import mlx.core as mx

import polyconv
from polyconv.inspection import explain

INPUT, WEIGHT, STRIDE = (4, 4096, 128), (64, 4, 128), 2
LIMITS = (None, 32_000_000, 16_000_000, 8_000_000, 4_000_000, 2_000_000)


def measured(limit: int | None, train: bool, x: mx.array, w: mx.array) -> tuple[float, int]:
    """Milliseconds, and bytes besides arguments and results at the peak."""

    def call(x: mx.array, w: mx.array) -> mx.array:
        return polyconv.conv_transpose1d(x, w, STRIDE, 1, max_workspace=limit)

    before = mx.get_active_memory()
    mx.reset_peak_memory()
    started = time.perf_counter()
    gradients = mx.grad(lambda x, w: call(x, w).sum(), (0, 1))
    made = gradients(x, w) if train else [call(x, w)]
    mx.eval(made)
    seconds = time.perf_counter() - started
    output = x.shape[0] * STRIDE * x.shape[1] * w.shape[0] * x.itemsize
    # A train step holds the output too; the cotangent is one number, broadcast.
    known = sum(array.nbytes for array in made) + (output if train else 0)
    return 1e3 * seconds, max(0, mx.get_peak_memory() - before - known)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args()
    mx.random.seed(0)
    x, w = mx.random.normal(INPUT), mx.random.normal(WEIGHT)
    mx.eval(x, w)
    mx.set_cache_limit(0)  # what is kept for later is no workspace
    rows = [{"limit": limit, "train": train} for train in (False, True) for limit in LIMITS]
    samples: list[list[tuple[float, int]]] = [[] for _ in rows]
    rng = random.Random(0)
    for _ in range(args.rounds + 1):
        # What runs before leaves its mark on the next.
        for row, each in rng.sample(list(zip(rows, samples, strict=True)), len(rows)):
            each.append(measured(row["limit"], bool(row["train"]), x, w))
    for row, each in zip(rows, samples, strict=True):
        times = [ms for ms, _ in each[1:]]
        row |= {"ms": statistics.median(times), "least": min(times), "most": max(times)}
        row["peak"] = max(peak for _, peak in each[1:])
        print(row)
    found = {"input": INPUT, "weight": WEIGHT, "stride": STRIDE, "rounds": args.rounds}
    found |= {"what": explain.doctor().splitlines(), "rows": rows}
    path = Path(__file__).with_suffix(".json")
    path.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
