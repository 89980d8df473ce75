"""The same numbers, laid otherwise in memory."""

import mlx.core as mx


def rows(a: mx.array) -> mx.array:
    """As they are: row by row, unless it is a view already."""
    return a


def turned(a: mx.array) -> mx.array:
    """A view of an array whose first and last axes are exchanged."""
    return mx.contiguous(a.swapaxes(0, -1)).swapaxes(0, -1)


def part(a: mx.array) -> mx.array:
    """Some channels of an array that has twice as many."""
    return mx.concatenate([a, a], -1)[..., : a.shape[-1]]


def behind(a: mx.array, n: int) -> mx.array:
    """Row by row, from the n-th number of a buffer on."""
    return mx.concatenate([mx.zeros(n, a.dtype), a.flatten()])[n:].reshape(a.shape)
