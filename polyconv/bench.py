"""How long do the methods, MLX's own op and other frameworks take for a call, here and now?"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import mlx.core as mx
import numpy as np

from polyconv import arguments, ops, peers
from polyconv.explanation import TRANSPOSED, problem_of
from polyconv.plan import METHODS
from polyconv.spec import ITEMSIZE, ConvSpec

_SLOW = 1.0  # seconds; what takes longer is run once
_MOST = 4.0  # seconds for all rounds of a case, once there are five


@dataclass(frozen=True)
class Timing:
    """Milliseconds over all rounds, MLX's peak memory beyond the arguments, the largest error.

    `error` is the largest against float64, None where that is too much to compute, and for a
    product. `peak_bytes` is 0 for other frameworks.
    """

    name: str
    median: float
    quartiles: tuple[float, float]
    peak_bytes: int
    error: float | None


def bench(
    op: str,
    input: Sequence[int],
    weight: Sequence[int],
    *,
    dtype: str = "float32",
    rounds: int = 15,
    rivals: Sequence[str] = (),
    native: bool = True,
    **options: Any,
) -> list[Timing]:
    """Times MLX's own op, each method and other frameworks, in interleaved rounds.

    Args:
        op (str): One of the transposed convolutions.
        input (list(int)): The shape of ``x``.
        weight (list(int)): The shape of ``w``.
        dtype (str, optional): Of both. Default: ``"float32"``.
        rounds (int, optional): How often each is run, after one run to warm up, but for what
            takes longer than a second. Default: ``15``.
        rivals (list(str), optional): Other frameworks, of `peers.PEERS`. Default: none.
        native (bool, optional): Time MLX's own op too, also lifted to 2D in 1D. Default: ``True``.
        options: The call's own, such as ``stride=2``.

    Returns:
        list(Timing): What cannot compute the call, or is not installed, is left out. ``packed`` is
        ``auto`` with a weight packed before, ``matmul`` one product of as many
        multiply-accumulates, the limit of a layer without groups.

    Raises:
        ValueError: As the op itself would.
    """
    problem = problem_of(op, tuple(input), tuple(weight), dtype, options)
    arguments.positive("bench", "rounds", rounds)
    if problem.is_empty:
        arguments.refuse("bench", "arrays must have elements", f"{input} and {weight}")
    rng = np.random.default_rng(0)
    x, w = (rng.standard_normal(shape).astype(np.float32) for shape in (input, weight))
    w /= np.sqrt(prod(weight[1:]))
    runs = _competitors(op, problem, x, w, options, dtype, native)
    for name in rivals:
        runs.update(_rival(name, op, problem, x, w, options))
    return _timings(runs, rounds, _exact(problem, x, w))


def _timings(
    runs: Mapping[str, Callable[[], Any]], rounds: int, exact: np.ndarray[Any, Any] | None
) -> list[Timing]:
    peaks: dict[str, int] = {}
    errors: dict[str, float] = {}
    times: dict[str, list[float]] = {}
    for name, run in runs.items():
        try:
            y, seconds, peaks[name] = _timed(run)
        except (ValueError, RuntimeError):
            continue
        if isinstance(y, mx.array):
            y = y.astype(mx.float32)
        values = y.numpy() if hasattr(y, "numpy") else np.array(y)
        if exact is not None and values.shape == exact.shape:
            errors[name] = float(np.abs(values - exact).max())
        times[name] = [seconds] if seconds > _SLOW else []
    order = [name for name in times if not times[name]]
    chance, start = random.Random(0), time.perf_counter()
    for done in range(rounds):
        if done >= 5 and time.perf_counter() - start > _MOST:
            break
        chance.shuffle(order)  # what runs before leaves its mark: threads that still spin, memory
        for name in order:
            times[name].append(_timed(runs[name])[1])
    return [
        Timing(name, 1e3 * statistics.median(each), _quartiles(each), peaks[name], errors.get(name))
        for name, each in times.items()
    ]


def _competitors(
    op: str,
    problem: ConvSpec,
    x_values: np.ndarray[Any, Any],
    w_values: np.ndarray[Any, Any],
    options: dict[str, Any],
    dtype: str,
    native: bool,
) -> dict[str, Callable[[], Any]]:
    x, w = (mx.array(a).astype(getattr(mx, dtype)) for a in (x_values, w_values))
    mx.eval(x, w)
    ours, own = getattr(ops, op), getattr(mx, op)
    runs: dict[str, Callable[[], Any]] = {}
    if native:
        runs["mx"] = lambda: own(x, w, **options)
    if native and TRANSPOSED[op] == 1:
        x2, w2 = mx.expand_dims(x, 2), mx.expand_dims(w, 2)
        filler = {"stride": 1, "padding": 0, "dilation": 1, "output_padding": 0}
        lifted = {k: (v, filler[k]) if k in filler else v for k, v in options.items()}
        runs["mx as 2D"] = lambda: mx.conv_transpose2d(x2, w2, **lifted).squeeze(2)
    for method in ("auto", *(name for name in METHODS if name != "native")):
        runs[method] = lambda method=method: ours(x, w, **options, method=method)  # type: ignore[misc]
    packed = ops.pack(w)
    mx.eval(ours(x, packed, **options))
    runs["packed"] = lambda: ours(x, packed, **options)
    if problem.groups == 1:
        rows, columns = x.reshape(-1, x.shape[-1]), w.reshape(-1, x.shape[-1])
        runs["matmul"] = lambda: rows @ columns.T
    return runs


def _rival(
    name: str,
    op: str,
    problem: ConvSpec,
    x: np.ndarray[Any, Any],
    w: np.ndarray[Any, Any],
    options: dict[str, Any],
) -> dict[str, Callable[[], Any]]:
    if name not in peers.PEERS:
        arguments.refuse("bench", f"rivals must be among {', '.join(peers.PEERS)}", repr(name))
    names = ("stride", "padding", "output_padding", "dilation")
    defaults = (1, 0, 0, 1)
    given = tuple(
        arguments.per_axis(op, k, options.get(k, default), problem.ndim)
        for k, default in zip(names, defaults, strict=True)
    )
    try:
        return peers.PEERS[name](problem, x, w, given)
    except ImportError:
        return {}


def _exact(
    problem: ConvSpec, x: np.ndarray[Any, Any], w: np.ndarray[Any, Any]
) -> np.ndarray[Any, Any] | None:
    """In float64, a sum over taps of scaled inputs put where they belong; None if that is much."""
    taps = list(np.ndindex(*w.shape[1:-1]))
    if len(taps) * prod(problem.output_shape) > 3e9:
        return None
    groups = problem.groups
    spaces = [a.dilated_size + (a.window - 1) for a in problem.axes]
    y = np.zeros((problem.batch, *spaces, problem.out_channels))
    wide = x.astype(np.float64).reshape(*x.shape[:-1], groups, 1, -1)
    kernel = w.astype(np.float64).reshape(groups, w.shape[0] // groups, *w.shape[1:])
    for tap in taps:
        at = [
            slice(k * a.kernel_dilation, k * a.kernel_dilation + a.dilated_size, a.input_dilation)
            for k, a in zip(tap, problem.axes, strict=True)
        ]
        product = wide @ kernel[(slice(None), slice(None), *tap)].swapaxes(1, 2)
        y[(slice(None), *at)] += product.reshape(*x.shape[:-1], -1)
    for i, a in enumerate(problem.axes):
        start = a.window - 1 - a.padding_lo
        stop = start + a.output_size
        widths = [(0, 0)] * y.ndim
        widths[1 + i] = (max(-start, 0), max(stop - y.shape[1 + i], 0))
        y = np.pad(y, widths)
        y = np.take(y, range(start + widths[1 + i][0], stop + widths[1 + i][0]), 1 + i)
    return y


def _timed(run: Callable[[], Any]) -> tuple[Any, float, int]:
    before = mx.get_active_memory()
    mx.reset_peak_memory()
    start = time.perf_counter()
    y = run()
    if isinstance(y, mx.array):
        mx.eval(y)
    seconds = time.perf_counter() - start
    return y, seconds, mx.get_peak_memory() - before if isinstance(y, mx.array) else 0


def _quartiles(values: list[float]) -> tuple[float, float]:
    if len(values) < 2:
        return 1e3 * values[0], 1e3 * values[0]
    low, _, high = statistics.quantiles(values, n=4)
    return 1e3 * low, 1e3 * high


def bench_cases(cases: Iterable[Mapping[str, Any]], **more: Any) -> list[dict[str, Any]]:
    """Times cases given as data: `name`, `op`, `input`, `weight` and the options of the call.

    Args:
        cases (list(dict)): Such as `docs/benchmarks/cases.toml` holds.
        more: Passed on to :func:`bench`.

    Returns:
        list(dict): A row per case, with its timings by competitor.
    """
    rows = []
    for case in cases:
        call = {k: tuple(v) if isinstance(v, list) else v for k, v in case.items() if k != "name"}
        op, x, w = (call.pop(k) for k in ("op", "input", "weight"))
        timings = bench(op, x, w, **more, **call)
        told = {
            each.name: {
                "ms": each.median,
                "quartiles": each.quartiles,
                "peak_bytes": each.peak_bytes,
                "error": each.error,
            }
            for each in timings
        }
        dtype = call.pop("dtype", "float32")
        output = problem_of(op, x, w, dtype, call).output_shape
        output_bytes = ITEMSIZE[dtype] * prod(output)
        rows.append({**case, "output_bytes": output_bytes, "timings": told})
    return rows
