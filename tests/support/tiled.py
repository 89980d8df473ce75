"""A call in tiles, and what MLX holds beside it."""

import mlx.core as mx

import polyconv
from tests.support.cases import integers


def same(a: mx.array, b: mx.array) -> bool:
    return a.dtype == b.dtype and a.shape == b.shape and mx.array_equal(a, b).item()


def counted():
    """Bytes that MLX holds, before its peak is counted anew."""
    mx.synchronize()  # or what was computed before may be freed later
    before = mx.get_active_memory()
    mx.reset_peak_memory()
    return before


def limited(**more):
    x, w = integers(3, 500, 4), integers(6, 5, 4, seed=1)
    return x, w, lambda x, w: polyconv.conv_transpose1d(x, w, 3, 2, **more)


LIMIT = 30_000
