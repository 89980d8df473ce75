"""Models that nobody here wrote, natively, converted and patched, written to models.json.

    python docs/benchmarks/models.py [--out models.json] [--only NAME] [--rounds 3]

Needs `mlx-audio`. Their layers have the geometry of the published models, their weights are random.
"""

from __future__ import annotations

import argparse
import gc
import importlib.metadata
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
from audio_models import MODELS

import polyconv
from polyconv.bench import stopwatch
from polyconv.inspection import explain

HERE = Path(__file__).parent
TOLERANCE = 1e-4


def measure(name: str, rounds: int) -> dict[str, Any]:
    """One model in all four ways, rounds interleaved. A native run over a second is done once."""
    model, run = MODELS[name]()
    conversion = polyconv.convert(model)
    polyconv.revert(model)
    ways = ("native", "converted", "patched, transposed only", "patched")
    times: dict[str, list[float]] = {way: [] for way in ways}
    peaks, outputs = {}, {}
    for done in range(rounds + 1):
        for way in ways:
            if way == "native" and done and times[way][0] > 1:
                continue
            y, seconds, peaks[way] = timed(model, run, way)
            outputs.setdefault(way, y.astype(mx.float32))
            if done or way == "native":  # the first of the others plans
                times[way].append(seconds)
            del y
    scale = mx.abs(outputs["native"]).max().item()
    row: dict[str, Any] = {
        "name": name,
        "layers": [str(each.path) for each in conversion.converted],
        "left": [str(each) for each in conversion if each.left_alone],
        "samples": max(outputs["native"].shape),
        "scale": scale,
    }
    for way in ways:
        error = mx.abs(outputs[way] - outputs["native"]).max().item() / scale
        row[way] = {
            "seconds": [round(each, 5) for each in times[way]],
            "peak_bytes": peaks[way],
            "error": error,
        }
    return row


def timed(model: Any, run: Callable[[], mx.array], way: str) -> tuple[mx.array, float, int]:
    if way == "native":
        return clocked(run)
    if way.startswith("patched"):
        with polyconv.patched(cpu_convs=way == "patched"):
            return clocked(run)
    polyconv.convert(model)
    try:
        return clocked(run)
    finally:
        polyconv.revert(model)


def clocked(run: Callable[[], mx.array]) -> tuple[mx.array, float, int]:
    gc.collect()
    return stopwatch.timed(run)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=HERE / "models.json")
    parser.add_argument("--only", help="the models named like this")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    rows = []
    for name in MODELS:
        if args.only and args.only not in name:
            continue
        rows.append(measure(name, args.rounds))
        row = rows[-1]
        told = [
            f"{way} {min(row[way]['seconds']):.3g} s, error {row[way]['error']:.0e}"
            for way in row
            if isinstance(row[way], dict)
        ]
        print(f"{name}: {len(row['layers'])} layers; {'; '.join(told)}", flush=True)
    wrong = [row["name"] for row in rows if worst(row) > TOLERANCE]
    what = [f"mlx-audio {importlib.metadata.version('mlx-audio')}"]
    lines = ",\n".join(f"  {json.dumps(row)}" for row in rows)
    text = json.dumps({"what": [*explain.doctor().splitlines(), *what]}, indent=1)
    args.out.write_text(f'{text[:-2]},\n "rows": [\n{lines}\n ]\n}}\n')
    if wrong:
        raise SystemExit(f"more than {TOLERANCE} of the output's scale apart: {', '.join(wrong)}")


def worst(row: dict[str, Any]) -> float:
    return max(value["error"] for value in row.values() if isinstance(value, dict))


if __name__ == "__main__":
    main()
