"""Fits the model of polyconv/metal/seconds.py to published timings: metal_fit.json, metal_fit.md.

    python docs/benchmarks/metal_fit.py

Needs NumPy and SciPy. Every timing is of MLX on an Apple GPU, published by others (metal_rows.py).
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Collection, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import metal_page
import metal_rows
import numpy as np
from metal_rows import GPUS, Timing
from scipy.optimize import least_squares

from polyconv.metal.gpus import Gpu
from polyconv.metal.seconds import FITTED, NAMES, Kernel, Parameters, kernel_seconds, used_by

HERE = Path(__file__).parent

# Where the fit starts, and to what it is drawn, weakly: what no row tells stays there.
START = Parameters(
    launch=FITTED.launch,  # published: mlx #4521
    gemm=0.75,
    nax_gemm=2.5,
    implicit_2d=0.75,
    general_2d=0.5,
    implicit_3d=0.75,
    implicit_load=5.0,
    general_load=5.0,
    tile=5e4,
    gemm_fill=2.0,
    conv_fill=2.0,
    conv_bytes=0.5,
    depthwise=0.3,
    copy_32=0.9,
    copy_16=0.8,
    concat=0.85,
    unfold_wide=0.3,
    unfold_narrow=0.2,
)
PULL = 0.05
# Of the float32 peak, what simdgroup matrices reach at most (philipturner/metal-benchmarks: 0.80).
# Accelerators of their own have another peak. No kernel moves more than the memory.
MOST = {
    "gemm": 0.8,
    "implicit_2d": 0.8,
    "general_2d": 0.8,
    "implicit_3d": 0.8,
    "conv_bytes": 0.95,
    "depthwise": 0.95,
    "copy_32": 0.95,
    "copy_16": 0.95,
    "concat": 0.95,
    "unfold_wide": 0.95,
    "unfold_narrow": 0.95,
}
FREE = tuple(name for name in NAMES if name != "launch")


class Columns:
    """The kernels of timings as arrays, by family, so that all are computed at once."""

    def __init__(self, timings: Sequence[Timing]) -> None:
        found: dict[str, list[tuple[int, Kernel, Gpu]]] = defaultdict(list)
        for i, timing in enumerate(timings):
            for kernel in timing.kernels:
                found[kernel.family].append((i, kernel, GPUS[timing.device]))
        self.n_rows = len(timings)
        self.families = []
        for each in found.values():
            rows, kernels, gpus = zip(*each, strict=True)
            together = replace(kernels[0], **_stacked(kernels, Kernel, "family", "kind"))
            gpu = Gpu(**_stacked(gpus, Gpu))
            self.families.append((np.array(rows), together, gpu))

    def seconds(self, parameters: Parameters) -> np.ndarray:
        """Of the kernels of each timing, without the evaluation."""
        total = np.zeros(self.n_rows)
        for rows, kernels, gpus in self.families:
            np.add.at(total, rows, kernel_seconds(kernels, gpus, parameters))
        return total


def _stacked(items: Sequence[Any], of: type, *but: str) -> dict[str, Any]:
    names = [field.name for field in fields(of) if field.name not in but]
    return {name: np.array([getattr(item, name) for item in items], float) for name in names}


def floor_of(timing: Timing) -> tuple[str, str] | None:
    """Who shares an evaluation's own time with it: what a source timed, op by op, on a device."""
    singly = timing.source.startswith(("TristanBilot", "Lazarus"))
    return (timing.source, timing.device) if singly else None


def fit(timings: Sequence[Timing]) -> tuple[Parameters, dict[tuple[str, str], float]]:
    """The parameters, and the seconds of an evaluation by source and device."""
    keys = sorted({key for timing in timings if (key := floor_of(timing))})
    columns, measured = Columns(timings), np.array([timing.seconds for timing in timings])
    which = np.array([keys.index(key) if (key := floor_of(t)) else -1 for t in timings])
    start = np.log([getattr(START, name) for name in FREE])
    least = [min(timing.seconds for timing in timings if floor_of(timing) == key) for key in keys]

    def residuals(logs: np.ndarray) -> np.ndarray:
        parameters = _parameters(logs[: len(FREE)])
        floors = np.append(np.exp(logs[len(FREE) :]), 0.0)
        errors = np.log((columns.seconds(parameters) + floors[which]) / measured)
        # The loss is the root of 1 + (error / 0.15)^2, so the pull is scaled likewise.
        return np.concatenate([errors, PULL * (logs[: len(FREE)] - start)])

    first = np.concatenate([start, np.log(least) - 0.2])
    most = np.full(first.size, np.inf)
    most[: len(FREE)] = [np.log(MOST.get(name, np.inf)) for name in FREE]
    bounds = (-np.inf, most)
    found = least_squares(residuals, first, bounds=bounds, loss="soft_l1", f_scale=0.15).x
    floors = dict(zip(keys, np.exp(found[len(FREE) :]).tolist(), strict=True))
    return _parameters(found[: len(FREE)]), floors


def _parameters(logs: np.ndarray) -> Parameters:
    return Parameters(FITTED.launch, *np.exp(logs).tolist())


def floors_by(parameters: Parameters, timings: Sequence[Timing]) -> dict[tuple[str, str], float]:
    """The evaluation's time of each source and device, by what is no convolution there."""
    rest: dict[tuple[str, str], list[float]] = defaultdict(list)
    columns = Columns(timings).seconds(parameters)
    for timing, computed in zip(timings, columns, strict=True):
        key = floor_of(timing)
        if key and not timing.is_convolution and computed < timing.seconds / 2:
            rest[key].append(timing.seconds - computed)
    return {key: float(np.median(each)) for key, each in rest.items()}


def predicted(
    parameters: Parameters, floors: dict[tuple[str, str], float], timings: Sequence[Timing]
) -> list[tuple[float, float]]:
    """Of each timing the seconds predicted, and what of that is the evaluation's."""
    computed = Columns(timings).seconds(parameters).tolist()
    own = [floors.get(floor_of(timing) or ("", ""), 0.0) for timing in timings]
    return [(kernels + floor, floor) for kernels, floor in zip(computed, own, strict=True)]


def left_out(timings: Sequence[Timing], key: Callable[[Timing], str]) -> list[float]:
    """The seconds predicted of each by a fit to those that have another key.

    An evaluation's own time, where that fit has none, is taken from what is no convolution.
    """
    told: dict[int, float] = {}
    for each in sorted({key(timing) for timing in timings}):
        its = [i for i, timing in enumerate(timings) if key(timing) == each]
        own = [timings[i] for i in its]
        parameters, floors = fit([timing for timing in timings if key(timing) != each])
        floors = {**floors_by(parameters, own), **floors}
        seconds = [both for both, _ in predicted(parameters, floors, own)]
        told.update(zip(its, seconds, strict=True))
    return [told[i] for i in range(len(timings))]


def _chip(device: str) -> str:
    """One chip may go by several names: `m2-ultra` and `m2-ultra-76c`."""
    gpu = GPUS[device]
    return f"{device.split('-')[0]} {gpu.cores} {gpu.bandwidth}"


def rounded(parameters: Parameters) -> Parameters:
    values = {name: float(f"{getattr(parameters, name):.3g}") for name in NAMES}
    return Parameters(**values)


def rows_behind(timings: Collection[Timing]) -> dict[str, int]:
    """How many timings each parameter rests on: those with a kernel that asks for it."""
    return {
        name: sum(any(name in used_by(k.family) for k in t.kernels) for t in timings)
        for name in FREE
    }


def main() -> None:
    timings = metal_rows.read()
    parameters, floors = fit(timings)
    parameters = rounded(parameters)
    found = {
        "parameters": {name: getattr(parameters, name) for name in NAMES},
        "rows": rows_behind(timings),
        "floors": [[*key, float(f"{1e3 * value:.3g}")] for key, value in sorted(floors.items())],
        "timings": [
            {
                "source": timing.source,
                "device": timing.device,
                "family": timing.family,
                "what": timing.what,
                "repeats": timing.n_repeats,
                "ms": float(f"{1e3 * timing.seconds:.4g}"),
                "fit_ms": float(f"{1e3 * fitted:.4g}"),
                "left_out_ms": float(f"{1e3 * apart:.4g}"),
                "new_shape_ms": float(f"{1e3 * new:.4g}"),
                "floor_ms": float(f"{1e3 * floor:.3g}"),
            }
            for timing, (fitted, floor), apart, new in zip(
                timings,
                predicted(parameters, floors, timings),
                left_out(timings, lambda timing: _chip(timing.device)),
                left_out(timings, lambda timing: timing.what),
                strict=True,
            )
        ],
    }
    found["tested"] = metal_page.tested(found["timings"])
    (HERE / "metal_fit.json").write_text(json.dumps(found, indent=1) + "\n")
    page = metal_page.page(found)
    (HERE / "metal_fit.md").write_text(page)
    print(page[: page.index("## Every row")])


if __name__ == "__main__":
    main()
