"""How does a call become a convolution? The one place that joins arguments, plan and execution."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from typing import Any, TypeAlias

import mlx.core as mx

from polyconv.execution.arrays import contiguous, summed_in
from polyconv.execution.device import STREAM_TYPES, StreamOrDevice, device_for, on
from polyconv.execution.memory import room_on
from polyconv.execution.packing import PackedWeight
from polyconv.execution.toeplitz import filtered, is_short, temporaries
from polyconv.gradients.bilinear import Bilinear, Problem, convolution, tell
from polyconv.planning.devices import Device
from polyconv.planning.tiling import Room, workspace
from polyconv.problem import arguments, spec

Weight: TypeAlias = "mx.array | PackedWeight"

_Where: TypeAlias = "tuple[str, Device, StreamOrDevice, Room, int | None, int | None]"

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
    max_workspace: int | None,
) -> mx.array:
    """`conv_general`, of one rank if `ndim` is given, under the name `op`."""
    check_types(op, x, w, stream, method)
    if ndim is None:
        ndim = spec.spatial_ndim(op, x.shape)
    options = arguments.general_options(op, ndim, *given)
    where, dtypes = _where(op, method, stream, max_workspace), (x.dtype, w.dtype)
    if _shares_filter(x, w, options[4]):
        x_shape, w_shape, names = _one_channel(x, w)
        problem = spec.general(op, x_shape, w_shape, names, *options[:4], 1, options[5])
        limit, otherwise = _filter_needs(op, problem, options[4], where)
        if otherwise is not None and otherwise <= limit:
            return _filtered(op, problem, x, w, method, stream)
        where = (*where[:5], otherwise)
        w = _for_each_channel(op, w, options[4], method)
    return _general(op, x.shape, w.shape, dtypes, *options, *where)(x, w)


def transposed(
    ndim: int,
    x: mx.array,
    w: Weight,
    given: tuple[Any, Any, Any, Any, int],
    stream: StreamOrDevice,
    method: str,
    max_workspace: int | None,
) -> mx.array:
    op = f"conv_transpose{ndim}d"
    check_types(op, x, w, stream, method)
    options = arguments.transposed_options(op, ndim, *given)
    where, dtypes = _where(op, method, stream, max_workspace), (x.dtype, w.dtype)
    if _shares_filter(x, w, options[4]):
        x_shape, w_shape, names = _one_channel(x, w)
        problem = spec.transposed(op, x_shape, w_shape, names, *options[:4], 1)
        limit, otherwise = _filter_needs(op, problem, options[4], where)
        if otherwise is not None and otherwise <= limit:
            return _filtered(op, problem, x, w, method, stream)
        where = (*where[:5], otherwise)
        w = _for_each_channel(op, w, options[4], method)
    return _transposed_of(op, x.shape, w.shape, dtypes, *options, *where)(x, w)


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
    room: Room,
    max_workspace: int | None,
    otherwise: int | None,
) -> Bilinear:
    problem = spec.transposed(
        op, x_shape, w_shape, dtype_names(dtypes), stride, padding, dilation, output_padding, groups
    )
    return convolution(Problem(op, problem, method, device, stream, room, max_workspace, otherwise))


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
    room: Room,
    max_workspace: int | None,
    otherwise: int | None,
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
    return convolution(Problem(op, problem, method, device, stream, room, max_workspace, otherwise))


def _where(op: str, method: str, stream: StreamOrDevice, max_workspace: int | None) -> _Where:
    """What a `Problem` takes after the convolution."""
    if max_workspace is not None:
        max_workspace = arguments.count(op, "max_workspace", max_workspace)
    device = device_for(stream)
    return method, device, stream, room_on(device), max_workspace, None


def _shares_filter(x: mx.array, w: Weight, groups: int) -> bool:
    """Whether one filter `(1, K, 1)` is for all channels, each a group of its own."""
    is_one = len(w.shape) == 3 and w.shape[0] == w.shape[2] == 1
    return is_one and groups > 1 and x.ndim == 3 and x.shape[2] == groups


def _one_channel(
    x: mx.array, w: Weight
) -> tuple[tuple[int, ...], tuple[int, ...], tuple[str, str]]:
    return (*x.shape[:2], 1), w.shape, dtype_names((x.dtype, w.dtype))


@lru_cache(_CACHED)
def _filter_needs(
    op: str, problem: spec.ConvSpec, channels: int, where: _Where
) -> tuple[int, int | None]:
    """What may be allocated, and what one matrix for all channels needs, if that is a way here.

    It is not computed in tiles (`toeplitz.py`). On CUDA cuDNN has a kernel for a filter of each
    channel, faster than products.
    """
    _, device, _, room, max_workspace, _ = where
    of_all = _of_all_channels(problem, channels)
    limit = workspace(op, of_all, "y", room, max_workspace)
    if device.name == "cuda" or problem.is_empty or not is_short(problem.axes[0]):
        return limit, None
    itemsize = spec.ITEMSIZE[problem.dtype]
    return limit, temporaries(problem.axes[0], problem.batch, channels, itemsize)


def _of_all_channels(problem: spec.ConvSpec, channels: int) -> spec.ConvSpec:
    return replace(problem, in_channels=channels, out_channels=channels, groups=channels)


def _filtered(
    op: str,
    problem: spec.ConvSpec,
    x: mx.array,
    w: Weight,
    method: str,
    stream: StreamOrDevice,
) -> mx.array:
    _takes_auto(op, method)
    tell(op, _of_all_channels(problem, x.shape[2]))
    plain = w.array if isinstance(w, PackedWeight) else w
    dtype = getattr(mx, problem.dtype)
    with on(stream):
        h = plain.astype(dtype).reshape(-1)
        return filtered(x.astype(dtype), h, problem.axes[0], problem.flip)


def _for_each_channel(op: str, w: Weight, groups: int, method: str) -> mx.array:
    """The filter once for each channel, halves as float32: its gradient is summed over them."""
    _takes_auto(op, method)
    plain = w.array if isinstance(w, PackedWeight) else w
    wide = plain.astype(summed_in(plain.dtype))
    return contiguous(mx.broadcast_to(wide, (groups, *plain.shape[1:])))


def _takes_auto(op: str, method: str) -> None:
    if method != "auto":
        must = "method must be 'auto' for a filter that all channels share"
        arguments.refuse(op, must, arguments.shown(method))


def dtype_names(dtypes: tuple[mx.Dtype, mx.Dtype]) -> tuple[str, str]:
    """As `spec` calls them."""
    x, w = [str(dtype).removeprefix("mlx.core.") for dtype in dtypes]
    return x, w


def check_types(op: str, x: Any, w: Any, stream: Any, method: Any) -> None:
    """Refuses what has not the type of such an argument."""
    for name, value in (("x", x), ("weight", w)):
        packed = name == "weight" and isinstance(value, PackedWeight)
        if not (packed or isinstance(value, mx.array)):
            arguments.refuse(op, f"{name} must be an mlx.core.array", type(value).__name__)
    if not isinstance(method, str):
        arguments.refuse(op, "method must be a str", arguments.shown(method))
    if stream is not None and not isinstance(stream, STREAM_TYPES):
        arguments.refuse(op, "stream must be a stream or device of MLX", arguments.shown(stream))
