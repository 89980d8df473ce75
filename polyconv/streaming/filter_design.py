"""Which filter does a resampler use? The caller's own, or the windowed sinc of `scipy.signal`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import gcd
from typing import Any, TypeAlias

import mlx.core as mx
import numpy as np

from polyconv.problem import arguments
from polyconv.streaming.boundary import Array

Filter: TypeAlias = "mx.array | np.ndarray[Any, Any] | Sequence[float]"
Window: TypeAlias = "str | tuple[str, float] | Filter"

_WINDOWS: dict[str, Callable[[int], Array]] = {
    "hamming": np.hamming,
    "hann": np.hanning,
    "blackman": np.blackman,
    "bartlett": np.bartlett,
    "boxcar": np.ones,
}
# The largest `up` or `down` to design for. The filter has 20 taps for each: a larger one would
# take seconds and gigabytes to design.
_MOST = 2**17


def lowest_terms(
    op: str, up: int, down: int, names: tuple[str, str] = ("up", "down")
) -> tuple[int, int]:
    """`up` and `down`, checked, without their common divisors.

    `names` are what the caller's own arguments are called, for errors.
    """
    up, down = arguments.count(op, names[0], up), arguments.count(op, names[1], down)
    common = gcd(up, down)
    return up // common, down // common


def design(
    op: str, up: int, down: int, window: Window, names: tuple[str, str] = ("up", "down")
) -> mx.array:
    """The filter of `resample_poly`: a windowed sinc at the lower of both rates, times `up`.

    It is float32 even for halves, because rounding its taps would change the filter. `names` are
    what the caller's own arguments are called, for errors.
    (scipy/signal/_signaltools.py, `resample_poly`, and `firwin`.)
    """
    if not isinstance(window, (str, tuple)):
        return read_filter(op, "window", window).astype(mx.float32) * up
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
    except Exception as error:  # SciPy raises many types
        reason = f"{arguments.shown(window)}: {error}"
        arguments.refuse(op, "window must be one of scipy.signal's", reason)


def read_filter(op: str, name: str, h: Filter) -> mx.array:
    """A filter of the caller's: one axis, at least one tap."""
    taps = read_reals(op, name, h)
    if taps.ndim != 1 or taps.shape[0] == 0:
        got = f"shape {tuple(taps.shape)}"
        arguments.refuse(op, f"{name}, as a filter, must have one axis and a tap", got)
    return taps


def read_reals(op: str, name: str, a: Any) -> mx.array:
    """Real numbers: an MLX array as it is, a NumPy array or a list as float32."""
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
