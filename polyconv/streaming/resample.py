"""Resampling by a ratio of integers, as in `scipy.signal`: one convolution with both strides."""

from __future__ import annotations

from math import prod
from typing import NamedTuple

import mlx.core as mx
import numpy as np

from polyconv.execution.arrays import of_this_shape, zeros_for
from polyconv.execution.device import is_exporting
from polyconv.execution.identity import handle_of
from polyconv.ops import conv_transpose
from polyconv.problem import arguments, spec
from polyconv.streaming.boundary import MODES, beyond
from polyconv.streaming.filter_design import Filter, Window, design, lowest_terms, read_filter

# `resample_poly` subtracts what this function of MLX gives, and adds it again at the end.
_BACKGROUNDS = {"mean": "mean", "median": "median", "minimum": "min", "maximum": "max"}


class _Grid(NamedTuple):
    """Which outputs to compute: `n_out` of them, at these rates, `lo` of padding in front.

    Output t is `sum_k h[k] xd[down t + len(h) - 1 - lo - k]`, with `xd` the samples `up` apart.
    """

    up: int
    down: int
    lo: int
    n_out: int


class _Ends(NamedTuple):
    """What lies beyond the ends: a mode of `upfirdn`, and the value of ``"constant"``."""

    mode: str = "constant"
    cval: float = 0


def upfirdn(
    h: Filter,
    x: mx.array,
    up: int = 1,
    down: int = 1,
    axis: int = -1,
    mode: str = "constant",
    cval: float = 0,
) -> mx.array:
    """Puts ``up - 1`` zeros between samples, filters, and keeps every `down`-th sample.

    The same as :func:`scipy.signal.upfirdn`, and differentiable in `h` and `x`. Halves are summed
    in float32, and rounded once.

    Args:
        h (array): The filter, 1D.
        x (array): The signal, of any shape, float32, float16 or bfloat16.
        up (int, optional): By how much to upsample. Default: ``1``.
        down (int, optional): By how much to downsample. Default: ``1``.
        axis (int, optional): Along which axis. Default: ``-1``.
        mode (str, optional): What the signal is beyond its ends: ``"constant"``, ``"wrap"``,
            ``"edge"``, ``"smooth"``, ``"symmetric"``, ``"reflect"``, ``"antisymmetric"``,
            ``"antireflect"`` or ``"line"``. Default: ``"constant"``.
        cval (float, optional): The value beyond the ends with ``"constant"``. Default: ``0``.

    Returns:
        array: ``((n - 1) * up + len(h) - 1) // down + 1`` samples along the axis, for n samples
        of `x`.

    Raises:
        ValueError: If an argument does not fit.
    """
    axis = _axis("upfirdn", x, axis)
    taps = read_filter("upfirdn", "h", h).astype(mx.float32)
    up = arguments.count("upfirdn", "up", up)
    down = arguments.count("upfirdn", "down", down)
    arguments.choice("upfirdn", "mode", mode, MODES)
    cval = arguments.real("upfirdn", "cval", cval)
    n_taps = taps.shape[0]
    n_out = ((x.shape[axis] - 1) * up + n_taps - 1) // down + 1
    spec.check_int32("upfirdn", n_out)
    grid = _Grid(up, down, n_taps - 1, n_out)
    return _resampled(taps, x.astype(mx.float32), axis, grid, _Ends(mode, cval)).astype(x.dtype)


def resample_poly(
    x: mx.array,
    up: int,
    down: int,
    axis: int = 0,
    window: Window = ("kaiser", 5.0),
    padtype: str = "constant",
    cval: float | None = None,
) -> mx.array:
    """Resamples a signal by ``up / down`` with a zero-phase low-pass filter.

    The same as :func:`scipy.signal.resample_poly`. Halves are summed in float32, and rounded once.

    Args:
        x (array): The signal, of any shape.
        up (int): By how much to upsample. If `window` is no filter, `up` and `down` must be at
            most 131,072 without their common divisors. The filter that is designed has 20 taps
            for each of the larger one.
        down (int): By how much to downsample.
        axis (int, optional): Along which axis. Default: ``0``.
        window (str, tuple or array, optional): The window of the filter to design,
            ``("kaiser", beta)`` or a name; or the filter itself. Windows other than ``hamming``,
            ``hann``, ``blackman``, ``bartlett`` and ``boxcar`` need SciPy.
            Default: ``("kaiser", 5.0)``.
        padtype (str, optional): What the signal is beyond its ends: a mode of :func:`upfirdn`, or
            ``"mean"``, ``"median"``, ``"minimum"``, ``"maximum"`` of the signal.
            Default: ``"constant"``.
        cval (float, optional): The value beyond the ends with ``"constant"``. Default: ``0``.

    Returns:
        array: ``ceil(n * up / down)`` samples along the axis, for n samples of `x`.

    Raises:
        ValueError: If an argument does not fit.
    """
    up, down = lowest_terms("resample_poly", up, down)
    axis = _axis("resample_poly", x, axis)
    ends = _read_ends(padtype, cval)
    if up == down:
        return handle_of(x)
    taps = design("resample_poly", up, down, window)
    half = (taps.shape[0] - 1) // 2
    grid = _Grid(up, down, taps.shape[0] - 1 - half, -(-x.shape[axis] * up // down))
    spec.check_int32("resample_poly", grid.n_out)
    wide = x.astype(mx.float32)
    if padtype not in _BACKGROUNDS or not x.size:
        return _resampled(taps, wide, axis, grid, ends).astype(x.dtype)
    background = getattr(mx, _BACKGROUNDS[padtype])(wide, axis, keepdims=True)
    y = _resampled(taps, wide - background, axis, grid, ends)
    return (y + background).astype(x.dtype)


def _read_ends(padtype: str, cval: float | None) -> _Ends:
    arguments.choice("resample_poly", "padtype", padtype, (*MODES, *_BACKGROUNDS))
    if cval is not None:
        cval = arguments.real("resample_poly", "cval", cval)
    if cval is not None and padtype != "constant":
        must = "padtype must be 'constant' where cval is given"
        arguments.refuse("resample_poly", must, arguments.shown(padtype))
    return _Ends("constant" if padtype in _BACKGROUNDS else padtype, cval or 0)


def _axis(op: str, x: mx.array, axis: int) -> int:
    """The axis, counted from the first, of a signal that can be resampled along it."""
    if not isinstance(x, mx.array):
        arguments.refuse(op, "x must be an mlx.core.array", type(x).__name__)
    if x.dtype not in (mx.float32, mx.float16, mx.bfloat16):
        arguments.refuse(op, "x must be float16, bfloat16 or float32", str(x.dtype)[9:])
    axis = arguments.integer(op, "axis", axis)
    if not -x.ndim <= axis < x.ndim:
        arguments.refuse(op, f"axis must be one of the {x.ndim} of x", str(axis))
    if x.shape[axis] == 0:
        arguments.refuse(op, "x must have a sample along the axis", f"shape {x.shape}")
    counted: int = axis % x.ndim
    return counted


def _resampled(taps: mx.array, x: mx.array, axis: int, grid: _Grid, ends: _Ends) -> mx.array:
    """Filters `x` along an axis, in float32.

    Halves come widened to float32, so that sums are rounded once, and what is large only on the
    way (twice an end less a sample, say) does not overflow.
    """
    outer, inner = x.shape[:axis], x.shape[axis + 1 :]
    lines = x.reshape(prod(outer), x.shape[axis], prod(inner))
    if not x.size:
        return zeros_for(lines, (*outer, grid.n_out, *inner), x.dtype)
    if is_exporting():  # the padding below fits this length alone
        lines = of_this_shape(lines)
    if ends.mode != "constant" or ends.cval:
        lines, grid = _with_ends(lines, taps.shape[0], grid, ends)
    return _upfirdn(lines, taps, grid).reshape(*outer, grid.n_out, *inner)


def _upfirdn(lines: mx.array, taps: mx.array, grid: _Grid) -> mx.array:
    """The outputs of a grid, for lines `(N, L, C)` with zeros beyond their ends."""
    dilated = (lines.shape[1] - 1) * grid.up + 1
    hi = (grid.n_out - 1) * grid.down + taps.shape[0] - dilated - grid.lo
    return conv_transpose.conv_general(
        lines,
        taps.reshape(1, -1, 1),
        grid.down,
        ([grid.lo], [hi]),
        1,
        grid.up,
        lines.shape[2],
        True,
    )


def _with_ends(lines: mx.array, n_taps: int, grid: _Grid, ends: _Ends) -> tuple[mx.array, _Grid]:
    """The lines with what lies beyond their ends, as far as the filter reaches.

    The grid's padding in front is shorter by what was put there.
    """
    n, reach = lines.shape[1], (grid.n_out - 1) * grid.down + n_taps - 1 - grid.lo
    before, behind = max(0, -(-grid.lo // grid.up)), max(0, reach // grid.up - (n - 1))
    lines = _extended(lines, before, behind, ends)
    return lines, grid._replace(lo=grid.lo - before * grid.up)


def _extended(x: mx.array, before: int, behind: int, ends: _Ends) -> mx.array:
    n = x.shape[1]
    if ends.mode == "constant":
        widths = [(0, 0), (before, behind), (0, 0)]
        return mx.pad(x, widths, constant_values=mx.array(ends.cval, x.dtype))
    pieces = []
    for positions in (np.arange(-before, 0), np.arange(n, n + behind)):
        total = mx.zeros((x.shape[0], len(positions), x.shape[2]), x.dtype)
        for by, at, above in beyond(ends.mode, positions, n) if len(positions) else ():
            read = mx.take(x, mx.array(at), 1)
            if above is not None:
                read = read - mx.take(x, mx.array(above), 1)
            total = total + mx.array(by.astype(np.float32))[None, :, None] * read
        pieces.append(total)
    return mx.concatenate([pieces[0], x, pieces[1]], 1)
