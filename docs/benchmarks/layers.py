"""Measures transposed convolutions of real models: MLX's own op against polyconv.

    make layers            (see docs/benchmarks/README.md for the BLAS to preload)

MLX's own op, polyconv as it is, each of its methods, and polyconv with a packed weight run in turn
on the same data, after a warm-up; times are medians, the ratio is the median of the ratios of each
round. Errors are against float64. Peak memory is MLX's, beyond input and weight. Writes layers.json
next to this file, or to `--out`; `--readme` writes the table of layers.json into README.md.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from rich.progress import track

import polyconv
from polyconv import spec
from polyconv.plan import plan

HERE = Path(__file__).parent
RESULTS = HERE / "layers.json"
README = HERE.parents[1] / "README.md"
ROUNDS = 9
SLOW = 5.0  # seconds; a call that takes longer is measured once

# name, input, weight, stride, padding, output padding, groups
CASES: list[tuple[str, tuple[int, ...], tuple[int, ...], int, int, int, int]] = [
    ("HiFi-GAN up 1, 128 frames", (1, 128, 512), (256, 16, 512), 8, 4, 0, 1),
    ("HiFi-GAN up 2, 1024 frames", (1, 1024, 256), (128, 16, 256), 8, 4, 0, 1),
    ("HiFi-GAN up 3, 8192 frames", (1, 8192, 128), (64, 4, 128), 2, 1, 0, 1),
    ("HiFi-GAN up 1, 1 frame", (1, 1, 512), (256, 16, 512), 8, 4, 0, 1),
    ("ISTFT, 256 frames", (1, 256, 1026), (1, 1024, 1026), 256, 0, 0, 1),
    ("overlap-add K4096 s1024", (1, 5158, 1), (1, 4096, 1), 1024, 0, 0, 1),
    ("depthwise K12 s2, 512 channels", (1, 1000, 512), (512, 12, 1), 2, 5, 0, 512),
    ("2D 4x4 s2, 16x16, batch 8", (8, 16, 16, 256), (128, 4, 4, 256), 2, 1, 0, 1),
    ("2D 3x3 s2, 32x32", (1, 32, 32, 128), (64, 3, 3, 128), 2, 1, 1, 1),
    ("2D 2x2 s2, 64x64", (1, 64, 64, 128), (64, 2, 2, 128), 2, 0, 0, 1),
    ("3D 2x2x2 s2, 16x16x16", (1, 16, 16, 16, 64), (32, 2, 2, 2, 64), 2, 0, 0, 1),
    ("tiny: K4 s2, 4 frames, 4 channels", (1, 4, 4), (4, 4, 4), 2, 1, 0, 1),
]


def exact(x: np.ndarray, w: np.ndarray, stride: int, padding: int, extra: int, groups: int) -> Any:
    """The transposed convolution in float64, by overlap-add: each sample adds a scaled kernel."""
    x, w = x.astype(np.float64), w.astype(np.float64)
    kernel, sizes = w.shape[1:-1], x.shape[1:-1]
    full = [(n - 1) * stride + k + max(extra, 0) for n, k in zip(sizes, kernel)]
    y = np.zeros((x.shape[0], *full, w.shape[0]))
    for k in np.ndindex(*kernel):
        at = [slice(i, i + (n - 1) * stride + 1, stride) for i, n in zip(k, sizes)]
        if groups > 1:  # depthwise
            y[(slice(None), *at)] += x * w[(slice(None), *k)][:, 0]
        else:
            y[(slice(None), *at)] += x @ w[(slice(None), *k)].T
    stop = [n + extra - padding - max(extra, 0) for n in full]
    return y[(slice(None), *[slice(padding, n) for n in stop])]


def run(call: Callable[[], mx.array]) -> tuple[mx.array, float, int]:
    """The result, seconds and bytes of peak memory of one evaluated call."""
    mx.clear_cache()
    before = mx.get_active_memory()
    mx.reset_peak_memory()
    start = time.perf_counter()
    y = call()
    mx.eval(y)
    return y, time.perf_counter() - start, mx.get_peak_memory() - before


def measure(case: tuple[Any, ...]) -> dict[str, Any]:
    name, x_shape, w_shape, stride, padding, extra, groups = case
    rng = np.random.default_rng(0)
    x, w = (rng.standard_normal(s).astype(np.float32) for s in (x_shape, w_shape))
    w /= np.sqrt(np.prod(w_shape[1:]))
    op = f"conv_transpose{len(x_shape) - 2}d"
    arrays = mx.array(x), mx.array(w)
    mx.eval(arrays)
    packed = polyconv.pack(arrays[1])
    options = (stride, padding, 1, extra, groups)
    calls = {
        "native": lambda: getattr(mx, op)(*arrays, *options),
        "polyconv": lambda: getattr(polyconv, op)(*arrays, *options),
        "per_phase": lambda: getattr(polyconv, op)(*arrays, *options, method="per_phase"),
        "stacked": lambda: getattr(polyconv, op)(*arrays, *options, method="stacked"),
        "taps": lambda: getattr(polyconv, op)(*arrays, *options, method="taps"),
        "packed": lambda: getattr(polyconv, op)(arrays[0], packed, *options),
    }
    expected = exact(x, w, stride, padding, extra, groups)
    ndim = len(x_shape) - 2
    per_axis = [(option,) * ndim for option in options[:4]]
    problem = spec.transposed(op, x_shape, w_shape, ("float32",) * 2, *per_axis, groups)
    row: dict[str, Any] = {"case": name, "input": x_shape, "weight": w_shape, "stride": stride}
    row["auto"] = plan(problem).method
    times: dict[str, list[float]] = {lib: [] for lib in calls}
    mx.eval(calls["packed"]())  # cut up outside the timed call
    for lib, call in calls.items():  # the warm-up, and what does not vary
        y, seconds, peak = run(call)
        error = float(np.max(np.abs(np.array(y) - expected)))
        row[lib] = {"max_abs_error": error, "peak_mb": peak / 1e6}
        times[lib] = [seconds] if seconds > SLOW else []
    slow = bool(times["native"])
    order = [lib for lib in calls if lib != "native" or not slow]
    for _ in range(ROUNDS):
        for lib in order:
            times[lib].append(run(calls[lib])[1])
        order = [*order[1:], order[0]]  # what runs before leaves its mark on memory
    for lib in calls:
        row[lib]["ms"] = statistics.median(times[lib]) * 1e3
        row[lib]["ms_all"] = [round(t * 1e3, 4) for t in times[lib]]
    native = times["native"] * (ROUNDS if slow else 1)
    row["ratio"] = statistics.median(a / b for a, b in zip(native, times["polyconv"]))
    return row


def gemm_gflops() -> float:
    """What one float32 product of 1024 by 1024 matrices reaches: it tells the BLAS apart."""
    a = mx.random.normal((1024, 1024))
    mx.eval(a, a @ a)
    return 2 * 1024**3 / min(run(lambda: a @ a)[1] for _ in range(5)) / 1e9


def table(results: dict[str, Any]) -> str:
    lines = [
        "| layer | `mx.conv_transpose*` | polyconv | ratio | packed once "
        "| max abs error, MLX / polyconv | peak MB, MLX / polyconv |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for row in results["rows"]:
        a, b = row["native"], row["polyconv"]
        lines.append(
            f"| {row['case']} | {_time(a['ms'])} | {_time(b['ms'])} | {_ratio(row['ratio'])} "
            f"| {_time(row['packed']['ms'])} "
            f"| {a['max_abs_error']:.1e} / {b['max_abs_error']:.1e} "
            f"| {a['peak_mb']:.3g} / {b['peak_mb']:.3g} |"
        )
    return "\n".join(lines)


def _time(ms: float) -> str:
    return f"{ms / 1e3:.3g} s" if ms >= 1e3 else f"{ms:.3g} ms"


def _ratio(ratio: float) -> str:
    return f"{ratio:,.0f}" if ratio >= 10 else f"{ratio:.2g}"


def in_readme(text: str, results: dict[str, Any]) -> str:
    """`text` with the table between its two markers replaced."""
    start, stop = "<!-- layers -->\n", "\n<!-- /layers -->"
    head, rest = text.split(start)
    return head + start + table(results) + stop + rest.split(stop)[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--readme", action="store_true", help="write the table into README.md")
    parser.add_argument("--out", type=Path, default=RESULTS, help="default: layers.json")
    args = parser.parse_args()
    if args.readme:
        results = json.loads(RESULTS.read_text())
        README.write_text(in_readme(README.read_text(), results))
        return
    device = "GPU" if mx.default_device().type == mx.gpu else "CPU"
    results = {
        "mlx": mx.__version__,
        "device": f"{device}, {platform.system()} {platform.machine()}",
        "matmul_gflops": round(gemm_gflops(), 1),
        "rows": [measure(case) for case in track(CASES, "measuring")],
    }
    args.out.write_text(json.dumps(results, indent=1) + "\n")
    print(table(results))
    print(f"MLX {results['mlx']}, {results['device']}, matmul {results['matmul_gflops']} GFLOP/s")


if __name__ == "__main__":
    main()
