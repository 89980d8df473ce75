"""What a step of a stream costs, in chunks of 1 to 64 frames, written to streaming.json.

    python docs/benchmarks/streaming.py [--out streaming.json] [--rounds 60]

The first layer of HiFi-GAN V1, K16 s8, 512 to 256 channels, float32, against the same by other
means, interleaved: the products that a step must make, the offline op on what the chunk depends on,
overlap-add as in public codecs, and PyTorch doing that. Each gives the same samples.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

import polyconv
from polyconv.inspection import explain

HERE = Path(__file__).parent
KERNEL, STRIDE, INPUTS, OUTPUTS = 16, 8, 512, 256
CHUNKS = (1, 2, 4, 16, 64)
Step = Callable[[], Any]


def competitors(frames: int, x: np.ndarray, w: np.ndarray) -> dict[str, Step]:
    """One step in the middle of a stream, by each; the state is carried from call to call."""
    chunk, weight = mx.array(x[:, :frames]), mx.array(w)
    packed = polyconv.pack(weight)
    options = {"stride": STRIDE}
    mx.eval(chunk, weight)
    state = [polyconv.stream_init("conv_transpose1d", packed, **options)]

    def step() -> mx.array:
        y, state[0] = polyconv.stream_step(state[0], chunk, packed)
        mx.eval(y, state[0].tail)
        return y

    before = mx.zeros((1, 1, INPUTS))
    taps = mx.array(np.random.default_rng(0).standard_normal((2, INPUTS, STRIDE * OUTPUTS)))
    taps = taps.astype(mx.float32)
    mx.eval(before, taps)

    def products() -> mx.array:
        both = mx.concatenate([before, chunk], 1)[0]
        y = mx.addmm(both[:-1] @ taps[0], both[1:], taps[1])
        mx.eval(y)
        return y

    def recompute() -> mx.array:
        both = mx.concatenate([before, chunk], 1)
        y = polyconv.conv_transpose1d(both, packed, **options)[:, STRIDE : (frames + 1) * STRIDE]
        mx.eval(y)
        return y

    return {
        "polyconv": step,
        "bare products": products,
        "recompute": recompute,
        "overlap-add, polyconv's op": overlap_add(lambda: polyconv.conv_transpose1d, chunk, packed),
        "overlap-add, MLX's op": overlap_add(lambda: mx.conv_transpose1d, chunk, weight),
        **by_torch(frames, x, w),
    }


def overlap_add(op: Callable[[], Any], chunk: mx.array, weight: Any) -> Step:
    """The whole output of a chunk, its tail carried over, as Mimi and others have it."""
    kept = [mx.zeros((1, KERNEL - STRIDE, OUTPUTS))]
    n = chunk.shape[1] * STRIDE

    def step() -> mx.array:
        y = op()(chunk, weight, STRIDE)
        head = y[:, : KERNEL - STRIDE] + kept[0]
        y = mx.concatenate([head, y[:, KERNEL - STRIDE :]], 1)
        kept[0] = y[:, n:]
        out = y[:, :n]
        mx.eval(out, kept[0])
        return out

    return step


def by_torch(frames: int, x: np.ndarray, w: np.ndarray) -> dict[str, Step]:
    try:
        import torch
    except ImportError:
        return {}
    torch.set_num_threads(2)
    chunk = torch.from_numpy(np.ascontiguousarray(x[:, :frames].transpose(0, 2, 1)))
    weight = torch.from_numpy(np.ascontiguousarray(w.transpose(2, 0, 1)))
    kept = [torch.zeros(1, OUTPUTS, KERNEL - STRIDE)]

    def step() -> Any:
        with torch.no_grad():
            y = torch.nn.functional.conv_transpose1d(chunk, weight, stride=STRIDE)
            y[..., : KERNEL - STRIDE] += kept[0]
            kept[0] = y[..., frames * STRIDE :].clone()
            return y[..., : frames * STRIDE]

    return {"overlap-add, PyTorch": step}


def measure(frames: int, rounds: int) -> dict[str, Any]:
    numbers = np.random.default_rng(frames)
    x = numbers.standard_normal((1, frames, INPUTS)).astype(np.float32)
    w = numbers.standard_normal((OUTPUTS, KERNEL, INPUTS)).astype(np.float32) / 64
    runs = competitors(frames, x, w)
    times: dict[str, list[float]] = {name: [] for name in runs}
    for run in runs.values():
        run()
        run()
    order, chance = list(runs), random.Random(0)
    for _ in range(rounds):
        chance.shuffle(order)
        for name in order:
            slow = times[name] and times[name][0] > 50
            if slow and len(times[name]) >= 5:
                continue
            runs[name]()  # untimed: the threads of whoever ran before still spin
            start = time.perf_counter()
            runs[name]()
            times[name].append(1e3 * (time.perf_counter() - start))
    mx.reset_peak_memory()
    active = mx.get_active_memory()
    for _ in range(20):
        runs["polyconv"]()
    told = {name: round(statistics.median(each), 4) for name, each in times.items()}
    spread = {
        name: [round(q, 4) for q in statistics.quantiles(t, n=4)] for name, t in times.items()
    }
    output = 4 * frames * STRIDE * OUTPUTS
    return {
        "frames": frames,
        "ms": told,
        "quartiles": spread,
        "peak_over_output": round((mx.get_peak_memory() - active) / output, 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=HERE / "streaming.json")
    parser.add_argument("--rounds", type=int, default=60)
    args = parser.parse_args()
    rows = []
    for frames in CHUNKS:
        rows.append(measure(frames, args.rounds))
        print(frames, rows[-1]["ms"], rows[-1]["peak_over_output"], flush=True)
    found = {"what": explain.doctor().splitlines(), "rows": rows}
    args.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
