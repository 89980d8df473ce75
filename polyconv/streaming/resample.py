"""Resampling by a ratio of integers, as in `scipy.signal`: one convolution with both strides."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import gcd, prod
from typing import Any, TypeAlias

import mlx.core as mx
import numpy as np

from polyconv.execution.arrays import of_this_shape, zeros_for
from polyconv.execution.device import is_exporting
from polyconv.ops import conv_transpose
from polyconv.problem import arguments, spec
from polyconv.streaming.boundary import MODES, Array, beyond
from polyconv.streaming.functional import stream_flush, stream_init, stream_step

Filter: TypeAlias = "mx.array | np.ndarray[Any, Any] | Sequence[float]"
Window: TypeAlias = "str | tuple[str, float] | Filter"

_WINDOWS: dict[str, Callable[[int], Array]] = {
    "hamming": np.hamming,
    "hann": np.hanning,
    "blackman": np.blackman,
    "bartlett": np.bartlett,
    "boxcar": np.ones,
}
# A filter has 20 taps for each: of more its design would take seconds, and gigabytes.
_MOST = 2**17
# As `ResampleStream` calls `up` and `down`.
_RATES = ("out_rate", "in_rate")
_BACKGROUNDS = ("mean", "median", "minimum", "maximum")


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

    As :func:`scipy.signal.upfirdn`, differentiable in both `h` and `x`. Halves are summed in
    float32, and rounded once.

    Args:
        h (array): The filter, 1D.
        x (array): The signal, of any shape, float32, float16 or bfloat16.
        up (int, optional): By how much to upsample. Default: ``1``.
        down (int, optional): By how much to downsample. Default: ``1``.
        axis (int, optional): Along which axis. Default: ``-1``.
        mode (str, optional): What lies beyond the ends: ``"constant"``, ``"wrap"``, ``"edge"``,
            ``"smooth"``, ``"symmetric"``, ``"reflect"``, ``"antisymmetric"``, ``"antireflect"`` or
            ``"line"``. Default: ``"constant"``.
        cval (float, optional): Beyond the ends with ``"constant"``. Default: ``0``.

    Returns:
        array: ``((n - 1) * up + len(h) - 1) // down + 1`` samples along the axis for n of `x`.

    Raises:
        ValueError: If an argument does not fit.
    """
    axis = _axis("upfirdn", x, axis)
    taps = _filter("upfirdn", "h", h).astype(mx.float32)
    up = arguments.count("upfirdn", "up", up)
    down = arguments.count("upfirdn", "down", down)
    arguments.choice("upfirdn", "mode", mode, MODES)
    cval = arguments.real("upfirdn", "cval", cval)
    n, n_taps = x.shape[axis], taps.shape[0]
    n_out = ((n - 1) * up + n_taps - 1) // down + 1
    spec.check_int32("upfirdn", n_out)
    wide = x.astype(mx.float32)
    y = _resampled(taps, wide, up, down, axis, (n_taps - 1, n_out), mode, cval)
    return y.astype(x.dtype)


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

    As :func:`scipy.signal.resample_poly`. Halves are summed in float32, and rounded once.

    Args:
        x (array): The signal, of any shape.
        up (int): By how much to upsample. Where the filter is designed, with 20 taps for each of
            the larger of both, these must be at most 131,072 without their common divisors.
        down (int): By how much to downsample.
        axis (int, optional): Along which axis. Default: ``0``.
        window (str, tuple or array, optional): Of the filter that is designed: ``("kaiser", beta)``
            or a name; or the filter itself. Windows beside ``hamming``, ``hann``, ``blackman``,
            ``bartlett`` and ``boxcar`` need SciPy. Default: ``("kaiser", 5.0)``.
        padtype (str, optional): What lies beyond the ends: a mode of :func:`upfirdn`, or
            ``"mean"``, ``"median"``, ``"minimum"``, ``"maximum"`` of the signal.
            Default: ``"constant"``.
        cval (float, optional): Beyond the ends with ``"constant"``. Default: ``0``.

    Returns:
        array: ``ceil(n * up / down)`` samples along the axis for n of `x`.

    Raises:
        ValueError: If an argument does not fit.
    """
    up, down = _ratio("resample_poly", up, down)
    axis = _axis("resample_poly", x, axis)
    n = x.shape[axis]
    arguments.choice("resample_poly", "padtype", padtype, (*MODES, *_BACKGROUNDS))
    if cval is not None:
        cval = arguments.real("resample_poly", "cval", cval)
    if cval is not None and padtype != "constant":
        arguments.refuse(
            "resample_poly", "cval goes with padtype 'constant'", arguments.shown(padtype)
        )
    if up == down:
        return mx.array(x)  # another array object: `+=` changes one in place
    taps = design("resample_poly", up, down, window)
    half = (taps.shape[0] - 1) // 2
    ends = taps.shape[0] - 1 - half, -(-n * up // down)
    spec.check_int32("resample_poly", ends[1])
    wide, mode, background = x.astype(mx.float32), padtype, None
    if padtype in _BACKGROUNDS and x.size:
        reduce = {"minimum": mx.min, "maximum": mx.max}.get(padtype) or getattr(mx, padtype)
        background = reduce(wide, axis, keepdims=True)
        wide, mode = wide - background, "constant"
    y = _resampled(taps, wide, up, down, axis, ends, mode, cval or 0)
    return (y if background is None else y + background).astype(x.dtype)


class ResampleStream:
    """Resamples a signal that comes in chunks, as `soxr.ResampleStream` does.

    The chunks' outputs, one after the other, are `resample_poly` of the whole.

    Args:
        in_rate (int): Samples per second that come.
        out_rate (int): Samples per second that go.
        num_channels (int, optional): Channels. Default: ``1``.
        window (str, tuple or array, optional): As for :func:`resample_poly`.

    Raises:
        ValueError: If a rate or the number of channels is no positive integer.
    """

    def __init__(
        self,
        in_rate: int,
        out_rate: int,
        num_channels: int = 1,
        *,
        window: Window = ("kaiser", 5.0),
    ) -> None:
        up, down = _ratio("ResampleStream", out_rate, in_rate, _RATES)
        self._channels = arguments.count("ResampleStream", "num_channels", num_channels)
        taps = design("ResampleStream", up, down, window, _RATES)
        half = (taps.shape[0] - 1) // 2
        self._packed = conv_transpose.pack(taps.reshape(1, -1, 1))
        self._state = stream_init(
            "conv_general",
            self._packed,
            batch=self._channels,
            stride=down,
            input_dilation=up,
            # As many outputs as `resample_poly` gives: `(up n - 1) // down + 1`.
            padding=([taps.shape[0] - 1 - half], [half + up - 1]),
            flip=True,
        )

    @property
    def latency(self) -> tuple[int, int]:
        """By how many samples of the output, and of the input, the output is behind at most."""
        return self._state.latency

    @property
    def state(self) -> list[mx.array]:
        """The samples that it holds; `mx.eval` them, and another thread may go on."""
        return [mx.array(self._state.tail)]  # the same numbers in an array object for the caller

    def resample_chunk(self, x: mx.array | Array, last: bool = False) -> mx.array | Array:
        """Takes a chunk, and gives the samples that are known with it.

        Args:
            x (array): ``(n,)``, or ``(n, channels)``; float32, of MLX or of NumPy.
            last (bool, optional): Whether the signal ends with it; the stream then begins anew.
                Default: ``False``.

        Returns:
            array: Samples, of the kind and with the axes of `x`.

        Raises:
            ValueError: If the chunk has other channels than the stream.
        """
        arguments.switch("resample_chunk", "last", last)
        samples = _array("resample_chunk", "x", x)
        mono = samples.ndim == 1
        lines = samples[:, None] if mono else samples
        if lines.ndim != 2 or lines.shape[1] != self._channels:
            must = f"x must be (n,) or (n, {self._channels})" if self._channels == 1 else ""
            must = must or f"x must be (n, {self._channels})"
            arguments.refuse("resample_chunk", must, str(tuple(samples.shape)))
        y, self._state = stream_step(self._state, lines.T[..., None], self._packed)
        if last:
            rest, self._state = stream_flush(self._state, self._packed)
            y = mx.concatenate([y, rest], 1)
        y = y[..., 0].T
        y = y[:, 0] if mono else y
        if isinstance(x, mx.array):
            return y
        mx.eval(y, self.state)  # who gives NumPy's arrays knows of no thread that they are bound to
        return np.array(y)


def design(
    op: str, up: int, down: int, window: Window, names: tuple[str, str] = ("up", "down")
) -> mx.array:
    """The filter of `resample_poly`: a windowed sinc at the lower of both rates, times `up`.

    In float32, whatever it filters: a filter of halves would be another one.
    (scipy/signal/_signaltools.py, `resample_poly`, and `firwin`.) `names` are those that the caller
    knows `up` and `down` by.
    """
    if not isinstance(window, (str, tuple)):
        return _filter(op, "window", window).astype(mx.float32) * up
    most = max(up, down)
    if most > _MOST:
        both = f"{names[0]} and {names[1]}, without common divisors,"
        must = f"{both} must be at most {_MOST} for a filter of its own"
        arguments.refuse(op, must, f"{up} and {down}")
    m = np.arange(-10 * most, 10 * most + 1)
    h = np.sinc(m / most) / most * _window(op, window, len(m))
    return mx.array((h / h.sum() * up).astype(np.float32))


def _window(op: str, window: str | tuple[str, float], n: int) -> Array:
    if isinstance(window, str) and window in _WINDOWS:
        return np.asarray(_WINDOWS[window](n))
    if (
        isinstance(window, tuple)
        and len(window) == 2
        and isinstance(window[0], str)
        and window[0] == "kaiser"
    ):
        return np.kaiser(n, arguments.real(op, "beta of the kaiser window", window[1]))
    try:
        from scipy.signal import get_window
    except ImportError:
        known = "('kaiser', beta), " + ", ".join(_WINDOWS)
        arguments.refuse(op, f"window must be {known}, without SciPy", arguments.shown(window))
    try:
        return np.asarray(get_window(window, n, fftbins=False))
    except Exception as error:  # SciPy's, of many types
        reason = f"{arguments.shown(window)}: {error}"
        arguments.refuse(op, "window must be one of scipy.signal's", reason)


def _filter(op: str, name: str, h: Filter) -> mx.array:
    taps = _array(op, name, h)
    if taps.ndim != 1 or taps.shape[0] == 0:
        got = f"shape {tuple(taps.shape)}"
        arguments.refuse(op, f"{name}, as a filter, must have one axis and a tap", got)
    return taps


def _array(op: str, name: str, a: Any) -> mx.array:
    """Reads real numbers: an array of MLX's as it is, of NumPy's or a list as float32."""
    if not isinstance(a, mx.array):
        read = None
        try:
            if isinstance(a, (np.ndarray, list, tuple)) and not np.iscomplexobj(a):
                read = mx.array(np.asarray(a, np.float32))
        except (TypeError, ValueError, OverflowError):
            pass
        if read is None:
            must = f"{name} must be an array or a list of real numbers"
            must = f"{must}, or the name of a window" if name == "window" else must
            arguments.refuse(op, must, arguments.shown(a))
        return read
    if a.dtype == mx.complex64:
        arguments.refuse(op, f"{name} must be real", "complex64")
    return a


def _ratio(op: str, up: int, down: int, names: tuple[str, str] = ("up", "down")) -> tuple[int, int]:
    up, down = arguments.count(op, names[0], up), arguments.count(op, names[1], down)
    common = gcd(up, down)
    return up // common, down // common


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
        arguments.refuse(op, "x must have a sample along the axis", "none")
    counted: int = axis % x.ndim
    return counted


def _resampled(
    taps: mx.array,
    x: mx.array,
    up: int,
    down: int,
    axis: int,
    ends: tuple[int, int],
    mode: str,
    cval: float,
) -> mx.array:
    """`y[t] = sum_k h[k] xd[down t + len(h) - 1 - lo - k]` for t below the second of `ends`.

    `lo`, the first of them, is the padding in front. What lies beyond the ends is put there first,
    as far as the filter reaches. All in float32, also of halves: their sums are rounded once, and
    what is large on the way only, as twice an end less a sample, does not overflow.
    """
    lo, n_out = ends
    outer, inner = x.shape[:axis], x.shape[axis + 1 :]
    lines = x.reshape(prod(outer), x.shape[axis], prod(inner))
    if not x.size:
        return zeros_for(lines, (*outer, n_out, *inner), x.dtype)
    if is_exporting():  # the padding is that of this length
        lines = of_this_shape(lines)
    if mode != "constant" or cval:
        n, reach = x.shape[axis], (n_out - 1) * down + taps.shape[0] - 1 - lo
        before, behind = max(0, -(-lo // up)), max(0, reach // up - (n - 1))
        lines = _extended(lines, before, behind, mode, cval)
        lo -= before * up
    dilated = (lines.shape[1] - 1) * up + 1
    hi = (n_out - 1) * down + taps.shape[0] - dilated - lo
    y = conv_transpose.conv_general(
        lines,
        taps.reshape(1, -1, 1),
        down,
        ([lo], [hi]),
        1,
        up,
        lines.shape[2],
        True,
    )
    return y.reshape(*outer, n_out, *inner)


def _extended(x: mx.array, before: int, behind: int, mode: str, cval: float) -> mx.array:
    n = x.shape[1]
    if mode == "constant":
        widths = [(0, 0), (before, behind), (0, 0)]
        return mx.pad(x, widths, constant_values=mx.array(cval, x.dtype))
    pieces = []
    for positions in (np.arange(-before, 0), np.arange(n, n + behind)):
        total = mx.zeros((x.shape[0], len(positions), x.shape[2]), x.dtype)
        for by, at, above in beyond(mode, positions, n) if len(positions) else ():
            read = mx.take(x, mx.array(at), 1)
            if above is not None:
                read = read - mx.take(x, mx.array(above), 1)
            total = total + mx.array(by.astype(np.float32))[None, :, None] * read
        pieces.append(total)
    return mx.concatenate([pieces[0], x, pieces[1]], 1)
