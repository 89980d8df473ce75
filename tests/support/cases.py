"""Cases over the whole parameter space, drawn by a random generator or by hypothesis alike."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import count
from typing import Any

import mlx.core as mx
import numpy as np

import polyconv
from tests.support.reference import conv_general as reference_conv
from tests.support.reference import gradients as reference_gradients

Pick = Callable[[Sequence[Any]], Any]
Axes = tuple[int, ...]
Each = Callable[[Sequence[int]], Axes]
Drawn = tuple[str, dict[str, Any], dict[str, Any]]  # the op, and its options in both forms

# (most samples, taps) per axis, so that the work per case is about the same in each rank.
_SIZES = {1: (12, 13), 2: (6, 6), 3: (4, 4)}


@dataclass(frozen=True)
class Case:
    """A call of `op`, and in `general` the same call in `conv_general`'s arguments, per axis."""

    op: str
    x_shape: tuple[int, ...]
    w_shape: tuple[int, ...]
    kwargs: dict[str, Any] = field(hash=False)
    general: dict[str, Any] = field(hash=False)
    dtype: str = "float32"

    @property
    def has_output(self) -> bool:
        g = self.general
        spans = zip(self.x_shape[1:], self.w_shape[1:-1], g["lo"], g["hi"], strict=False)
        dilations = zip(g["kernel_dilation"], g["input_dilation"], strict=True)
        return all(
            s * (n - 1) + 1 + lo + hi >= d * (k - 1) + 1
            for (n, k, lo, hi), (d, s) in zip(spans, dilations, strict=True)
        )

    def data(self, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
        """Integers so small that every sum is exact in the case's dtype."""
        rng = np.random.default_rng(seed)
        most = 1 if self.dtype == "bfloat16" else 3
        x, w = (rng.integers(-most, most + 1, shape) for shape in (self.x_shape, self.w_shape))
        return x.astype(np.float32), w.astype(np.float32)

    def call(
        self, x: mx.array, w: mx.array, method: str, lib: Any = polyconv, **more: Any
    ) -> mx.array:
        if lib is polyconv:
            more["method"] = method
        return getattr(lib, self.op)(x, w, **self.kwargs, **more)

    def run(self, method: str, seed: int = 0) -> np.ndarray:
        dtype = getattr(mx, self.dtype)
        x, w = (mx.array(a).astype(dtype) for a in self.data(seed))
        y = self.call(x, w, method)
        assert y.dtype == dtype
        return np.array(y.astype(mx.float32))

    def reference(self, seed: int = 0) -> np.ndarray:
        return _reference(self, seed)

    def cotangent(self) -> np.ndarray:
        return np.random.default_rng(2).integers(-2, 3, self.reference().shape)

    def gradients(self) -> tuple[np.ndarray, np.ndarray]:
        """Of the sum over `cotangent()` times the output, with respect to x and w."""
        return _gradients(self)


# Many tests compare the same cases in several ways; each process computes a reference once.
@lru_cache(4096)
def _reference(case: Case, seed: int) -> np.ndarray:
    return _fixed(reference_conv(*case.data(seed), **case.general))


@lru_cache(1024)
def _gradients(case: Case) -> tuple[np.ndarray, np.ndarray]:
    dx, dw = reference_gradients(*case.data(), case.cotangent(), **case.general)
    return _fixed(dx), _fixed(dw)


def _fixed(array: np.ndarray) -> np.ndarray:
    array.flags.writeable = False
    return array


def integers(*shape: int, seed: int = 0) -> mx.array:
    """Small integers as float32, of which every sum is exact."""
    return mx.array(np.random.default_rng(seed).integers(-3, 4, shape).astype(np.float32))


def draw_case(pick: Pick) -> Case:
    """Draws one case. `pick` takes a sequence and returns one of its items."""
    ndim = pick((1, 1, 2, 2, 3))
    most_samples, most_taps = _SIZES[ndim]
    groups = pick((1, 1, 2, 3))
    # Also such as do not fill the tiles of MLX's kernels: above 4 and 16, not multiples of 16.
    in_per_group, out_per_group = pick((1, 1, 2, 3, 5)), pick((1, 1, 2, 3, 7, 17))
    if pick((False, False, False, True)):
        in_per_group = 1

    def each(items: Sequence[int]) -> Axes:
        return tuple(pick(items) for _ in range(ndim))

    size = each((*range(1, most_samples + 1), *range(1, most_samples + 1), 0))
    kernel = each(range(1, most_taps + 1))
    dilation = each((1, 1, 1, 2, 3, 4, 6))
    input_dilation = each((1, 2, 2, 3, 4, 5, 6, 8)[: 10 - 2 * ndim + 2])
    x_shape = (pick((1, 1, 2, 3, 0)), *size, groups * in_per_group)
    w_shape = (groups * out_per_group, *kernel, in_per_group)
    dtype = pick(("float32", "float32", "float32", "float16", "bfloat16"))
    draw = _draw_transposed if pick((True, False)) else _draw_general
    op, kwargs, general = draw(pick, each, kernel, dilation, input_dilation)
    kwargs["groups"] = general["groups"] = groups
    return Case(op, x_shape, w_shape, kwargs, general, dtype)


def drawn(seed: int = 0) -> Iterator[Case]:
    """Random cases, one after the other: the campaign of every test that draws some.

    Those that have no output are among them. Each process draws a case once, and computes its
    reference once.
    """
    known, rng = _campaign(seed)
    for i in count():
        if i == len(known):
            known.append(draw_case(rng.choice))
        yield known[i]


@lru_cache
def _campaign(seed: int) -> tuple[list[Case], random.Random]:
    return [], random.Random(seed)


def with_output(seed: int = 0) -> Iterator[Case]:
    return (case for case in drawn(seed) if case.has_output)


def _draw_transposed(pick: Pick, each: Each, kernel: Axes, dilation: Axes, stride: Axes) -> Drawn:
    ndim = len(kernel)
    padding, output_padding = each(range(-3, 9)), each((0, 0, 0, 1, 2, 5, -1))
    kwargs = {
        "stride": _as_given(pick, stride),
        "padding": _as_given(pick, padding),
        "dilation": _as_given(pick, dilation),
        "output_padding": _as_given(pick, output_padding),
    }
    general = _as_general(kernel, stride, padding, dilation, output_padding)
    return f"conv_transpose{ndim}d", kwargs, general


def _as_general(
    kernel: Axes, stride: Axes, padding: Axes, dilation: Axes, output_padding: Axes
) -> dict[str, Any]:
    """A transposed call in `conv_general`'s arguments, all per axis."""
    lo = tuple(d * (k - 1) - p for d, k, p in zip(dilation, kernel, padding, strict=True))
    return {
        "stride": (1,) * len(kernel),
        "lo": lo,
        "hi": tuple(a + b for a, b in zip(lo, output_padding, strict=True)),
        "kernel_dilation": dilation,
        "input_dilation": stride,
        "flip": True,
    }


def _draw_general(
    pick: Pick, each: Each, kernel: Axes, dilation: Axes, input_dilation: Axes
) -> Drawn:
    stride = each((1, 1, 2, 3, 4, 6))
    lo, hi = each(range(-6, 12)), each(range(-6, 12))
    symmetric = pick((False, False, True))
    flip = pick((False, True))
    kwargs = {
        "stride": _as_given(pick, stride),
        "padding": _as_given(pick, lo) if symmetric else (list(lo), list(hi)),
        "kernel_dilation": _as_given(pick, dilation),
        "input_dilation": _as_given(pick, input_dilation),
        "flip": flip,
    }
    general = {
        "stride": stride,
        "lo": lo,
        "hi": lo if symmetric else hi,
        "kernel_dilation": dilation,
        "input_dilation": input_dilation,
        "flip": flip,
    }
    return "conv_general", kwargs, general


def _as_given(pick: Pick, values: tuple[int, ...]) -> Any:
    """One int where all agree, now and then, as users write it."""
    if len(set(values)) == 1 and (len(values) == 1 or pick((True, False))):
        return values[0]
    return pick((tuple, list))(values)


def named(op: str, x: tuple[int, ...], w: tuple[int, ...], **kwargs: Any) -> Case:
    """A named transposed case, every option one int or per axis."""
    ndim = len(x) - 2

    def per_axis(v: Any) -> Axes:
        return (v,) * ndim if isinstance(v, int) else tuple(v)

    defaults = {"stride": 1, "padding": 0, "dilation": 1, "output_padding": 0}
    options = [per_axis(kwargs.get(name, default)) for name, default in defaults.items()]
    general = _as_general(w[1:-1], *options)
    general["groups"] = kwargs.get("groups", 1)
    return Case(op, x, w, kwargs, general)


_T1, _T2, _T3 = (f"conv_transpose{n}d" for n in (1, 2, 3))

NAMED = {
    "hifigan": named(_T1, (2, 7, 6), (4, 16, 6), stride=8, padding=4),
    "kernel below stride": named(_T1, (1, 5, 2), (3, 2, 2), stride=5),
    "kernel equals stride": named(_T1, (1, 5, 2), (3, 4, 2), stride=4),
    "kernel not a multiple": named(_T1, (1, 5, 2), (3, 7, 2), stride=3, padding=2),
    "one sample": named(_T1, (1, 1, 2), (3, 4, 2), stride=2, padding=1),
    "dilated, coprime": named(_T1, (1, 6, 2), (3, 4, 2), stride=3, dilation=2),
    "dilated, common divisor": named(_T1, (1, 6, 2), (3, 4, 2), stride=4, dilation=6),
    "dilated, multiple": named(_T1, (1, 6, 2), (3, 3, 2), stride=2, dilation=4),
    "padding crops whole phases": named(_T1, (1, 9, 2), (3, 3, 2), stride=2, padding=7),
    "negative padding": named(_T1, (1, 4, 2), (3, 3, 2), stride=2, padding=-3),
    "output padding": named(_T1, (1, 4, 2), (3, 3, 2), stride=2, padding=1, output_padding=1),
    "large output padding": named(_T1, (1, 4, 2), (3, 3, 2), stride=2, output_padding=7),
    "groups": named(_T1, (2, 5, 6), (4, 5, 3), stride=2, padding=1, groups=2),
    "depthwise": named(_T1, (2, 5, 6), (6, 12, 1), stride=2, padding=5, groups=6),
    "stride 1": named(_T1, (1, 5, 2), (3, 3, 2), padding=1),
    "2d 4x4 s2 p1": named(_T2, (2, 4, 5, 3), (4, 4, 4, 3), stride=2, padding=1),
    "2d 2x2 s2": named(_T2, (1, 3, 4, 3), (4, 2, 2, 3), stride=2),
    "2d 3x3 s2": named(_T2, (1, 3, 4, 3), (4, 3, 3, 3), stride=2, padding=1, output_padding=1),
    "2d mixed strides": named(_T2, (1, 3, 4, 3), (4, 5, 2, 3), stride=(1, 3), padding=(2, 0)),
    "2d groups": named(_T2, (1, 3, 4, 4), (6, 3, 4, 2), stride=(2, 3), groups=2),
    "3d 2x2x2 s2": named(_T3, (1, 2, 3, 2, 3), (4, 2, 2, 2, 3), stride=2),
    "3d 4x4x4 s2 p1": named(_T3, (1, 2, 3, 2, 2), (3, 4, 4, 4, 2), stride=2, padding=1),
    "3d groups": named(_T3, (2, 2, 3, 2, 4), (4, 3, 2, 3, 2), stride=(2, 1, 3), groups=2),
    "3d depthwise": named(_T3, (1, 3, 2, 2, 3), (3, 3, 3, 3, 1), stride=2, padding=1, groups=3),
}
