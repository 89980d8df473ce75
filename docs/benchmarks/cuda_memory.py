"""What keeps memory on an NVIDIA GPU: HiFi-GAN V1 over a batch, with MLX's settings changed.

    python docs/benchmarks/cuda_memory.py [--out cuda_memory.json] [--batch 16]

Each setting has a process of its own, as MLX reads the environment when it starts. Of each the
milliseconds of a call, the peak of memory beyond weights and input, and what MLX's cache holds.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
GIB = 2**30
GRAPH = "MLX_MAX_MB_PER_BUFFER"
# A name, the environment, and limits in bytes by the name of MLX's function.
SETTINGS: tuple[tuple[str, dict[str, str], dict[str, int]], ...] = (
    ("as MLX sets it", {}, {}),
    (f"{GRAPH}=100", {GRAPH: "100"}, {}),
    ("MLX_MAX_OPS_PER_BUFFER=4", {"MLX_MAX_OPS_PER_BUFFER": "4"}, {}),
    ("set_cache_limit(0)", {}, {"set_cache_limit": 0}),
    ("set_memory_limit(2 GiB)", {}, {"set_memory_limit": 2 * GIB}),
    (f"{GRAPH}=16, set_memory_limit(2 GiB)", {GRAPH: "16"}, {"set_memory_limit": 2 * GIB}),
)


def measured(batch: int, frames: int, limits: dict[str, int]) -> dict[str, Any]:
    """In this process: the model as it is, and converted."""
    import mlx.core as mx
    from cuda_models import mlx_model

    from polyconv.bench.stopwatch import rounded, timed

    for name, limit in limits.items():
        getattr(mx, name)(limit)
    found: dict[str, Any] = {}
    for name, ours in (("MLX", False), ("polyconv", True)):
        model = mlx_model("v1", 1, "float32", ours)
        x = mx.random.normal((batch, frames, 80))
        mx.eval(x, model.parameters())
        run = lambda model=model, x=x: model(x)  # noqa: E731
        timed(run)
        mx.clear_cache()
        told = [timed(run) for _ in range(5)]
        found[name] = {
            "ms": rounded(1e3 * statistics.median(each[1] for each in told)),
            "peak_mib": max(each[2] for each in told) >> 20,
            "cache_mib": mx.get_cache_memory() >> 20,
        }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=HERE / "cuda_memory.json")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--frames", type=int, default=862)
    parser.add_argument("--one", type=int, default=-1, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one >= 0:
        print(json.dumps(measured(given.batch, given.frames, SETTINGS[given.one][2])))
        return
    rows = []
    for i, (name, environment, _) in enumerate(SETTINGS):
        command = [sys.executable, __file__, "--one", str(i)]
        command += ["--batch", str(given.batch), "--frames", str(given.frames)]
        told = subprocess.run(
            command, env={**os.environ, **environment}, capture_output=True, text=True
        )
        if told.returncode:
            raise SystemExit(told.stderr[-2000:])
        rows.append({"setting": name, **json.loads(told.stdout.splitlines()[-1])})
        print(rows[-1], flush=True)
    lines = ",\n".join(f"  {json.dumps(row)}" for row in rows)
    model = f"HiFi-GAN V1, {given.batch} x {given.frames}, float32"
    given.out.write_text(f'{{\n "model": "{model}",\n "rows": [\n{lines}\n ]\n}}\n')


if __name__ == "__main__":
    main()
