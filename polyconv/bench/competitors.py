"""Which functions compute a call? polyconv's, MLX's own op, and other frameworks, ready to time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import mlx.core as mx

from polyconv.bench import frameworks
from polyconv.bench.frameworks import Array, Run
from polyconv.bench.stopwatch import on_gpu
from polyconv.execution.device import device_for
from polyconv.ops import conv_transpose
from polyconv.planning.estimate import seconds_of
from polyconv.planning.methods import METHODS
from polyconv.planning.plan import ConvPlan
from polyconv.problem import arguments
from polyconv.problem.signatures import TRANSPOSED
from polyconv.problem.spec import ConvSpec

# They have no convolution with both strides.
_TRANSPOSED_ONLY = ("torch", "torch_cuda", "torch_training", "onnxruntime")

_MOST = 60.0  # seconds; MLX's own op is left out where it is estimated to take longer


@dataclass(frozen=True)
class Call:
    """A call of an op, what it asks for, and the numbers of its arrays, in float32."""

    op: str
    options: dict[str, Any]
    problem: ConvSpec
    x: Array
    w: Array


def forwards(call: Call, methods: Sequence[str], native: bool, shared: bool) -> dict[str, Run]:
    """What computes the output in MLX: MLX's own op, each method, and one product to compare.

    With `shared` the packed weight is one filter for all channels.
    """
    x, w = [mx.array(a).astype(getattr(mx, call.problem.dtype)) for a in (call.x, call.w)]
    mx.eval(x, w)
    ours, options = getattr(conv_transpose, call.op), call.options
    is_native = native and native_seconds(call.problem) < _MOST
    runs = _natives(call.op, x, w, options) if is_native else {}
    for method in methods:
        runs[method] = lambda method=method: ours(x, w, **options, method=method)  # type: ignore[misc]
    packed = conv_transpose.pack(w[:1] if shared else w)
    mx.eval(ours(x, packed, **options))
    runs["packed"] = lambda: ours(x, packed, **options)
    if call.problem.groups == 1:
        n = prod(x.shape[:-1]) // prod(axis.stride for axis in call.problem.axes)
        rows, columns = x.reshape(-1, x.shape[-1])[:n], w.reshape(-1, x.shape[-1])
        mx.eval(rows)
        runs["matmul"] = lambda: rows @ columns.T
    return runs


def _natives(op: str, x: mx.array, w: mx.array, options: dict[str, Any]) -> dict[str, Run]:
    """MLX's own op, and in 1D also as its op in 2D."""
    own = getattr(mx, op)
    runs: dict[str, Run] = {"mx": lambda: own(x, w, **options)}
    if TRANSPOSED.get(op) == 1:
        x2, w2 = mx.expand_dims(x, 2), mx.expand_dims(w, 2)
        filler = {"stride": 1, "padding": 0, "dilation": 1, "output_padding": 0}
        lifted = {k: (v, filler[k]) if k in filler else v for k, v in options.items()}
        runs["mx as 2D"] = lambda: mx.conv_transpose2d(x2, w2, **lifted).squeeze(2)
    return runs


def train_steps(call: Call, native: bool) -> dict[str, Run]:
    """What computes the output and both gradients in MLX, and the output alone as ``forward``."""
    x, w, dy = mx.array(call.x), mx.array(call.w), mx.ones(call.problem.output_shape)
    mx.eval(x, w, dy)

    def step(lib: Any) -> Run:
        function = getattr(lib, call.op)

        def run() -> mx.array:
            out, (dx, dw) = mx.vjp(lambda x, w: function(x, w, **call.options), [x, w], [dy])
            mx.eval(out, dx, dw)
            return dw

        return run

    forward = getattr(conv_transpose, call.op)
    runs = {"auto": step(conv_transpose), "forward": lambda: forward(x, w, **call.options)}
    if native and 3 * native_seconds(call.problem) < _MOST:
        runs["mx"] = step(mx)
    if call.problem.groups == 1:
        runs["matmul"] = _three_products(x, w)
    return runs


def _three_products(x: mx.array, w: mx.array) -> Callable[[], mx.array]:
    """Products of as many multiply-accumulates as the output and both gradients."""
    rows, columns = x.reshape(-1, x.shape[-1]), w.reshape(-1, x.shape[-1])
    products = mx.ones((rows.shape[0], columns.shape[0]))
    mx.eval(products)

    def run() -> mx.array:
        dw = products.T @ rows
        mx.eval(rows @ columns.T, products @ columns, dw)
        return dw

    return run


def native_seconds(problem: ConvSpec) -> float:
    """An estimate for the CPU, infinite where MLX cannot compute it; 0 on a GPU."""
    if on_gpu():
        return 0.0
    lowered = METHODS["native"](problem, device_for(None))
    return seconds_of(lowered) if isinstance(lowered, ConvPlan) else float("inf")


def rival(name: str, call: Call) -> dict[str, Run]:
    """What computes a call in another framework; empty if that is not installed or cannot."""
    known = {**frameworks.PEERS, **frameworks.TRAINING}
    if name not in known:
        arguments.refuse(
            "bench", f"--rivals must be among {', '.join(frameworks.PEERS)}", arguments.shown(name)
        )
    options = call.options
    if call.op not in TRANSPOSED:
        if name in _TRANSPOSED_ONLY:
            return {}
        options = {}
    defaults = {"stride": 1, "padding": 0, "output_padding": 0, "dilation": 1}
    given = tuple(
        arguments.per_axis(call.op, key, options.get(key, default), call.problem.ndim)
        for key, default in defaults.items()
    )
    try:
        return known[name](call.problem, call.x, call.w, given)
    except ImportError:
        return {}
