"""The gradient of an ordinary convolution with respect to its weight, by one operation.

It is a convolution, of which cuDNN makes its own gradient, or a product. For a product what each
output reads is copied, which takes few operations, whatever the number of taps. MLX's own rule does
the same, for kernels without dilation and groups, but cannot be mapped by `mx.vmap`.

Letters in shape comments: N batch, M frames, K taps, G groups, O and C output and input channels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import TypeAlias

import mlx.core as mx

from polyconv.execution import unpatched
from polyconv.execution.arrays import contiguous, summed_in
from polyconv.execution.recipe import Recipe
from polyconv.planning.plan import ConvPlan
from polyconv.planning.weight_gradient import Run, as_convolution, run_of
from polyconv.problem.spec import Axis

# Takes the input and the cotangent of the output.
Gradient: TypeAlias = "Callable[[mx.array, mx.array], mx.array]"


def convolved(plan: ConvPlan, exchanged: bool) -> Gradient | None:
    """As `unfolded`, by one convolution.

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


def unfolded(plan: ConvPlan, exchanged: bool = False) -> Gradient:
    """The gradient of a plan that is native, without input dilation and flip, by one product.

    Args:
        plan (ConvPlan): The plan.
        exchanged (bool, optional): Exchange each group's input and output channels of the result.

    Returns:
        callable: It takes the input, ``(N, *S, C)``, and the cotangent of the output,
        ``plan.problem.output_shape``. Its result has the weight's shape,
        ``(O, *K, C / groups)``, and is float32 for halves.
    """
    spec, axes, run = plan.problem, plan.first.spec.axes, run_of(plan)
    read = Recipe((spec.batch, *[axis.size for axis in axes], spec.in_channels))
    read.pad([(0, 0), *[(axis.padding_lo, axis.padding_hi) for axis in axes], (0, 0)])
    made = Recipe(spec.output_shape)
    if run:
        found = _in_runs(read, made, axes[0], run, exchanged)
    else:
        if all(a.kernel_size == a.stride and a.kernel_dilation == 1 for a in axes):
            _blocks(read, axes)
        else:
            for i in reversed(range(spec.ndim)):
                _windows(read, i + 1, axes[i])
        found = _of_groups(read, made, plan, exchanged)
    dtype = summed_in(getattr(mx, spec.dtype))
    in_rows, in_columns, as_weight = read.made(), made.made(), found.made()
    return lambda x, y: as_weight(in_columns(y.astype(dtype)) @ in_rows(x.astype(dtype)))


def _in_runs(read: Recipe, made: Recipe, axis: Axis, run: Run, exchanged: bool) -> Recipe:
    """Both factors in 1D by runs of frames, and how the gradient is made of their product."""
    n, taps, step = run.frames, run.taps, axis.stride
    channels, out = read.shape[-1], made.shape[-1]
    _windows(read, 1, Axis(size=read.shape[1], kernel_size=taps, stride=step * n))
    read.reshape(-1, taps * channels)
    made.reshape(-1, n * out).transpose(1, 0)
    found = Recipe((n * out, taps * channels)).reshape(n, out, taps, channels)
    # The sum over j of each (j, step * j + k). With `step` rows more to each j they lie in columns.
    found.transpose(0, 2, 1, 3).reshape(n * taps, out, channels)
    found.pad([(0, n * step), (0, 0), (0, 0)]).reshape(n, taps + step, out, channels)
    found.cut(1, 0, axis.kernel_size)
    found.then(lambda a: a.sum(0), (axis.kernel_size, out, channels))
    return found.transpose(*((2, 0, 1) if exchanged else (1, 0, 2)))


def _of_groups(read: Recipe, made: Recipe, plan: ConvPlan, exchanged: bool) -> Recipe:
    """Both factors of each group, and how the gradient is made of their products."""
    groups, axes = plan.problem.groups, plan.first.spec.axes
    kernel = [axis.kernel_size for axis in axes]
    out, channels = made.shape[-1] // groups, plan.problem.in_channels // groups
    n, taps = prod(made.shape[:-1]), prod(kernel)
    if groups == 1:
        read.reshape(n, taps * channels)
        made.reshape(n, out).transpose(1, 0)
    else:
        read.reshape(n, taps, groups, channels).transpose(2, 0, 1, 3)
        read.reshape(groups, n, taps * channels)
        made.reshape(n, groups, out).transpose(1, 2, 0)
    shape = (out, taps * channels) if groups == 1 else (groups, out, taps * channels)
    found = Recipe(shape).reshape(groups, out, *kernel, channels)
    if exchanged:
        last = len(kernel) + 2
        found.transpose(0, last, *range(2, last), 1)
    return found.reshape(groups * found.shape[1], *found.shape[2:])


def _blocks(read: Recipe, axes: Sequence[Axis]) -> None:
    """What each output reads where no sample is read twice, by one copy: `(N, *M, *K, C)`."""
    ndim, (batch, *_, channels) = len(axes), read.shape
    pairs = [size for axis in axes for size in (axis.output_size, axis.kernel_size)]
    read.reshape(batch, *pairs, channels)
    read.transpose(0, *range(1, 2 * ndim, 2), *range(2, 2 * ndim + 1, 2), 2 * ndim + 1)
    read.reshape(batch, *[axis.output_size for axis in axes], -1)


def _windows(read: Recipe, at: int, axis: Axis) -> None:
    """The frames of an axis, and in the last axis what each reads, tap by tap: `(..., K * rest)`.

    Where the samples of the taps follow each other in memory, up to the next frame's, they are cut
    out together.
    """
    taps, step, n = axis.kernel_size, axis.stride, axis.output_size
    every, width = (slice(None),) * at, read.shape[-1]
    if at == len(read.shape) - 2 and axis.kernel_dilation == 1 and 1 < step <= taps:
        rows = n + -(-taps // step) - 1
        read.pad([(0, rows * step - size if i == at else 0) for i, size in enumerate(read.shape)])
        read.reshape(*read.shape[:at], rows, step * width)
        cuts = [
            (*every, slice(k // step, k // step + n), slice(min(step, taps - k) * width))
            for k in range(0, taps, step)
        ]
    else:
        starts = [k * axis.kernel_dilation for k in range(taps)]
        cuts = [(*every, slice(k, k + (n - 1) * step + 1, step)) for k in starts]
    shape = (*read.shape[:at], n, *read.shape[at + 1 : -1], taps * width)
    if len(cuts) == 1:
        read.then(lambda a: a[cuts[0]], shape)
    else:
        read.then(lambda a: mx.concatenate([a[each] for each in cuts], -1), shape)
