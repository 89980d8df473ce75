"""How does a call become a convolution? The one place that joins arguments, plan and execution."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, TypeAlias

import mlx.core as mx

from polyconv import arguments, spec
from polyconv.device import STREAM_TYPES, StreamOrDevice, device_for, on
from polyconv.devices import Device
from polyconv.packing import PackedWeight
from polyconv.shared import filtered
from polyconv.slicing import contiguous
from polyconv.transforms import Bilinear, Problem, convolution

Weight: TypeAlias = "mx.array | PackedWeight"

# What is cached holds a plan, up to some hundred bytes per phase, and a program that never repeats
# a shape must not grow for ever.
_CACHED = 256


def general(
    op: str,
    ndim: int | None,
    x: mx.array,
    w: Weight,
    given: tuple[Any, ...],
    stream: StreamOrDevice,
    method: str,
) -> mx.array:
    """`conv_general`, of one rank if `ndim` is given, under the name `op`."""
    _check_types(op, x, w, stream, method)
    if ndim is None:
        ndim = spec.spatial_ndim(op, x.shape)
    options = arguments.general_options(op, ndim, *given)
    where = (method, device_for(stream), stream)
    if _shares_filter(x, w, options[4]):
        problem = spec.general(op, *_one_channel(x, w), *options[:4], 1, options[5])
        if where[1].name != "cuda":
            return _filtered(op, problem, x, w, method, stream)
        w = _for_each_channel(op, w, options[4], method)
    return _general(op, x.shape, w.shape, (x.dtype, w.dtype), *options, *where)(x, w)


def transposed(
    ndim: int,
    x: mx.array,
    w: Weight,
    given: tuple[Any, Any, Any, Any, int],
    stream: StreamOrDevice,
    method: str,
) -> mx.array:
    op = f"conv_transpose{ndim}d"
    _check_types(op, x, w, stream, method)
    options = arguments.transposed_options(op, ndim, *given)
    where = (method, device_for(stream), stream)
    if _shares_filter(x, w, options[4]):
        problem = spec.transposed(op, *_one_channel(x, w), *options[:4], 1)
        if where[1].name != "cuda":
            return _filtered(op, problem, x, w, method, stream)
        w = _for_each_channel(op, w, options[4], method)
    return _transposed_of(op, x.shape, w.shape, (x.dtype, w.dtype), *options, *where)(x, w)


@lru_cache(_CACHED)
def _transposed_of(
    op: str,
    x_shape: tuple[int, ...],
    w_shape: tuple[int, ...],
    dtypes: tuple[mx.Dtype, mx.Dtype],
    stride: tuple[int, ...],
    padding: tuple[int, ...],
    dilation: tuple[int, ...],
    output_padding: tuple[int, ...],
    groups: int,
    method: str,
    device: Device,
    stream: StreamOrDevice,
) -> Bilinear:
    problem = spec.transposed(
        op, x_shape, w_shape, dtype_names(dtypes), stride, padding, dilation, output_padding, groups
    )
    return convolution(Problem(op, problem, method, device, stream))


@lru_cache(_CACHED)
def _general(
    op: str,
    x_shape: tuple[int, ...],
    w_shape: tuple[int, ...],
    dtypes: tuple[mx.Dtype, mx.Dtype],
    stride: tuple[int, ...],
    padding: tuple[tuple[int, ...], tuple[int, ...]],
    kernel_dilation: tuple[int, ...],
    input_dilation: tuple[int, ...],
    groups: int,
    flip: bool,
    method: str,
    device: Device,
    stream: StreamOrDevice,
) -> Bilinear:
    problem = spec.general(
        op,
        x_shape,
        w_shape,
        dtype_names(dtypes),
        stride,
        padding,
        kernel_dilation,
        input_dilation,
        groups,
        flip,
    )
    return convolution(Problem(op, problem, method, device, stream))


def _shares_filter(x: mx.array, w: Weight, groups: int) -> bool:
    """Whether one filter `(1, K, 1)` is for all channels, each a group of its own."""
    is_one = len(w.shape) == 3 and w.shape[0] == w.shape[2] == 1
    return is_one and groups > 1 and x.ndim == 3 and x.shape[2] == groups


def _one_channel(x: mx.array, w: Weight) -> tuple[Any, ...]:
    return (*x.shape[:2], 1), w.shape, dtype_names((x.dtype, w.dtype))


def _filtered(
    op: str,
    problem: spec.ConvSpec,
    x: mx.array,
    w: Weight,
    method: str,
    stream: StreamOrDevice,
) -> mx.array:
    _takes_auto(op, method)
    plain = w.array if isinstance(w, PackedWeight) else w
    dtype = getattr(mx, problem.dtype)
    with on(stream):
        h = plain.astype(dtype).reshape(-1)
        return filtered(x.astype(dtype), h, problem.axes[0], problem.flip)


def _for_each_channel(op: str, w: Weight, groups: int, method: str) -> mx.array:
    """The filter once for each channel: cuDNN has a kernel for that, faster than products."""
    _takes_auto(op, method)
    plain = w.array if isinstance(w, PackedWeight) else w
    return contiguous(mx.broadcast_to(plain, (groups, *plain.shape[1:])))


def _takes_auto(op: str, method: str) -> None:
    if method != "auto":
        must = "method must be 'auto' for a filter that all channels share"
        arguments.refuse(op, must, arguments.shown(method))


def dtype_names(dtypes: tuple[mx.Dtype, mx.Dtype]) -> tuple[str, str]:
    """As `spec` calls them."""
    x, w = [str(dtype).removeprefix("mlx.core.") for dtype in dtypes]
    return x, w


def _check_types(op: str, x: Any, w: Any, stream: Any, method: Any) -> None:
    for name, value in (("x", x), ("weight", w)):
        packed = name == "weight" and isinstance(value, PackedWeight)
        if not (packed or isinstance(value, mx.array)):
            arguments.refuse(op, f"{name} must be an mlx.core.array", type(value).__name__)
    if not isinstance(method, str):
        arguments.refuse(op, "method must be a str", arguments.shown(method))
    if stream is not None and not isinstance(stream, STREAM_TYPES):
        arguments.refuse(op, "stream must be a stream or device of MLX", arguments.shown(stream))
