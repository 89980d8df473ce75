"""How long does each method take for one call, here and now?"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx

from polyconv import arguments, ops
from polyconv.explanation import TRANSPOSED, problem_of
from polyconv.plan import METHODS

_SLOW = 1.0  # seconds; what takes longer is run once


@dataclass(frozen=True)
class Timing:
    """Milliseconds over all rounds, peak memory, and the largest difference from MLX's own op."""

    name: str
    median: float
    quartiles: tuple[float, float]
    peak_bytes: int
    difference: float


def bench(
    op: str,
    input: Sequence[int],
    weight: Sequence[int],
    *,
    dtype: str = "float32",
    rounds: int = 15,
    **options: Any,
) -> list[Timing]:
    """Times MLX's own op, the same lifted to 2D in 1D, and each method, in interleaved rounds.

    Args:
        op (str): One of the transposed convolutions.
        input (list(int)): The shape of ``x``.
        weight (list(int)): The shape of ``w``.
        dtype (str, optional): Of both. Default: ``"float32"``.
        rounds (int, optional): How often each is run, after one run to warm up, but for what
            takes longer than a second. Default: ``15``.
        options: The call's own, such as ``stride=2``.

    Returns:
        list(Timing): What cannot compute the call is left out.

    Raises:
        ValueError: As the op itself would.
    """
    problem = problem_of(op, tuple(input), tuple(weight), dtype, options)
    arguments.positive("bench", "rounds", rounds)
    if problem.is_empty:
        arguments.refuse("bench", "arrays must have elements", f"{input} and {weight}")
    x = mx.random.normal(tuple(input)).astype(getattr(mx, dtype))
    w = (mx.random.normal(tuple(weight)) / 8).astype(getattr(mx, dtype))
    mx.eval(x, w)
    runs = _competitors(op, x, w, options)
    outputs: dict[str, mx.array] = {}
    peaks: dict[str, int] = {}
    times: dict[str, list[float]] = {}
    for name, run in runs.items():
        try:
            mx.reset_peak_memory()
            outputs[name], seconds = _timed(run)
        except (ValueError, RuntimeError):
            continue
        peaks[name] = mx.get_peak_memory()
        times[name] = [seconds] if seconds > _SLOW else []
    fast = [name for name in times if not times[name]]
    for _ in range(rounds):
        for name in fast:
            times[name].append(_timed(runs[name])[1])
    first = next(iter(outputs.values()))
    return [
        Timing(
            name,
            1e3 * statistics.median(each),
            _quartiles(each),
            peaks[name],
            mx.abs(outputs[name].astype(mx.float32) - first.astype(mx.float32)).max().item(),
        )
        for name, each in times.items()
    ]


def _competitors(
    op: str, x: mx.array, w: mx.array, options: dict[str, Any]
) -> dict[str, Callable[[], mx.array]]:
    ours, native = getattr(ops, op), getattr(mx, op)
    runs: dict[str, Callable[[], mx.array]] = {"mx": lambda: native(x, w, **options)}
    if TRANSPOSED[op] == 1:
        x2, w2 = mx.expand_dims(x, 2), mx.expand_dims(w, 2)
        filler = {"stride": 1, "padding": 0, "dilation": 1, "output_padding": 0}
        lifted = {k: (v, filler[k]) if k in filler else v for k, v in options.items()}
        runs["mx as 2D"] = lambda: mx.conv_transpose2d(x2, w2, **lifted).squeeze(2)
    for method in ("auto", *(name for name in METHODS if name != "native")):
        runs[method] = lambda method=method: ours(x, w, **options, method=method)  # type: ignore[misc]
    return runs


def _quartiles(values: list[float]) -> tuple[float, float]:
    if len(values) < 2:
        return 1e3 * values[0], 1e3 * values[0]
    low, _, high = statistics.quantiles(values, n=4)
    return 1e3 * low, 1e3 * high


def _timed(run: Callable[[], mx.array]) -> tuple[mx.array, float]:
    start = time.perf_counter()
    y = run()
    mx.eval(y)
    return y, time.perf_counter() - start
