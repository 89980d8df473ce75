"""A call in tiles, and what MLX holds beside it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mlx.core as mx

import polyconv
from tests.support.cases import integers
from tests.support.garbage import collect


def same(a: mx.array, b: mx.array) -> bool:
    return a.dtype == b.dtype and a.shape == b.shape and bool(mx.array_equal(a, b))


def counted() -> int:
    """Bytes that MLX holds, before its peak is counted anew."""
    collect()
    mx.synchronize()  # or what was computed before may be freed later
    before: int = mx.get_active_memory()
    mx.reset_peak_memory()
    return before


def limited(**more: Any) -> tuple[mx.array, mx.array, Callable[..., mx.array]]:
    """Two arrays and a convolution of them, which takes a limit."""
    x, w = integers(3, 500, 4), integers(6, 5, 4, seed=1)
    return x, w, lambda x, w: polyconv.conv_transpose1d(x, w, 3, 2, **more)


LIMIT = 30_000
