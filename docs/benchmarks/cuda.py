"""Parity and times on an NVIDIA GPU, written to cuda.json, within eight minutes.

    python docs/benchmarks/cuda.py [--out cuda.json] [--seconds 450] [--jobs 12]

Needs MLX's CUDA backend and PyTorch. Cases of every method and of both gradients against the
float64 reference first, by `==`, in several processes; then the table, alone on the GPU: each case
of cases.toml as it stands, and with 32 times its batch. What the time does not allow is left out,
and said so.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, wait
from pathlib import Path
from typing import Any

import mlx.core as mx

from polyconv.bench import timing
from polyconv.bench.cases import read
from polyconv.inspection import explain
from polyconv.planning.choose import plan
from polyconv.planning.devices import CUDA
from polyconv.problem.signatures import problem_of

HERE = Path(__file__).parent
BATCHES = (1, 32)
TRAINED = ("HiFi-GAN up 2, 1024 frames", "DAC up 3, 5568 frames", "DCGAN 3, 16x16, batch 1")
METHODS = ("auto", "per_phase", "stacked", "taps")


def parity(job: tuple[str, int, int]) -> tuple[str, Counter[str] | str]:
    """Counts of one process, or what differed."""
    kind, seed, n = job
    sys.path.insert(0, str(HERE.parents[1]))
    from tests.campaigns import sweep

    try:
        if kind == "gradients":
            return kind, Counter({"gradients": sweep.sweep_gradients(n, seed)["agreed"]})
        # MLX's own op is left out: on CUDA its numbers depend on what ran before.
        return kind, sweep.sweep(n, seed, methods=METHODS)[0]
    except Exception as error:
        return kind, f"{kind}, seed {seed}: {type(error).__name__}: {error}"


def all_parity(jobs: int, n: int, seconds: float | None = None) -> dict[str, Any]:
    """At least `n` cases of each method, and of the gradients, over so many processes.

    After so many seconds what is there is told, and how many parts are not.
    """
    seeds = 4 * jobs
    kinds = ("methods", "gradients")
    todo = [(kind, seed, -(-n // seeds)) for seed in range(seeds) for kind in kinds]
    agreed: Counter[str] = Counter()
    failures: list[str] = []
    pool = ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn"))
    parts = [pool.submit(parity, each) for each in todo]
    done, missing = wait(parts, seconds)
    for part in done:
        found = str(part.exception()) if part.exception() else part.result()[1]
        if isinstance(found, str):
            failures.append(found)
        else:
            agreed += found
    for process in list(pool._processes.values()) if missing else []:
        process.kill()
    pool.shutdown(wait=not missing, cancel_futures=True)
    return {"agreed": dict(agreed), "failures": failures, "parts_missing": len(missing)}


def table(batch: int, until: float) -> Iterator[dict[str, Any] | str]:
    """The rows, and of those that the time did not allow the names. Long kernels come last."""
    for case in sorted(read(HERE / "cases.toml"), key=lambda case: case["weight"][1] > 256):
        case = {**case, "input": (batch * case["input"][0], *case["input"][1:])}
        if time.monotonic() > until:
            yield f"{case['name']}, {batch} times the batch"
            continue
        (row,) = timing.bench_cases(
            [case],
            rounds=7,
            seconds=0.7,
            methods=METHODS,
            rivals=("torch_cuda",),
            errors=batch == 1,
        )
        told = [f"{name} {each['ms']:.3g}" for name, each in row["timings"].items()]
        print(f"{batch} x {case['name']}: {', '.join(told)} ms", flush=True)
        yield {**row, "times_batch": batch, "auto_takes": taken(row)}


def taken(row: dict[str, Any]) -> str:
    """The method that `auto` takes on CUDA."""
    keys = ("op", "input", "weight", "name", "readme", "shared", "output_bytes", "macs", "timings")
    options = {key: value for key, value in row.items() if key not in keys}
    shapes = tuple(row["input"]), tuple(row["weight"])
    return plan(problem_of(row["op"], *shapes, "float32", options), device=CUDA).method


def steps() -> list[dict[str, Any]]:
    """The output and both gradients, for a few layers with 32 times their batch."""
    rows = []
    for case in read(HERE / "cases.toml"):
        if case["name"] in TRAINED:
            case = {**case, "input": (32 * case["input"][0], *case["input"][1:])}
            rows += timing.bench_cases([case], rounds=7, seconds=0.7, train=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=HERE / "cuda.json")
    parser.add_argument("--seconds", type=float, default=450)
    parser.add_argument("--jobs", type=int, default=12)
    parser.add_argument("--cases", type=int, default=2400, help="of parity, per method")
    args = parser.parse_args()
    start = time.monotonic()
    info = mx.device_info(mx.gpu) if mx.default_device() == mx.gpu else {}
    found = {
        "what": [*explain.doctor().splitlines(), f"GPU: {info.get('device_name')}", *peers()],
        "parity": all_parity(args.jobs, args.cases),
    }
    print(found["parity"], flush=True)
    rows: list[dict[str, Any]] = []
    left_out: list[str] = []
    found["train"] = steps()
    for i, batch in enumerate(BATCHES):
        for row in table(batch, start + args.seconds * (i + 1) / len(BATCHES)):
            if isinstance(row, str):
                left_out.append(row)
            else:
                rows.append(row)
            lines = ",\n".join(f"  {json.dumps(each)}" for each in rows)
            text = json.dumps({**found, "left_out": left_out}, indent=1)
            args.out.write_text(f'{text[:-2]},\n "rows": [\n{lines}\n ]\n}}\n')


def peers() -> list[str]:
    try:
        import torch
    except ImportError:
        return []
    return [f"PyTorch {torch.__version__}, cuDNN {torch.backends.cudnn.version()}, TF32 allowed"]


if __name__ == "__main__":
    main()
