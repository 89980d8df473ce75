"""Writes docs/benchmarks/rivals.md and its plot from rivals.json.

    polyconv bench --cases docs/benchmarks/cases.toml --rivals torch,onnxruntime,jax \
        --no-native --out docs/benchmarks/rivals.json
    python docs/benchmarks/page.py
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
RIVALS = ("torch", "torch channels last", "onnxruntime", "jax")

HEAD = """# Against other frameworks

Times in milliseconds of one transposed convolution in float32, medians of interleaved rounds, on 2
CPU cores of a shared machine: quote ratios, not times. MLX with OpenBLAS preloaded, 2 threads for
everybody, the weights of all but `auto` prepared before. *best rival* is the fastest of PyTorch
(either layout), ONNX Runtime and JAX; the ratio is its time over that of `packed`, above 1 where
polyconv is faster. *matmul* is one product of as many multiply-accumulates, the limit of a layer
without groups. Errors are the largest against float64, of `packed` and of PyTorch. *peak* is what
MLX allocates for `packed` at most at a time, its output included, over the size of the output.

| layer | `auto` | `packed` | best rival | | ratio | `packed` / matmul | error | peak / output |
|---|---:|---:|---:|---|---:|---:|---:|---:|
"""


def rival_of(timings: dict[str, Any]) -> tuple[str, float]:
    """The fastest other framework and its milliseconds."""
    found = {name: timings[name]["ms"] for name in RIVALS if name in timings}
    name = min(found, key=lambda name: found[name])
    return name, found[name]


def page(results: dict[str, Any]) -> str:
    lines, ratios, limits = [], [], []
    for row in results["rows"]:
        timings = row["timings"]
        name, best = rival_of(timings)
        ours = timings["packed"]
        ratios.append(best / ours["ms"])
        limit = "-"
        if "matmul" in timings:
            limits.append(ours["ms"] / timings["matmul"]["ms"])
            limit = f"{limits[-1]:.2f}"
        errors = " / ".join(_error(timings.get(name, {})) for name in ("packed", "torch"))
        lines.append(
            f"| {row['name']} | {timings['auto']['ms']:.3g} | {ours['ms']:.3g} | {best:.3g} "
            f"| {name} | {ratios[-1]:.2f} | {limit} | {errors} "
            f"| {ours['peak_bytes'] / row['output_bytes']:.2f} |\n"
        )
    return HEAD + "".join(lines) + _summary(results, ratios, limits)


def _summary(results: dict[str, Any], ratios: list[float], limits: list[float]) -> str:
    return (
        f"\nGeometric mean of the ratios {_mean(ratios):.2f}, least {min(ratios):.2f}, above 1 in "
        f"{sum(ratio > 1 for ratio in ratios)} of {len(ratios)}. Geometric mean over matmul "
        f"{_mean(limits):.2f}, most {max(limits):.2f}.\n\n"
        "![ratio to the best rival](rivals.png)\n\n"
        + "".join(f"    {line}\n" for line in results["what"] if "BLAS" in line or "MLX" in line)
    )


def _error(timing: dict[str, Any]) -> str:
    error = timing.get("error")
    return "-" if error is None else f"{error:.0e}"


def _mean(values: list[float]) -> float:
    return math.exp(sum(map(math.log, values)) / len(values))


def plot(results: dict[str, Any]) -> None:
    import matplotlib.pyplot as plt

    rows = results["rows"][::-1]
    ratios = [rival_of(row["timings"])[1] / row["timings"]["packed"]["ms"] for row in rows]
    figure, axes = plt.subplots(figsize=(8, 0.24 * len(rows) + 1), layout="constrained")
    colours = ["#2a7f62" if ratio >= 1 else "#b5523b" for ratio in ratios]
    axes.barh([row["name"] for row in rows], ratios, color=colours)
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set_xscale("log")
    axes.set_xlabel("time of the best other framework / time of polyconv, weights packed")
    axes.tick_params(labelsize=8)
    figure.savefig(HERE / "rivals.png", dpi=110)


def main() -> None:
    results = json.loads((HERE / "rivals.json").read_text())
    (HERE / "rivals.md").write_text(page(results))
    plot(results)


if __name__ == "__main__":
    main()
