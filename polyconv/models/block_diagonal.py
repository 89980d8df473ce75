"""Is a dense weight really a grouped one? Models have such weights from when MLX had no groups."""

from __future__ import annotations

from math import gcd

import mlx.core as mx


def blocks_of(w: mx.array) -> int:
    """How many blocks a weight `(O, *K, C)` has on its diagonal, with only zeros outside of them.

    These are groups: consecutive channels, with as many outputs and as many inputs in each block.
    The number is 1 if the weight is dense or all zeros.
    """
    outputs, channels = w.shape[0], w.shape[-1]
    taps = tuple(range(1, w.ndim - 1))
    used = (w != 0).any(axis=taps)
    if not used.any().item():
        return 1
    for n in range(gcd(outputs, channels), 1, -1):
        if outputs % n == channels % n == 0 and _is_diagonal(used, n):
            return n
    return 1


def _is_diagonal(used: mx.array, n: int) -> bool:
    outputs, channels = used.shape
    blocks = used.reshape(n, outputs // n, n, channels // n).any(axis=(1, 3))
    outside = mx.logical_and(blocks, mx.logical_not(mx.eye(n, dtype=mx.bool_)))
    return not outside.any().item()


def diagonal(w: mx.array, n: int) -> mx.array:
    """The blocks of `(O, *K, C)` as the weight `(O, *K, C / n)` of a convolution of n groups."""
    outputs, *kernel, channels = w.shape
    blocks = w.reshape(n, outputs // n, *kernel, n, channels // n)
    blocks = mx.diagonal(blocks, 0, 0, blocks.ndim - 2)  # (O / n, *K, C / n, n)
    return mx.moveaxis(blocks, -1, 0).reshape(outputs, *kernel, channels // n)
