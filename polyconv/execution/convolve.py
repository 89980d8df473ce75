"""Hands one subconv of a plan to MLX, in its form."""

from __future__ import annotations

from typing import TypeAlias

import mlx.core as mx

from polyconv.execution import unpatched
from polyconv.execution.arrays import (
    Inputs,
    contiguous,
    crop_channels,
    cut,
    pad,
    pad_channels,
    summed_in,
)
from polyconv.planning.forms import AS_IT_STANDS
from polyconv.planning.plan import SubConv
from polyconv.problem.spec import ConvSpec

Padding: TypeAlias = "tuple[tuple[int, ...], tuple[int, ...]]"


def convolve(inputs: Inputs, w: mx.array, sub: SubConv, pad_explicitly: bool) -> mx.array:
    """One convolution with packed weights, in its form: `(N, *M, G * prod(R) * O / G)`."""
    spec, issued, form = sub.spec, sub.issued, sub.issued.form
    padding: Padding | None = None  # what `issued` says
    if pad_explicitly and not spec.is_input_dilated:
        lo, hi = padding_of(spec)
        x = inputs.padded(lo, hi, form.extra_in)
        padding = ((0,) * issued.spec.ndim, (0,) * issued.spec.ndim)
    elif form == AS_IT_STANDS:
        return unpatched.conv_general(inputs.x, w, *issued.options)
    else:
        lo, hi = (0,) * spec.ndim, form.pad_hi or (0,) * spec.ndim
        if form.whole:
            lo, hi = [tuple([min(n, 0) for n in side]) for side in padding_of(spec)]
        if form.lift == "frames":
            depth = spec.axes[0]
            lo, hi = (depth.padding_lo, *lo[1:]), (depth.padding_hi, *hi[1:])
        x = inputs.padded(lo, hi, form.extra_in, form.whole)
    w = pad_channels(pad(w, w.ndim - 1, 0, form.extra_in), 0, spec.groups, form.extra_out)
    y = _LIFTS[form.lift](x, w, sub, padding)
    return crop_channels(y, spec.groups, form.extra_out)


def _as_it_stands(x: mx.array, w: mx.array, sub: SubConv, padding: Padding | None) -> mx.array:
    return _conv_general(x, w, sub, padding)


def _as_plane(x: mx.array, w: mx.array, sub: SubConv, padding: Padding | None) -> mx.array:
    """1D as 2D: `(N, L, 1, C)` with `(O, K, 1, C)`."""
    return _conv_general(mx.expand_dims(x, -2), mx.expand_dims(w, -2), sub, padding).squeeze(-2)


def _as_frames(x: mx.array, w: mx.array, sub: SubConv, padding: Padding | None) -> mx.array:
    """3D as a sum of 2D ones, a tap in depth each, with the frames that it reads as the batch.

    In float32, so that halves are rounded once.
    """
    depth = sub.spec.axes[0]
    n, _, *size, channels = x.shape
    reach = (depth.output_size - 1) * depth.stride + 1
    total: mx.array | None = None
    dtype = x.dtype
    x, w = x.astype(summed_in(dtype)), w.astype(summed_in(dtype))
    for tap in range(depth.kernel_size):
        start = tap * depth.kernel_dilation
        frames = cut(x, 1, start, start + reach, depth.stride).reshape(-1, *size, channels)
        taps = contiguous(cut(w, 1, tap, tap + 1, 1).squeeze(1))
        y = _conv_general(frames, taps, sub, padding)
        total = y if total is None else total + y
    assert total is not None
    return total.reshape(n, depth.output_size, *total.shape[1:]).astype(dtype)


_LIFTS = {"none": _as_it_stands, "plane": _as_plane, "frames": _as_frames}


def _conv_general(x: mx.array, w: mx.array, sub: SubConv, padding: Padding | None) -> mx.array:
    stride, own_padding, *others = sub.issued.options
    return unpatched.conv_general(x, w, stride, padding or own_padding, *others)


def padding_of(spec: ConvSpec) -> Padding:
    axes = spec.axes
    return tuple([a.padding_lo for a in axes]), tuple([a.padding_hi for a in axes])
