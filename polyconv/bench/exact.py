"""The output of a convolution in float64, to measure errors by."""

from __future__ import annotations

from math import prod

import numpy as np

from polyconv.bench.frameworks import Array
from polyconv.problem.spec import ConvSpec

_MOST = 3e9  # outputs times taps; more take too long


def exact(problem: ConvSpec, x: Array, w: Array) -> Array | None:
    """The output, or None if it takes too long to compute."""
    if prod(w.shape[1:-1]) * problem.n_outputs > _MOST:
        return None
    y = _uncropped(problem, x, w)
    for i, a in enumerate(problem.axes):
        start = a.window - 1 - a.padding_lo
        stop = start + (a.output_size - 1) * a.stride + 1
        widths = [(0, 0)] * y.ndim
        widths[1 + i] = (max(-start, 0), max(stop - y.shape[1 + i], 0))
        y = np.pad(y, widths)
        lo = widths[1 + i][0]
        y = np.take(y, range(start + lo, stop + lo, a.stride), 1 + i)
    return y


def _uncropped(problem: ConvSpec, x: Array, w: Array) -> Array:
    """All outputs at stride 1, before padding or cropping.

    For each tap the input, scaled by that tap's weights, is added where it belongs.
    """
    if not problem.flip:
        w = np.flip(w, tuple(range(1, w.ndim - 1)))
    groups = problem.groups
    spaces = [a.dilated_size + (a.window - 1) for a in problem.axes]
    y = np.zeros((problem.batch, *spaces, problem.out_channels))
    wide = x.astype(np.float64).reshape(*x.shape[:-1], groups, 1, -1)
    kernel = w.astype(np.float64).reshape(groups, w.shape[0] // groups, *w.shape[1:])
    for tap in np.ndindex(*w.shape[1:-1]):
        at = tuple(
            slice(k * a.kernel_dilation, k * a.kernel_dilation + a.dilated_size, a.input_dilation)
            for k, a in zip(tap, problem.axes, strict=True)
        )
        of_tap, written = (slice(None), slice(None), *tap), (slice(None), *at)
        product = wide @ kernel[of_tap].swapaxes(1, 2)
        y[written] += product.reshape(*x.shape[:-1], -1)
    return y
