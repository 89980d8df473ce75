"""How is an array padded, cropped or cut? How does it lie in memory, and how is it summed?"""

from __future__ import annotations

from collections.abc import Sequence

import mlx.core as mx

from polyconv.execution.device import is_exporting


def pad(a: mx.array, axis: int, lo: int, hi: int) -> mx.array:
    """As `pad_all`, on one axis."""
    if not (lo or hi):
        return a
    widths = [(0, 0)] * a.ndim
    widths[axis] = (lo, hi)
    return pad_all(a, widths)


def pad_all(a: mx.array, widths: Sequence[tuple[int, int]]) -> mx.array:
    """Pads each axis with zeros, or crops it where a width is negative, by one copy at most."""
    positive = []
    for axis, (lo, hi) in enumerate(widths):
        size = a.shape[axis]
        if lo < 0 or hi < 0:
            a = cut(a, axis, min(max(-lo, 0), size), size - min(max(-hi, 0), size), 1)
        # Where all is cropped, what is left to crop comes off the padding at the other end.
        total = size + lo + hi
        front = min(max(lo, 0), total)
        positive.append((front, total - a.shape[axis] - front))
    return mx.pad(a, positive) if any(lo or hi for lo, hi in positive) else a


def cut(a: mx.array, axis: int, start: int | None, stop: int | None, step: int) -> mx.array:
    """A slice of one axis. `a` itself where that is all of it."""
    size = a.shape[axis]
    if len(range(*slice(start, stop, step).indices(size))) == size and (step == 1 or size == 1):
        return a
    return a[(slice(None),) * axis + (slice(start, stop, step),)]


def contiguous(a: mx.array) -> mx.array:
    """`a`, row by row in memory. For export it is left as it is: MLX cannot export this op."""
    return a if is_exporting() else mx.contiguous(a)


def of_this_shape(a: mx.array) -> mx.array:
    """`a`, in a graph that holds for arrays of this shape and no others.

    With `shapeless=True` MLX runs what it traced for one shape on arrays of all shapes. What was
    planned for one shape must not run on another: its result would be wrong, without an error.
    MLX refuses a graph that holds a slice or a padding, since it cannot infer their shapes. So one
    axis is reversed twice here, which copies nothing. An array of at most one item is padded and
    cut instead, since MLX up to 0.32.3 cannot differentiate a single item reversed.
    """
    axis = next((i for i, size in enumerate(a.shape) if size > 1), None)
    if axis is None:
        return cut(pad(a, 0, 0, 1), 0, 0, a.shape[0], 1)
    return cut(cut(a, axis, None, None, -1), axis, None, None, -1)


def summed_in(dtype: mx.Dtype) -> mx.Dtype:
    """The dtype in which numbers of `dtype` are multiplied and summed: float32 for halves.

    On Metal MLX's reductions accumulate in the dtype of their result. A sum in float16 is soon
    infinite, and in bfloat16 256 + 1 is 256.
    """
    return mx.float32 if dtype in (mx.float16, mx.bfloat16) else dtype


def plus_product(
    c: mx.array, a: mx.array, b: mx.array, alpha: float = 1.0, beta: float = 1.0
) -> mx.array:
    """`beta * c + alpha * (a @ b)`, by one operation of MLX unless nothing is multiplied.

    On CUDA MLX 0.32.4 divides by the number of rows and columns, which ends the process where there
    are none (mlx/backend/cuda/matmul.cpp, `AddMM::eval_gpu`). A plain product may be empty.
    """
    if a.size and b.size:
        return mx.addmm(c, a, b, alpha, beta)
    return beta * c + a @ b


def zeros_for(a: mx.array, shape: tuple[int, ...], dtype: mx.Dtype) -> mx.array:
    """Zeros of a shape, in a graph that holds for arrays of the shape of `a` and no others."""
    nothing = of_this_shape(a)[:0].sum()
    return mx.broadcast_to(nothing.astype(dtype), shape)


def pad_channels(a: mx.array, groups: int, extra: int) -> mx.array:
    """Adds channels of zeros to each group, at the end of the last axis."""
    if not extra:
        return a
    a = mx.unflatten(a, -1, (groups, a.shape[-1] // groups))
    return pad(a, a.ndim - 1, 0, extra).flatten(-2, -1)


def crop_channels(y: mx.array, groups: int, extra: int) -> mx.array:
    """Takes the channels that `pad_channels` led to off the last axis."""
    if not extra:
        return y
    y = mx.unflatten(y, -1, (groups, y.shape[-1] // groups))
    return cut(y, y.ndim - 1, 0, y.shape[-1] - extra, 1).flatten(-2, -1)
