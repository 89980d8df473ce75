"""Is `auto` the fastest once it is tuned? Layers that were never seen, tuned, then timed again.

    polyconv run docs/benchmarks/tuned.py [--layers N] [--seed N] [--json FILE]

Each layer is tuned, and then timed again with other numbers, all its plans in interleaved rounds.
A plan counts as slower than the fastest by the least of its rounds, and by their median.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import time
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import mlx.core as mx

import polyconv
from polyconv.bench import calibration, stopwatch, tuning
from polyconv.bench.stopwatch import rounded, timed
from polyconv.execution.device import device_for
from polyconv.execution.machine import names
from polyconv.planning.choose import plan
from polyconv.planning.estimate import seconds_of
from polyconv.planning.plan import ConvPlan
from polyconv.problem.signatures import problem_of
from polyconv.problem.spec import ConvSpec

SEED = 2026  # no layer of it was tried while this was made
MOST_MS = 4.0  # estimated for two quiet cores, which is up to 20 ms on one busy one
AUTO, MX = "auto", "mx"  # as they are called, with all of Python; plans are timed without
LEAST_ROUNDS, MOST_ROUNDS = 20, 300


def problem_of_call(call: dict[str, Any]) -> ConvSpec:
    options = {k: v for k, v in call.items() if k not in ("op", "input", "weight")}
    return problem_of(call["op"], call["input"], call["weight"], "float32", options)


def layers(seed: int, n: int) -> Iterator[dict[str, Any]]:
    """Random layers of 1D, 2D and 3D in turn, short ones by the estimate for a CPU."""
    drawn = dict.fromkeys((1, 2, 3), 0)
    for call in calibration.layers(seed, 100 * n):
        ndim = len(call["input"]) - 2
        if drawn[ndim] < -(-n // 3) and seconds_of(plan(problem_of_call(call))) < MOST_MS / 1e3:
            drawn[ndim] += 1
            yield call
        if sum(drawn.values()) == n:
            return


def again(call: dict[str, Any], packed: bool, seconds: float, seed: int) -> dict[str, list[float]]:
    """Milliseconds of all plans with new arrays, by label, and of two calls as users make them."""
    problem = problem_of_call(call)
    x, w = [mx.random.normal(call[name]) for name in ("input", "weight")]
    mx.eval(x, w)
    runs = {each.label: tuning.prepared(each, x, w, packed) for each in plans(problem, packed)}
    known = {"op", "input", "weight"}
    options = {name: value for name, value in call.items() if name not in known}
    own, ours = getattr(mx, call["op"]), getattr(polyconv, call["op"])
    weight = polyconv.pack(w) if packed else w
    runs[AUTO] = lambda: ours(x, weight, **options)
    if "native" in runs:
        runs[MX] = lambda: own(x, w, **options)
    chance, start = random.Random(seed), time.perf_counter()
    found: dict[str, list[float]] = {name: [] for name in runs}
    left = list(runs)
    for done in range(MOST_ROUNDS):
        if done >= LEAST_ROUNDS and time.perf_counter() - start > seconds:
            break
        if done == 5:  # what is far behind is not timed on
            best = min(min(ms) for ms in found.values())
            left = [name for name in left if name == AUTO or min(found[name]) < 2.5 * best]
        chance.shuffle(left)
        for name in left:
            timed(runs[name])
            found[name].append(1e3 * timed(runs[name])[1])
    return found


def plans(problem: ConvSpec, packed: bool) -> list[ConvPlan]:
    return tuning.plans_of(problem, allow_unfold=False, packed=packed)


def measured(calls: list[dict[str, Any]], path: Path, seconds: float) -> list[dict[str, Any]]:
    """A row per layer: what is taken without tuning and with it, and all times."""
    polyconv.use_tuning(None)
    packed = [i % 2 == 1 for i in range(len(calls))]
    given = [{**call, "packed": each} for call, each in zip(calls, packed, strict=True)]
    tuned = polyconv.tune(given, path=path, seconds=seconds)
    first = {(layer.entry.problem, layer.entry.packed): layer.entry.ms for layer in tuned.layers}
    polyconv.use_tuning(path)
    rows = []
    for i, (call, each) in enumerate(zip(calls, packed, strict=True)):
        problem, here = problem_of_call(call), device_for(None)
        taken = plan(problem, device=here, reasons=False, packed=each)
        before = plan(problem, device=replace(here, tuning=None), reasons=False)
        times = again(call, each, seconds, i)
        told = {
            name: {"least": rounded(min(ms)), "median": rounded(statistics.median(ms))}
            for name, ms in times.items()
        }
        tuned_ms = {name: rounded(ms) for name, ms in first[problem, each].items()}
        about = {"packed": each, "tuned": taken.label, "untuned": before.label}
        rows.append(
            {**call, **about, "rounds": len(times[taken.label]), "tuning": tuned_ms, "ms": told}
        )
        print(
            f"{i + 1}: {call['op']} {call['input']} {call['weight']}", told, taken.label, flush=True
        )
    return rows


def what() -> list[str]:
    """What it ran on, without paths."""
    told = [f"MLX {mx.__version__}", device_for(None).name, names()["cpu"]]
    return [f"{', '.join(told)}; the load was {os.getloadavg()[2]:.1f} over the last 15 minutes"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layers", type=int, default=60)
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument(
        "--cpu-time",
        action="store_true",
        help="read the processor time of the process, here and in tune: what a busy machine leaves",
    )
    parser.add_argument("--json", type=Path)
    parser.add_argument("--tuning", type=Path, default=Path("tuning.json"))
    args = parser.parse_args()
    if args.cpu_time:
        stopwatch.time = SimpleNamespace(perf_counter=time.process_time)  # type: ignore[assignment]
    warnings.simplefilter("error")
    mx.random.seed(args.seed)
    rows = measured(list(layers(args.seed, args.layers)), args.tuning, args.seconds)
    clock = "processor time" if args.cpu_time else "time by the clock"
    found = {"what": what(), "clock": clock, "seed": args.seed, "rows": rows}
    if args.json:
        lines = ",\n".join(f"  {json.dumps(row)}" for row in rows)
        head = json.dumps({k: v for k, v in found.items() if k != "rows"}, indent=1)
        args.json.write_text(f'{head[:-2]},\n "rows": [\n{lines}\n ]\n}}\n')


if __name__ == "__main__":
    main()
