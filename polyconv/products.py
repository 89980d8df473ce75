"""Sums of matrix products, one per tap: the gradient of a plan with respect to its weight."""

from __future__ import annotations

from itertools import product

import mlx.core as mx

from polyconv.convolve import padding_of
from polyconv.execute import assemble
from polyconv.packing import pack
from polyconv.plan import ConvPlan, SubConv
from polyconv.slicing import Inputs, cut


def correlate(plan: ConvPlan, x: mx.array, y: mx.array) -> mx.array:
    """The gradient of a plan with respect to its weight.

    For each tap of each subconv one product of the samples that it reads, `(N * prod(M), C)`, with
    the cotangents of the phases, `(N * prod(M), R * O)`: nothing is unfolded. Weaving and packing
    are linear, so their transposes are their gradients.

    Args:
        plan (ConvPlan): A polyphase plan for the shapes of the convolution.
        x (array): The input, ``(N, *S, C)``.
        y (array): The cotangent of the output, ``plan.problem.output_shape``.

    Returns:
        array: Of the weight's shape, ``(O, *K, C / groups)``.
    """
    spec = plan.problem
    dtype = getattr(mx, spec.dtype)
    kernel = [axis.kernel_size for axis in spec.axes]
    zeros = mx.zeros((spec.out_channels, *kernel, spec.in_channels // spec.groups), dtype)
    if plan.is_zero:
        return zeros
    shapes = [sub.spec.output_shape for sub in plan.subconvs]
    outputs = [mx.zeros(shape, dtype) for shape in shapes]
    _, woven = mx.vjp(lambda *ys: assemble(plan, list(ys)), outputs, [y.astype(dtype)])
    inputs = Inputs(x.astype(dtype), spec.groups)
    taps = [_correlate(inputs, dy, sub) for dy, sub in zip(woven, plan.subconvs, strict=True)]
    return mx.vjp(lambda w: pack(plan, w), [zeros], taps)[1][0]


def _correlate(inputs: Inputs, y: mx.array, sub: SubConv) -> mx.array:
    """The gradient of the taps of one subconv: `(G * prod(R) * O / G, *T, C)`."""
    spec, groups = sub.spec, sub.spec.groups
    x = inputs.padded(*padding_of(spec))
    y = y.reshape(-1, groups, spec.out_channels // groups).transpose(1, 2, 0)  # G, R * O, N * M
    taps = []
    for indices in product(*[range(axis.kernel_size) for axis in spec.axes]):
        read = x
        for i, (axis, tap) in enumerate(zip(spec.axes, indices, strict=True)):
            start = tap * axis.kernel_dilation
            stop = start + (axis.output_size - 1) * axis.stride + 1
            read = cut(read, 1 + i, start, stop, axis.stride)
        read = read.reshape(-1, groups, spec.in_channels // groups).swapaxes(0, 1)  # G, N * M, C
        taps.append(y @ read)
    kernel = [axis.kernel_size for axis in spec.axes]
    return mx.stack(taps, 2).reshape(spec.out_channels, *kernel, -1)
