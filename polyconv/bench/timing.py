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

from polyconv.bench import frameworks
from polyconv.execution.device import device_for
from polyconv.ops import conv_transpose
from polyconv.planning.plan import METHODS, ConvPlan
from polyconv.problem import arguments
from polyconv.problem.signatures import TRANSPOSED, problem_of
from polyconv.problem.spec import ITEMSIZE, ConvSpec

# They have no convolution with both strides.
_TRANSPOSED_ONLY = ("torch", "torch_cuda", "torch_training", "onnxruntime")

_SLOW = 1.0  # seconds; what takes longer is run once
_MOST = 60.0  # seconds; MLX's own op is left out where it is estimated to take longer
_CACHE = 2 << 30  # bytes of freed buffers that MLX may keep, for "packed, 2 GB cache"
_IN_FLIGHT = 20  # calls given to a GPU before waiting for it, at most
_FLIGHT = 0.05  # seconds that these may take


@dataclass(frozen=True)
class Timing:
    """Milliseconds of all rounds, MLX's peak memory beyond the arguments, the largest error.

    `error` is the largest against float64, None where that is too much to compute, and for a
    product. `peak_bytes` is 0 for other frameworks.
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
        dtype (str, optional): Of both. Default: ``"float32"``.
        rounds (int, optional): How often each is run, after one run to warm up, but for what
            takes longer than a second. Default: ``15``.
        seconds (float, optional): Start no round later than this, once there are three.
            Default: ``4.0``.
        methods (list(str), optional): Of polyconv's, beside ``packed``, which is always timed.
            Default: all.
        rivals (list(str), optional): Other frameworks, of `frameworks.PEERS`. Default: none.
        native (bool, optional): Time MLX's own op too, also lifted to 2D in 1D, unless a minute
            is estimated not to do. Default: ``True``.
        shared (bool, optional): One filter for all channels of a depthwise call, which ``packed``
            is given as such. Default: ``False``.
        train (bool, optional): Time the output and both gradients, instead of the output alone, of
            MLX's own op, ``auto``, PyTorch and JAX; ``matmul`` is three products, ``forward`` the
            output alone. Errors are not told. Default: ``False``.
        errors (bool, optional): Tell errors. Default: ``True``.
        options: The call's own, such as ``stride=2``.

    Returns:
        list(Timing): What cannot compute the call, or is not installed, is left out. ``packed`` is
        ``auto`` with a weight packed before, ``packed, 2 GB cache`` the same with MLX allowed to
        keep as much freed memory, timed after the others; ``matmul`` is one product of as many
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
    if shared:
        w = np.repeat(w[:1], len(w), axis=0)
    if train:
        steps = _train_steps(op, problem, x, w, options, native)
        for name in rivals:
            steps.update(_rival(f"{name}_training", op, problem, x, w, options))
        return _timings(steps, rounds, seconds, None)
    runs = _competitors(op, problem, x, w, options, dtype, methods, native, shared)
    for name in rivals:
        runs.update(_rival(name, op, problem, x, w, options))
    return _timings(runs, rounds, seconds, _exact(problem, x, w) if errors else None)


def _timings(
    runs: Mapping[str, Callable[[], Any]],
    rounds: int,
    seconds: float,
    exact: np.ndarray[Any, Any] | None,
) -> list[Timing]:
    peaks: dict[str, int] = {}
    errors: dict[str, float] = {}
    times: dict[str, list[float]] = {}
    calls: dict[str, int] = {}
    for name, run in runs.items():
        try:
            y, warm_up, peaks[name] = _timed(run)
            if _on_gpu():  # the first call prepares
                y, warm_up, _ = _timed(run)
        except (ValueError, RuntimeError):
            continue
        times[name] = [warm_up] if warm_up > _SLOW else []
        calls[name] = max(1, min(_IN_FLIGHT, int(_FLIGHT / warm_up))) if _on_gpu() else 1
        if isinstance(y, mx.array):
            y = y.astype(mx.float32)
        if exact is not None and name != "matmul":
            values = y.float().cpu().numpy() if hasattr(y, "numpy") else np.array(y)
            errors[name] = float(np.abs(values - exact).max())
    order = [name for name in times if not times[name]]
    chance, start = random.Random(0), time.perf_counter()
    for done in range(rounds):
        if done >= 3 and time.perf_counter() - start > seconds:
            break
        chance.shuffle(order)  # what runs before leaves its mark on memory
        for name in order:
            _timed(runs[name])  # untimed, while the threads of whoever ran before stop to spin
            times[name].append(_timed(runs[name], calls[name])[1])
    if times.get("packed") and not _on_gpu():
        times["packed, 2 GB cache"] = _with_cache(runs["packed"], len(times["packed"]))
    return [
        Timing(name, tuple(1e3 * t for t in each), peaks.get(name, 0), errors.get(name))
        for name, each in times.items()
    ]


def _with_cache(run: Callable[[], Any], rounds: int) -> list[float]:
    before = mx.set_cache_limit(_CACHE)
    try:
        return [_timed(run)[1] for _ in range(rounds + 1)][1:]
    finally:
        mx.set_cache_limit(before)
        mx.clear_cache()


def _competitors(
    op: str,
    problem: ConvSpec,
    x_values: np.ndarray[Any, Any],
    w_values: np.ndarray[Any, Any],
    options: dict[str, Any],
    dtype: str,
    methods: Sequence[str],
    native: bool,
    shared: bool,
) -> dict[str, Callable[[], Any]]:
    x, w = (mx.array(a).astype(getattr(mx, dtype)) for a in (x_values, w_values))
    mx.eval(x, w)
    ours, own = getattr(conv_transpose, op), getattr(mx, op)
    runs: dict[str, Callable[[], Any]] = {}
    if native and _native_seconds(problem) < _MOST:
        runs["mx"] = lambda: own(x, w, **options)
    if "mx" in runs and TRANSPOSED.get(op) == 1:
        x2, w2 = mx.expand_dims(x, 2), mx.expand_dims(w, 2)
        filler = {"stride": 1, "padding": 0, "dilation": 1, "output_padding": 0}
        lifted = {k: (v, filler[k]) if k in filler else v for k, v in options.items()}
        runs["mx as 2D"] = lambda: mx.conv_transpose2d(x2, w2, **lifted).squeeze(2)
    for method in methods:
        runs[method] = lambda method=method: ours(x, w, **options, method=method)  # type: ignore[misc]
    packed = conv_transpose.pack(w[:1] if shared else w)
    mx.eval(ours(x, packed, **options))
    runs["packed"] = lambda: ours(x, packed, **options)
    if problem.groups == 1:
        n = prod(x.shape[:-1]) // prod(axis.stride for axis in problem.axes)
        rows, columns = x.reshape(-1, x.shape[-1])[:n], w.reshape(-1, x.shape[-1])
        mx.eval(rows)
        runs["matmul"] = lambda: rows @ columns.T
    return runs


def _train_steps(
    op: str,
    problem: ConvSpec,
    x_values: np.ndarray[Any, Any],
    w_values: np.ndarray[Any, Any],
    options: dict[str, Any],
    native: bool,
) -> dict[str, Callable[[], Any]]:
    x, w, y = mx.array(x_values), mx.array(w_values), mx.ones(problem.output_shape)
    mx.eval(x, w, y)

    def step(lib: Any) -> Callable[[], Any]:
        call = getattr(lib, op)

        def run() -> mx.array:
            out, (dx, dw) = mx.vjp(lambda x, w: call(x, w, **options), [x, w], [y])
            mx.eval(out, dx, dw)
            return dw

        return run

    forward = getattr(conv_transpose, op)
    runs = {"auto": step(conv_transpose), "forward": lambda: forward(x, w, **options)}
    if native and 3 * _native_seconds(problem) < _MOST:
        runs["mx"] = step(mx)
    if problem.groups == 1:
        rows, columns = x.reshape(-1, x.shape[-1]), w.reshape(-1, x.shape[-1])
        products = mx.ones((rows.shape[0], columns.shape[0]))
        mx.eval(products)

        def matmul() -> mx.array:
            dw = products.T @ rows
            mx.eval(rows @ columns.T, products @ columns, dw)
            return dw

        runs["matmul"] = matmul
    return runs


def _native_seconds(problem: ConvSpec) -> float:
    """An estimate for the CPU, infinite where MLX cannot compute it; 0 on a GPU."""
    if _on_gpu():
        return 0.0
    lowered = METHODS["native"](problem, device_for(None))
    return lowered.seconds if isinstance(lowered, ConvPlan) else float("inf")


def _rival(
    name: str,
    op: str,
    problem: ConvSpec,
    x: np.ndarray[Any, Any],
    w: np.ndarray[Any, Any],
    options: dict[str, Any],
) -> dict[str, Callable[[], Any]]:
    known = {**frameworks.PEERS, **frameworks.TRAINING}
    if name not in known:
        arguments.refuse(
            "bench", f"rivals must be among {', '.join(frameworks.PEERS)}", arguments.shown(name)
        )
    if op not in TRANSPOSED:
        if name in _TRANSPOSED_ONLY:
            return {}
        options = {}
    names = ("stride", "padding", "output_padding", "dilation")
    defaults = (1, 0, 0, 1)
    given = tuple(
        arguments.per_axis(op, k, options.get(k, default), problem.ndim)
        for k, default in zip(names, defaults, strict=True)
    )
    try:
        return known[name](problem, x, w, given)
    except ImportError:
        return {}


def _exact(
    problem: ConvSpec, x: np.ndarray[Any, Any], w: np.ndarray[Any, Any]
) -> np.ndarray[Any, Any] | None:
    """In float64, a sum over taps of scaled inputs put where they belong; None if that is much."""
    taps = list(np.ndindex(*w.shape[1:-1]))
    if len(taps) * prod(problem.output_shape) > 3e9:
        return None
    if not problem.flip:
        w = np.flip(w, tuple(range(1, w.ndim - 1)))
    groups = problem.groups
    spaces = [a.dilated_size + (a.window - 1) for a in problem.axes]
    y = np.zeros((problem.batch, *spaces, problem.out_channels))
    wide = x.astype(np.float64).reshape(*x.shape[:-1], groups, 1, -1)
    kernel = w.astype(np.float64).reshape(groups, w.shape[0] // groups, *w.shape[1:])
    for tap in taps:
        at = tuple(
            slice(k * a.kernel_dilation, k * a.kernel_dilation + a.dilated_size, a.input_dilation)
            for k, a in zip(tap, problem.axes, strict=True)
        )
        of_tap, written = (slice(None), slice(None), *tap), (slice(None), *at)
        product = wide @ kernel[of_tap].swapaxes(1, 2)
        y[written] += product.reshape(*x.shape[:-1], -1)
    for i, a in enumerate(problem.axes):
        start = a.window - 1 - a.padding_lo
        stop = start + (a.output_size - 1) * a.stride + 1
        widths = [(0, 0)] * y.ndim
        widths[1 + i] = (max(-start, 0), max(stop - y.shape[1 + i], 0))
        y = np.pad(y, widths)
        lo = widths[1 + i][0]
        y = np.take(y, range(start + lo, stop + lo, a.stride), 1 + i)
    return y


def _timed(run: Callable[[], Any], calls: int = 1) -> tuple[Any, float, int]:
    """The result, the seconds of one of so many calls in a row, and the bytes at the peak of all.

    On a GPU calls are issued ahead of their execution, as in a model; the last one is waited for.
    """
    before = mx.get_active_memory()
    mx.reset_peak_memory()
    start = time.perf_counter()
    for _ in range(calls):
        y = run()
        if isinstance(y, mx.array):
            mx.async_eval(y)
    _finish(y)
    seconds = (time.perf_counter() - start) / calls
    return y, seconds, mx.get_peak_memory() - before if isinstance(y, mx.array) else 0


def _finish(y: Any) -> None:
    if isinstance(y, mx.array):
        mx.eval(y)
        mx.synchronize()
    else:
        frameworks.wait_for_gpu(y)


def _on_gpu() -> bool:
    return bool(mx.default_device() == mx.gpu)


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
        call: dict[str, Any] = {
            k: tuple(v) if isinstance(v, list) else v for k, v in case.items() if k != "name"
        }
        call.pop("readme", None)
        op, x, w = (call.pop(k) for k in ("op", "input", "weight"))
        timings = bench(op, x, w, **more, **call)
        call.pop("shared", None)
        told = {
            each.name: {
                "ms": _rounded(each.median),
                "quartiles": [_rounded(ms) for ms in each.quartiles],
                "rounds": [_rounded(ms) for ms in each.rounds],
                "peak_bytes": each.peak_bytes,
                "error": each.error,
            }
            for each in timings
        }
        dtype = call.pop("dtype", "float32")
        problem = problem_of(op, x, w, dtype, call)
        output_bytes = ITEMSIZE[dtype] * prod(problem.output_shape)
        about = {"output_bytes": output_bytes, "macs": _macs(problem)}
        rows.append({**case, **about, "timings": told})
    return rows


def _macs(problem: ConvSpec) -> int:
    """All taps on all samples, edges aside."""
    per_sample = prod(axis.kernel_size for axis in problem.axes) * problem.out_channels
    samples = problem.batch * problem.in_channels * prod(axis.size for axis in problem.axes)
    strides = prod(axis.stride for axis in problem.axes)
    return samples * per_sample // (problem.groups * strides)


def new_lengths(
    op: str,
    input: Sequence[int],
    weight: Sequence[int],
    *,
    dtype: str = "float32",
    rivals: Sequence[str] = (),
    **options: Any,
) -> dict[str, tuple[float, float]]:
    """What a new length of the input costs: milliseconds a call at one length and at ever new ones.

    Args:
        op (str): One of the transposed convolutions.
        input (list(int)): The shape of ``x``; its first length is replaced by 200 around it.
        weight (list(int)): The shape of ``w``.
        dtype (str, optional): Of both. Default: ``"float32"``.
        rivals (list(str), optional): Other frameworks, of `frameworks.PEERS`. Default: none.
        options: The call's own.

    Returns:
        dict: By competitor, medians of 200 calls each. No length is met twice, and their mean is
        the one length.
    """
    middle = int(input[1])
    others = [max(1, middle + i - 100) for i in range(201) if i != 100]
    random.Random(0).shuffle(others)
    rng = np.random.default_rng(0)
    longest = rng.standard_normal((input[0], max(others), *input[2:])).astype(np.float32)
    w_values = rng.standard_normal(weight).astype(np.float32)
    packed = conv_transpose.pack(mx.array(w_values).astype(getattr(mx, dtype)))

    def ready(length: int) -> dict[str, Callable[[], Any]]:
        values = longest[:, :length]
        x = mx.array(values).astype(getattr(mx, dtype))
        mx.eval(x)
        runs: dict[str, Callable[[], Any]] = {}
        runs["packed"] = lambda: getattr(conv_transpose, op)(x, packed, **options)
        problem = problem_of(op, values.shape, tuple(weight), dtype, options)
        for name in rivals:
            runs.update(_rival(name, op, problem, values, w_values, options))
        return runs

    found: list[dict[str, float]] = []
    for lengths in ([middle] * 200, others):
        times: dict[str, list[float]] = {}
        for length in lengths:
            for name, run in ready(length).items():
                times.setdefault(name, []).append(1e3 * _timed(run)[1])
        found.append({name: statistics.median(each) for name, each in times.items()})
    return {name: (_rounded(ms), _rounded(found[1][name])) for name, ms in found[0].items()}


def _rounded(ms: float) -> float:
    return float(f"{ms:.4g}")
