"""The gradient of an ordinary convolution with respect to its weight, by one operation.

It is a convolution, of which cuDNN makes its own gradient, or a product. For a product what each
output reads is copied, which takes few operations, whatever the number of taps. MLX's own rule does
the same, for kernels without dilation and groups, but cannot be mapped by `mx.vmap`.

Letters in shape comments: N batch, M frames, K taps, G groups, O and C output and input channels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod

import mlx.core as mx

from polyconv.execution import unpatched
from polyconv.execution.arrays import contiguous, cut, pad, pad_all, summed_in
from polyconv.planning.plan import ConvPlan
from polyconv.planning.weight_gradient import Run, as_convolution, run_of
from polyconv.problem.spec import Axis


def convolved(plan: ConvPlan, exchanged: bool) -> Callable[[mx.array, mx.array], mx.array] | None:
    """As `unfolded`, as a function of input and cotangent that is one convolution.

    cuDNN sums halves in float32 and rounds once, so the result has the type of both. It is float32
    if these differ. None if a product is to be taken.
    """
    found = as_convolution(plan)
    if found is None:
        return None
    options, is_line = found.options, plan.problem.ndim == 1
    taps = [slice(axis.kernel_size) for axis in plan.first.spec.axes]
    kept = (slice(None), *taps) if found.is_longer else None

    def turned(a: mx.array) -> mx.array:
        a = contiguous(a)  # or MLX copies it, and keeps cuDNN's plan by the wrong alignment
        return (mx.expand_dims(a, 1) if is_line else a).swapaxes(0, -1)

    def gradient(x: mx.array, y: mx.array) -> mx.array:
        if x.dtype != y.dtype:
            x, y = x.astype(mx.float32), y.astype(mx.float32)
        dw = unpatched.conv_general(turned(x), turned(y), *options)
        dw = dw.squeeze(1) if is_line else dw  # (C, *K, O)
        dw = dw[kept] if kept else dw
        return dw if exchanged else dw.swapaxes(0, -1)

    return gradient


def unfolded(plan: ConvPlan, x: mx.array, y: mx.array, exchanged: bool = False) -> mx.array:
    """The gradient of a plan that is native, without input dilation and flip.

    Args:
        plan (ConvPlan): The plan.
        x (array): The input, ``(N, *S, C)``.
        y (array): The cotangent of the output, ``plan.problem.output_shape``.
        exchanged (bool, optional): Exchange each group's input and output channels of the result.

    Returns:
        array: Of the weight's shape, ``(O, *K, C / groups)``, float32 for halves.
    """
    spec, axes = plan.problem, plan.first.spec.axes
    dtype, kernel = summed_in(getattr(mx, spec.dtype)), [axis.kernel_size for axis in axes]
    around = [(0, 0), *[(axis.padding_lo, axis.padding_hi) for axis in axes], (0, 0)]
    read, run = pad_all(x.astype(dtype), around), run_of(plan)
    if run:
        return _in_runs(read, y.astype(dtype), axes[0], run, exchanged)
    if all(a.kernel_size == a.stride and a.kernel_dilation == 1 for a in axes):
        read = _blocks(read, axes)
    else:
        for i in reversed(range(spec.ndim)):
            read = _windows(read, i + 1, axes[i])
    y = y.astype(dtype)
    if spec.groups > 1:
        return _of_groups(read, y, spec.groups, kernel, exchanged)
    read, y = read.reshape(-1, read.shape[-1]), y.reshape(-1, y.shape[-1])
    if not exchanged:
        return (y.T @ read).reshape(y.shape[1], *kernel, -1)
    found = (read.T @ y).reshape(*kernel, -1, y.shape[1])
    return mx.moveaxis(found, -2, 0)


def _in_runs(read: mx.array, y: mx.array, axis: Axis, run: Run, exchanged: bool) -> mx.array:
    """The gradient in 1D by runs of frames: `(O, K, C)` (`weight_gradient.py`)."""
    n, taps, step, out = run.frames, run.taps, axis.stride, y.shape[-1]
    windows = _windows(read, 1, Axis(size=read.shape[1], kernel_size=taps, stride=step * n))
    product = y.reshape(-1, n * out).T @ windows.reshape(-1, windows.shape[-1])
    # The sum over j of each (j, step * j + k). With `step` rows more to each j they lie in columns.
    skewed = product.reshape(n, out, taps, -1).swapaxes(1, 2).flatten(0, 1)
    skewed = pad(skewed, 0, 0, n * step).reshape(n, taps + step, out, -1)
    found = cut(skewed, 1, 0, axis.kernel_size, 1).sum(0)  # K, O, C
    return found.transpose(2, 0, 1) if exchanged else found.swapaxes(0, 1)


def _blocks(x: mx.array, axes: Sequence[Axis]) -> mx.array:
    """What each output reads where no sample is read twice, by one copy: `(N, *M, *K, C)`."""
    ndim = len(axes)
    pairs = [size for axis in axes for size in (axis.output_size, axis.kernel_size)]
    x = x.reshape(x.shape[0], *pairs, x.shape[-1])
    x = x.transpose(0, *range(1, 2 * ndim, 2), *range(2, 2 * ndim + 1, 2), 2 * ndim + 1)
    return x.flatten(1 + ndim, -1)


def _windows(x: mx.array, at: int, axis: Axis) -> mx.array:
    """The frames of an axis, and in the last axis what each reads, tap by tap: `(..., K * rest)`.

    Where the samples of the taps follow each other in memory, up to the next frame's, they are cut
    out together.
    """
    taps, step, n = axis.kernel_size, axis.stride, axis.output_size
    if at != x.ndim - 2 or axis.kernel_dilation > 1 or not 1 < step <= taps:
        starts = [k * axis.kernel_dilation for k in range(taps)]
        reads = [cut(x, at, k, k + (n - 1) * step + 1, step) for k in starts]
        return reads[0] if taps == 1 else mx.concatenate(reads, -1)
    width = x.shape[-1]
    rows = n + -(-taps // step) - 1
    x = cut(pad(x, at, 0, max(0, rows * step - x.shape[at])), at, 0, rows * step, 1)
    x = x.reshape(*x.shape[:at], rows, step * width)
    reads = []
    for k in range(0, taps, step):
        read = cut(x, at, k // step, k // step + n, 1)
        reads.append(cut(read, at + 1, 0, min(step, taps - k) * width, 1))
    return reads[0] if len(reads) == 1 else mx.concatenate(reads, -1)


def _of_groups(
    read: mx.array, y: mx.array, groups: int, kernel: list[int], exchanged: bool
) -> mx.array:
    """The same for each group, by one product of all: `(G * O / G, *K, C / G)`."""
    n = y.size // y.shape[-1]
    read = read.reshape(n, -1, groups, read.shape[-1] // groups // prod(kernel))
    read = read.transpose(2, 0, 1, 3).reshape(groups, n, -1)  # G, N * M, K * C / G
    y = y.reshape(n, groups, -1).transpose(1, 2, 0)  # G, O / G, N * M
    found = (y @ read).reshape(groups, y.shape[1], *kernel, -1)
    if exchanged:
        found = found.swapaxes(1, -1)
    return found.flatten(0, 1)
