"""How does a call become a convolution? The one place that joins arguments, plan and execution."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, TypeAlias

import mlx.core as mx

from polyconv.execution import unpatched
from polyconv.execution.device import (
    STREAM_TYPES,
    Export,
    StreamOrDevice,
    device_for,
    export_of_now,
)
from polyconv.execution.packing import PackedWeight
from polyconv.gradients.bilinear import KEPT, Call, call_of
from polyconv.ops.shared_filter import SharedFilter
from polyconv.planning.devices import Device
from polyconv.planning.forms import options_of
from polyconv.planning.request import Request
from polyconv.planning.shared_filter import is_shared, of_all_channels
from polyconv.problem import arguments
from polyconv.problem.signatures import SIGNATURES, Signature, spatial_ndim
from polyconv.problem.spec import ConvSpec

Weight: TypeAlias = "mx.array | PackedWeight"


def convolve(
    op: str,
    x: mx.array,
    w: Weight,
    given: tuple[Any, ...],
    stream: StreamOrDevice,
    method: str,
    max_workspace: int | None,
) -> mx.array:
    """Computes a call of any op. `given` are its options, in the order of its signature.

    What a call needs is worked out once. Later calls look it up by the arguments as they are.
    """
    if max_workspace is not None or not arguments.is_exact(given):
        check_types(op, x, w, stream, method)
        given, max_workspace = _read(op, x, given, max_workspace)
    try:
        call = _call_for(
            op,
            given,
            type(x),  # type: ignore[arg-type]  # a type is hashable
            x.shape,
            x.dtype,
            type(w),  # type: ignore[arg-type]
            w.shape,
            w.dtype,
            stream,
            method,
            max_workspace,
            device_for(stream),
            export_of_now(),
        )
    except (AttributeError, TypeError):
        check_types(op, x, w, stream, method)
        raise
    return call(x, w)


def _read(
    op: str, x: mx.array, given: tuple[Any, ...], max_workspace: int | None
) -> tuple[tuple[Any, ...], int | None]:
    """Options and workspace in one form that can be looked up: lists, say, become tuples."""
    options: Signature = SIGNATURES[op](*given)
    if max_workspace is not None:
        max_workspace = arguments.count(op, "max_workspace", max_workspace)
    return options.read(op, spatial_ndim(op, x.shape)), max_workspace


@lru_cache(KEPT)
def _call_for(
    op: str,
    given: tuple[Any, ...],
    x_type: type,
    x_shape: tuple[int, ...],
    x_dtype: mx.Dtype,
    w_type: type,
    w_shape: tuple[int, ...],
    w_dtype: mx.Dtype,
    stream: StreamOrDevice,
    method: str,
    max_workspace: int | None,
    device: Device,
    export: Export,
) -> Call:
    """The function that computes all calls with these options, shapes and types."""
    _check_types(op, x_type, w_type, stream, method)
    signature: Signature = SIGNATURES[op](*given)
    options = signature.read(op, spatial_ndim(op, x_shape))
    names = dtype_names((x_dtype, w_dtype))
    if is_shared(x_shape, w_shape, options.groups):
        if method != "auto":
            must = "method must be 'auto' for a filter that all channels share"
            arguments.refuse(op, must, arguments.shown(method))
        one = options._replace(groups=1).spec(op, (*x_shape[:2], 1), w_shape, names)
        if export == "as asked":
            return _as_asked(of_all_channels(one, x_shape[2]))
        request = Request(op, one, method, device, max_workspace)
        return SharedFilter(request, x_shape[2], stream, export != "")
    spec = options.spec(op, x_shape, w_shape, names)
    if export == "as asked":
        return _as_asked(spec)
    is_packed = issubclass(w_type, PackedWeight)
    request = Request(op, spec, method, device, max_workspace, packed=is_packed)
    return call_of(request, stream, w_type, export != "")


def _as_asked(problem: ConvSpec) -> Call:
    """MLX's own op, for a graph that tells what is asked for and is computed in another way."""
    dtype = getattr(mx, problem.dtype)
    kernel = tuple([axis.kernel_size for axis in problem.axes])
    shape = (problem.out_channels, *kernel, problem.in_channels // problem.groups)
    stride, _, *options = options_of(problem)
    # MLX would crop the input by negative padding, and not the dilated input. A crop of m there is
    # one of ceil(m / dilation) samples, and zeros for what is too much.
    axes = problem.axes
    first = [-(min(0, axis.padding_lo) // axis.input_dilation) for axis in axes]
    last = [-(min(0, axis.padding_hi) // axis.input_dilation) for axis in axes]
    padding = (
        [axis.padding_lo + axis.input_dilation * n for axis, n in zip(axes, first, strict=True)],
        [axis.padding_hi + axis.input_dilation * n for axis, n in zip(axes, last, strict=True)],
    )
    rest = (slice(None), *[slice(n, -m or None) for n, m in zip(first, last, strict=True)])

    def convolve(x: mx.array, w: Weight) -> mx.array:
        plain = w.array if isinstance(w, PackedWeight) else w
        plain = mx.broadcast_to(plain.astype(dtype), shape)  # of a filter that all channels share
        x = x[rest] if any((*first, *last)) else x
        return unpatched.conv_general(x.astype(dtype), plain, stride, padding, *options)

    return convolve


def check_types(op: str, x: Any, w: Any, stream: Any, method: Any) -> None:
    """Refuses arguments of a wrong type."""
    _check_types(op, type(x), type(w), stream, method)


def _check_types(op: str, x: type, w: type, stream: Any, method: Any) -> None:
    if not issubclass(x, mx.array):
        arguments.refuse(op, "x must be an mlx.core.array", x.__name__)
    if not issubclass(w, (mx.array, PackedWeight)):
        arguments.refuse(op, "weight must be an mlx.core.array", w.__name__)
    if not isinstance(method, str):
        arguments.refuse(op, "method must be a str", arguments.shown(method))
    if stream is not None and not isinstance(stream, STREAM_TYPES):
        arguments.refuse(op, "stream must be a stream or device of MLX", arguments.shown(stream))


def dtype_names(dtypes: tuple[mx.Dtype, mx.Dtype]) -> tuple[str, str]:
    """The names of two dtypes, as a problem has them."""
    x, w = [str(dtype).removeprefix("mlx.core.") for dtype in dtypes]
    return x, w
