"""How long do the methods, MLX's own op and other frameworks take for a call, here and now?"""

from __future__ import annotations

import gc
import random
import statistics
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import mlx.core as mx
import numpy as np

from polyconv.bench.competitors import Call, forwards, rival, train_steps
from polyconv.bench.exact import exact
from polyconv.bench.frameworks import Array, Run
from polyconv.bench.stopwatch import on_gpu, rounded, timed
from polyconv.problem import arguments
from polyconv.problem.signatures import problem_of
from polyconv.problem.spec import ITEMSIZE, ConvSpec

_SLOW = 1.0  # seconds; what takes longer is run once
_CACHE = 2 << 30  # bytes of freed buffers that MLX may keep, for "packed, 2 GB cache"
_IN_FLIGHT = 20  # calls given to a GPU before waiting for it, at most
_FLIGHT = 0.05  # seconds that these may take


@dataclass(frozen=True)
class Timing:
    """A competitor's milliseconds in all rounds, its memory and its error.

    `peak_bytes` is MLX's peak beyond the arguments, and 0 for other frameworks. `error` is the
    largest against float64. It is None for a product, and where float64 takes too long.
    """

    name: str
    rounds: tuple[float, ...]
    peak_bytes: int
    error: float | None

    @property
    def median(self) -> float:
        return statistics.median(self.rounds)

    @property
    def quartiles(self) -> tuple[float, float]:
        if len(self.rounds) < 2:
            return self.rounds[0], self.rounds[0]
        low, _, high = statistics.quantiles(self.rounds, n=4)
        return low, high


def bench(
    op: str,
    input: Sequence[int],
    weight: Sequence[int],
    *,
    dtype: str = "float32",
    rounds: int = 15,
    seconds: float = 4.0,
    methods: Sequence[str] = ("auto", "per_phase", "stacked", "taps"),
    rivals: Sequence[str] = (),
    native: bool = True,
    shared: bool = False,
    train: bool = False,
    errors: bool = True,
    **options: Any,
) -> list[Timing]:
    """Times MLX's own op, each method and other frameworks, in interleaved rounds.

    Args:
        op (str): One of the transposed convolutions, or ``"conv_general"``.
        input (list(int)): The shape of ``x``.
        weight (list(int)): The shape of ``w``.
        dtype (str, optional): The type of both. Default: ``"float32"``.
        rounds (int, optional): How often each is run, after one run to warm up. What takes longer
            than a second is run once. Default: ``15``.
        seconds (float, optional): Start no round later than this, once there are three.
            Default: ``4.0``.
        methods (list(str), optional): Methods of polyconv. ``packed`` is timed in any case.
            Default: all.
        rivals (list(str), optional): Other frameworks, of `frameworks.PEERS`. Default: none.
        native (bool, optional): Time MLX's own op too, in 1D also as its op in 2D. It is left out
            if it is estimated to take more than a minute. Default: ``True``.
        shared (bool, optional): Use one filter for all channels of a depthwise call, and give
            ``packed`` that filter alone. Default: ``False``.
        train (bool, optional): Time the output and both gradients instead of the output alone, of
            MLX's own op, ``auto``, PyTorch and JAX. ``matmul`` is then three products, and
            ``forward`` the output alone. There are no errors. Default: ``False``.
        errors (bool, optional): Measure errors. Default: ``True``.
        options: Options of the op, such as ``stride=2``.

    Returns:
        list(Timing): One of each competitor that is installed and can compute the call. ``packed``
        is ``auto`` with a weight packed before. ``packed, 2 GB cache`` is the same, timed after the
        others, with MLX allowed to keep 2 GB of freed memory. ``matmul`` is one product of as many
        multiply-accumulates, which is the limit of a layer without groups.

    Raises:
        ValueError: As the op itself would.
    """
    problem = problem_of(op, tuple(input), tuple(weight), dtype, options)
    arguments.positive("bench", "rounds", rounds)
    if problem.is_empty:
        arguments.refuse("bench", "input and weight must have elements", f"{input} and {weight}")
    call = Call(op, options, problem, *_drawn(input, weight, shared))
    runs = train_steps(call, native) if train else forwards(call, methods, native, shared)
    for name in rivals:
        runs.update(rival(f"{name}_training" if train else name, call))
    truth = exact(problem, call.x, call.w) if errors and not train else None
    timings = interleaved(runs, rounds, seconds, truth)
    packed = next((each for each in timings if each.name == "packed"), None)
    if packed and not on_gpu():
        with_cache = _with_cache(runs["packed"], len(packed.rounds))
        timings.append(Timing("packed, 2 GB cache", _milliseconds(with_cache), 0, None))
    return timings


def _drawn(input: Sequence[int], weight: Sequence[int], shared: bool) -> tuple[Array, Array]:
    """Input and weight for a call, whose outputs are about as large as its inputs."""
    rng = np.random.default_rng(0)
    x, w = [rng.standard_normal(shape).astype(np.float32) for shape in (input, weight)]
    w /= np.sqrt(prod(weight[1:]))
    return x, np.repeat(w[:1], len(w), axis=0) if shared else w


@dataclass
class Measured:
    """A competitor's function, how many calls of it to time at once, and its figures so far."""

    run: Run
    calls: int
    peak_bytes: int
    times: list[float]
    error: float | None = None


def interleaved(
    runs: Mapping[str, Run], rounds: int, seconds: float, truth: Array | None = None
) -> list[Timing]:
    """Times what computes the same, in interleaved rounds, with errors against `truth`."""
    found = measured(runs, truth)
    run_rounds([each for each in found.values() if not each.times], rounds, seconds)
    return [
        Timing(name, _milliseconds(each.times), each.peak_bytes, each.error)
        for name, each in found.items()
    ]


def measured(runs: Mapping[str, Run], truth: Array | None = None) -> dict[str, Measured]:
    """A first call of each that can compute it, with its error if the truth is given."""
    gc.collect()  # or what others left may be freed during a call, and its peak is too small
    found = {}
    for name, run in runs.items():
        try:
            y, found[name] = _first_call(run)
        except (ValueError, RuntimeError):  # it cannot compute this call
            continue
        if truth is not None and name != "matmul":
            found[name].error = _error(y, truth)
    return found


def _first_call(run: Run) -> tuple[Any, Measured]:
    """Warms up, and gives the result and the memory. What is slow gets its only time here."""
    y, warm_up, peak = timed(run)
    if on_gpu():  # the first call prepares
        y, warm_up, _ = timed(run)
    calls = max(1, min(_IN_FLIGHT, int(_FLIGHT / warm_up))) if on_gpu() else 1
    times = [warm_up] if warm_up > _SLOW else []
    return y, Measured(run, calls, peak, times)


def _error(y: Any, truth: Array) -> float:
    if isinstance(y, mx.array):
        y = y.astype(mx.float32)
    values = y.float().cpu().numpy() if hasattr(y, "numpy") else np.array(y)
    return float(np.abs(values - truth).max())


def run_rounds(competitors: list[Measured], rounds: int, seconds: float) -> None:
    """Times each in turn, in another order each round. No round begins after so many seconds."""
    chance, start = random.Random(0), time.perf_counter()
    for done in range(rounds):
        if done >= 3 and time.perf_counter() - start > seconds:
            break
        chance.shuffle(competitors)  # each run leaves its mark on memory for the next
        for each in competitors:
            timed(each.run)  # untimed, while the threads of the run before stop spinning
            each.times.append(timed(each.run, each.calls)[1])


def _milliseconds(times: Sequence[float]) -> tuple[float, ...]:
    return tuple(1e3 * t for t in times)


def _with_cache(run: Run, rounds: int) -> list[float]:
    before = mx.set_cache_limit(_CACHE)
    try:
        return [timed(run)[1] for _ in range(rounds + 1)][1:]
    finally:
        mx.set_cache_limit(before)
        mx.clear_cache()


def bench_cases(cases: Iterable[Mapping[str, Any]], **more: Any) -> list[dict[str, Any]]:
    """Times cases given as data: `name`, `op`, `input`, `weight` and the options of the call.

    Args:
        cases (list(dict)): Such as `docs/benchmarks/cases.toml` holds.
        more: Further arguments of :func:`bench`.

    Returns:
        list(dict): A row per case, with its timings by competitor.
    """
    rows = []
    for case in cases:
        call: dict[str, Any] = {
            k: tuple(v) if isinstance(v, list) else v for k, v in case.items() if k != "name"
        }
        call.pop("readme", None)
        op, x, w = (call.pop(k) for k in ("op", "input", "weight"))
        timings = bench(op, x, w, **more, **call)
        call.pop("shared", None)
        dtype = call.pop("dtype", "float32")
        problem = problem_of(op, x, w, dtype, call)
        output_bytes = ITEMSIZE[dtype] * problem.n_outputs
        about = {"output_bytes": output_bytes, "macs": _macs(problem)}
        rows.append({**case, **about, "timings": told(timings)})
    return rows


def told(timings: Iterable[Timing]) -> dict[str, dict[str, Any]]:
    """Timings by competitor, as rows hold them."""
    return {
        each.name: {
            "ms": rounded(each.median),
            "quartiles": [rounded(ms) for ms in each.quartiles],
            "rounds": [rounded(ms) for ms in each.rounds],
            "peak_bytes": each.peak_bytes,
            "error": each.error,
        }
        for each in timings
    }


def _macs(problem: ConvSpec) -> int:
    """Multiply-accumulates of all taps on all samples, as if there were no edges."""
    per_sample = prod(axis.kernel_size for axis in problem.axes) * problem.out_channels
    strides = prod(axis.stride for axis in problem.axes)
    return problem.n_inputs * per_sample // (problem.groups * strides)
