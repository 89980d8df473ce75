"""Times one polyconv model against the same weights in plain MLX, on the same inputs.

Answers: how far apart are the two outputs, how long did each take, and how much memory did
each need? Every number is measured on what it is printed for; nothing is scaled up.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import mlx.core as mx
import mlx.nn as nn
from hifigan import LEAKY_SLOPE, Generator, OnStep

Forward = Callable[[mx.array, OnStep], mx.array]

FIRST_PROBE_FRAMES = 4
# A probe is at most this many times longer than the one before, whose speed it relies on.
PROBE_GROWTH = 4
LAYER_REPEATS = 3


class Watch(Protocol):
    """Opens a progress display; what it returns is called after each step, with its name."""

    def __call__(self, description: str, steps: int | None = None) -> Callable[[str], None]: ...


@dataclass(frozen=True)
class Run:
    """One measured computation.

    Args:
        output: evaluated result.
        seconds: wall-clock time from evaluated input to evaluated output.
        peak_bytes: most memory live during it, beyond what was live before it.
    """

    output: mx.array
    seconds: float
    peak_bytes: int


@dataclass(frozen=True)
class Comparison:
    """Both ways of computing one thing from one input.

    Args:
        name: the layer or the model.
        input_shape: shape of the common input.
        polyconv: run with polyconv's layers.
        native: run with MLX's layers, or None where only polyconv ran.
    """

    name: str
    input_shape: tuple[int, ...]
    polyconv: Run
    native: Run | None

    def max_abs_difference(self) -> float | None:
        """Largest absolute difference between the two outputs, None without a native one."""
        if self.native is None:
            return None
        return float(mx.max(mx.abs(self.polyconv.output - self.native.output)))


def run_once(compute: Callable[[], mx.array]) -> Run:
    """Time one computation whose inputs are evaluated already.

    Args:
        compute: builds, and may evaluate, the result.

    Returns:
        The run.
    """
    mx.synchronize()
    mx.reset_peak_memory()
    live = mx.get_active_memory()
    start = time.perf_counter()
    output = compute()
    mx.eval(output)
    mx.synchronize()
    seconds = time.perf_counter() - start
    return Run(output, seconds, max(0, mx.get_peak_memory() - live))


def run_model(forward: Forward, mel: mx.array, step: Callable[[str], None]) -> Run:
    """Time one pass of a model, evaluated layer by layer so that its progress can show.

    Args:
        forward: ``Generator.__call__`` or ``Generator.upsampling_stack``.
        mel: log-mel, shape (1, T, 80).
        step: called with the name of each layer or block once it is evaluated.

    Returns:
        The run.
    """

    def evaluate(name: str, x: mx.array) -> None:
        mx.eval(x)
        step(name)

    mx.eval(mel)
    return run_once(lambda: forward(mel, evaluate))


def probe_native(forward: Forward, mel: mx.array, budget: float, watch: Watch) -> tuple[int, Run]:
    """Run a native model, warm, on as many frames as it passes twice in ``budget`` seconds.

    Args:
        forward: the native model's pass.
        mel: log-mel of the whole clip, shape (1, T, 80).
        budget: seconds for the last two passes, of which the second is reported. The speed of
            each probe chooses the length of the next one, and is not reported.
        watch: opens a progress display for one pass.

    Returns:
        The number of frames of the last pass, at most T, and its run.
    """
    total = mel.shape[1]
    frames = min(FIRST_PROBE_FRAMES, total)
    while True:
        run = run_model(forward, mel[:, :frames], watch(f"native, {frames} frames"))
        affordable = int(frames * budget / 2 / run.seconds)
        longer = min(affordable, PROBE_GROWTH * frames, total)
        # Under a quarter more is not worth another pass.
        if (longer < 1.25 * frames and longer < total) or frames == total:
            return frames, run_model(forward, mel[:, :frames], watch(f"native, {frames} frames"))
        frames = longer


def compare_layers(
    polyconv: Generator, native: Generator | None, mel: mx.array, watch: Watch
) -> list[Comparison]:
    """Compare each upsampling layer on the activation it gets in the upsampling stack.

    Args:
        polyconv: generator with polyconv's layers.
        native: generator with MLX's layers and the same weights, or None.
        mel: log-mel, shape (1, T, 80).
        watch: opens a progress display.

    Returns:
        One comparison a layer.
    """
    outputs: list[mx.array] = []
    polyconv.upsampling_stack(mel, lambda name, x: outputs.append(x))
    # Each layer reads the leaky ReLU of the step before it.
    inputs = [nn.leaky_relu(x, LEAKY_SLOPE) for x in outputs[:-1]]
    mx.eval(inputs)
    step = watch(f"each upsampling layer, {mel.shape[1]} frames", len(inputs))
    rows = []
    for i, x in enumerate(inputs):
        fast = run_repeatedly(polyconv.ups[i], x)
        slow = run_repeatedly(native.ups[i], x) if native else None
        rows.append(Comparison(f"ups.{i}", tuple(x.shape), fast, slow))
        step(f"ups.{i}")
    return rows


def run_repeatedly(compute: Callable[[mx.array], mx.array], x: mx.array) -> Run:
    """Median time of a few runs after a warm-up.

    Args:
        compute: a layer or an op.
        x: its input, evaluated already.

    Returns:
        The last run, with the median of their times.
    """
    runs = [run_once(lambda: compute(x)) for _ in range(1 + LAYER_REPEATS)][1:]
    return Run(runs[-1].output, statistics.median(r.seconds for r in runs), runs[-1].peak_bytes)
