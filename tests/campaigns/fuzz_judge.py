"""Is what a call gave right, or one clear error?

A result is compared with the float64 reference. An error is clear if it is a `ValueError` in the
form `[name] what must hold; got what`: one line, not long, of nothing but the caller's terms.
`TypeError` is Python's for a call that does not fit the signature, `OSError` for a file that cannot
be read; whatever else a contract allows is named by the generator of the input.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import mlx.core as mx
import numpy as np

import polyconv
from polyconv.execution import memory as room
from polyconv.gradients import maps
from polyconv.planning.tiling import Room
from tests.campaigns.fuzz_inputs import cast
from tests.support.reference import conv_general as reference_conv
from tests.support.refusals import LONGEST

FORM = re.compile(r"\[[\w.]+\] [^\n\r]+; got [^\n\r]+")
_INTERNAL = re.compile(
    r"Traceback|nanobind|std::|cpp|array_shape|\[(conv|pad|broadcast|reshape)\]"
    r"|incompatible function arguments|object has no attribute|not subscriptable|unpack"
)
_SIGNATURE = re.compile(
    r"missing \d+ required|unexpected keyword|positional argument|multiple values|takes no arg"
)
_PACKAGE = str(Path(polyconv.__file__).parent)

Check = Callable[[Any], str]


@dataclass
class Input:
    """One call, what is wrong with its result ("" if nothing), and what else its contract allows.

    `legal` is whether it may not be refused. `allowed` holds texts of errors that a document of the
    project names, as regular expressions, by the type of the error.
    """

    shown: str
    call: Callable[[], Any]
    check: Check = lambda found: ""
    legal: bool = False
    allowed: tuple[tuple[type[BaseException], str], ...] = ()


def judged(given: Input) -> tuple[str, str]:
    """`("result" | "error" | "unclear", what is to be told)`."""
    try:
        found = given.call()
        wrong = given.check(found)
    except Exception as error:
        why = unclear(error, given)
        return ("unclear", f"{given.shown}: {why}") if why else ("error", str(error))
    return ("unclear", f"{given.shown}: {wrong}") if wrong else ("result", "")


def unclear(error: BaseException, given: Input) -> str:
    """Why an error is not clear, "" if it is."""
    try:
        text = str(error)
    except Exception:
        return f"{type(error).__name__} without a text"
    told = f"{type(error).__name__}: {text[:400]!r} at {_place(error)}"
    if any(isinstance(error, kind) and re.search(form, text) for kind, form in given.allowed):
        return ""
    if isinstance(error, TypeError) and _SIGNATURE.search(text):
        return "" if not _place(error).startswith("polyconv") else told
    if isinstance(error, OSError):
        return ""
    if not isinstance(error, ValueError) or not FORM.fullmatch(text):
        return told
    if len(text) > LONGEST or _INTERNAL.search(text):
        return told
    return f"a legal call refused: {text}" if given.legal else ""


def _place(error: BaseException) -> str:
    """Where it was raised."""
    last, tb = "", error.__traceback__
    while tb is not None:
        path = tb.tb_frame.f_code.co_filename
        inside = path.startswith(_PACKAGE)
        last = f"{'polyconv/' if inside else ''}{Path(path).name}:{tb.tb_lineno}"
        tb = tb.tb_next
    return last


@dataclass
class Expected:
    """A convolution of arrays as the reference computes it; `general` as the reference takes it."""

    x: mx.array
    w: mx.array
    general: dict[str, Any]
    dtype: mx.Dtype
    exact_special: bool = False  # of infinity and NaN no more than they reach by themselves
    free_special: bool = False  # no promise of infinity and NaN at all


_EPS = {mx.float32: 2**-22, mx.float16: 2**-10, mx.bfloat16: 2**-7, mx.float64: 2**-50}
_LARGEST = {mx.float16: 6e4}
_MOST = 2**15  # elements that are computed and compared
_MOST_MACS = 2**21


def values(a: mx.array) -> np.ndarray:
    return np.array(a if a.dtype == mx.float64 else a.astype(mx.float32)).astype(np.float64)


def shape_of(x: tuple[int, ...], w: tuple[int, ...], g: dict[str, Any]) -> tuple[int, ...]:
    sizes = [
        (s * (n - 1) + lo + hi - d * (k - 1)) // step + 1
        for n, k, step, lo, hi, d, s in zip(
            *(x[1:-1], w[1:-1], g["stride"], g["lo"], g["hi"]),
            *(g["kernel_dilation"], g["input_dilation"]),
        )
    ]
    return (x[0], *sizes, w[0])


def wrong_convolution(y: Any, expected: Expected) -> str:
    """What is wrong with the result of a convolution, "" if nothing."""
    if not isinstance(y, mx.array):
        return f"no array but {type(y).__name__}"
    x, w = [cast(each, expected.dtype) for each in (expected.x, expected.w)]
    g = expected.general
    shape = shape_of(x.shape, w.shape, g)
    if min(shape) < 0 or min(shape[1:-1]) < 1:
        return f"accepted, though no output exists: {shape}"
    if y.shape != shape or y.dtype != expected.dtype:
        return f"{y.shape} of {y.dtype} where {shape} of {expected.dtype} is right"
    macs = np.prod(shape, dtype=float) * np.prod(w.shape[1:], dtype=float)
    padded = np.prod([abs(p) + abs(q) + 1 for p, q in zip(g["lo"], g["hi"])], dtype=float)
    sizes = np.prod([s * (n + 1) for s, n in zip(g["input_dilation"], x.shape[1:])], dtype=float)
    taps = np.prod(w.shape[1:-1], dtype=float)
    items = max(x.shape[0], 1) * max(x.shape[-1], 1)
    most = max(y.size, x.size, w.size, padded * items, sizes * items)
    if most > _MOST or macs > _MOST_MACS or taps > 2**10:
        return ""  # only planned
    return _wrong_values(values(y), values(x), values(w), expected)


def _wrong_values(got: np.ndarray, x: np.ndarray, w: np.ndarray, expected: Expected) -> str:
    g = expected.general
    conv = lambda a, b: reference_conv(a, b, **g)  # noqa: E731
    special = not (np.isfinite(x).all() and np.isfinite(w).all())
    right = _with_special(x, w, conv) if special else conv(x, w)
    if np.array_equal(got, right, equal_nan=True):
        return ""
    scale = conv(abs(np.where(np.isfinite(x), x, 0)), abs(np.where(np.isfinite(w), w, 0)))
    eps = _EPS[expected.dtype]
    largest = float(_LARGEST.get(expected.dtype, 3e38))
    tiny = np.finfo(np.float16 if expected.dtype == mx.float16 else np.float32).smallest_normal
    n = float(np.prod(w.shape[1:])) or 1
    most_w = np.abs(np.where(np.isfinite(w), w, 0)).max(initial=1)
    most_x = np.abs(np.where(np.isfinite(x), x, 0)).max(initial=1)
    # Rounded once, after a sum of n products, each step of which is rounded in float32 or float64.
    of_sum = n * 2.0 ** (-53 if expected.dtype == mx.float64 else -24)
    bound = (eps + of_sum) * scale + float(tiny) * n * (most_w + most_x)
    near = abs(np.where(np.isfinite(got), got, 0) - right) <= bound
    same = np.where(np.isfinite(got), near, False) | (got == right)
    same |= np.isnan(got) & np.isnan(right)
    same |= scale > largest / 2  # overflows, or not, by the order of the sum
    if special and not (expected.exact_special and np.isfinite(w).all()):
        same |= np.isnan(got) & ~np.isnan(right) if expected.free_special else _spread(got, x, w)
    if same.all():
        return ""
    at = tuple(int(i) for i in np.argwhere(~same)[0])
    return f"{int((~same).sum())} wrong, at {at} {got[at]} where {right[at]} is right"


def _spread(got: np.ndarray, x: np.ndarray, w: np.ndarray) -> np.ndarray:
    """Where NaN may be: in items that hold infinity or NaN, and in outputs of such weights."""
    items = ~np.isfinite(x).all(axis=tuple(range(1, x.ndim)), keepdims=True)
    outputs = ~np.isfinite(w).all(axis=tuple(range(1, w.ndim)))
    return np.isnan(got) & (items.reshape(-1, *[1] * (x.ndim - 1)) | outputs)


def _with_special(x: np.ndarray, w: np.ndarray, conv: Callable[..., np.ndarray]) -> np.ndarray:
    """The sum of the products of samples and taps alone, no zero inserted or padded among them."""
    finite = conv(np.where(np.isfinite(x), x, 0), np.where(np.isfinite(w), w, 0))
    inf = float("inf")
    nans = conv(np.isnan(x), np.ones_like(w)) + conv(np.ones_like(x), np.isnan(w))
    nans += conv(np.isinf(x), w == 0) + conv(x == 0, np.isinf(w))
    plus = conv(x == inf, w > 0) + conv(x == -inf, w < 0) + conv(x > 0, w == inf)
    plus += conv(x < 0, w == -inf)
    minus = conv(x == inf, w < 0) + conv(x == -inf, w > 0) + conv(x > 0, w == -inf)
    minus += conv(x < 0, w == inf)
    y = np.where(plus > 0, inf, np.where(minus > 0, -inf, finite))
    return np.where((nans > 0) | ((plus > 0) & (minus > 0)), float("nan"), y)


@contextmanager
def small_machine() -> Iterator[None]:
    """What would allocate more than a small machine has is refused inside, here as there.

    Else outputs of gigabytes, which are legal here, would be computed for seconds. What is computed
    in tiles is computed at once, and so only planned if it is large; the rest is never evaluated.
    """
    assembled = maps.assembled

    def planned(tiling: Any, *args: Any) -> mx.array:
        spec, taps = tiling.plan.problem, tiling.plan.n_taps
        large = np.prod(spec.output_shape, dtype=float) > _MOST or tiling.n_tiles * taps > 2**11
        if tiling.result == "y" and large:
            return mx.zeros(spec.output_shape, getattr(mx, spec.dtype))
        return assembled(tiling, *args)

    small = mock.patch.object(room, "_room", return_value=Room(2**27, 2**27))
    with small, mock.patch.object(maps, "assembled", planned):
        yield
