"""Constants that depend on the length: what is alike at every length, or periodic in time."""

from __future__ import annotations

from collections.abc import Sequence

import mlx.core as mx
import numpy as np

from polyconv.streaming.lowering import Constant, Shapes, Value, Varying


def still(value: Varying, shapes: Shapes) -> Value:
    """A constant, where all is alike along what grows."""
    first = value.arrays[0]
    shape = [
        slice(0, 1) if len(set(sizes)) > 1 else slice(None) for sizes in zip(*shapes, strict=True)
    ]
    one = first[tuple(shape)]
    if all(mx.array_equal(each, mx.broadcast_to(one, each.shape)).item() for each in value.arrays):
        return Constant(one)
    return value


def periodic(arrays: Sequence[mx.array], at: int) -> tuple[mx.array, mx.array, mx.array] | None:
    """The beginning, a period, and the end that arrays of several lengths along `at` have alike."""
    a, b, c = [np.moveaxis(np.array(each), at, 0) for each in arrays]
    n, more = len(a), len(b) - len(a)
    alike = [np.array_equal(x, y) for x, y in zip(a[::-1], b[::-1])]
    end = alike.index(False) if False in alike else n
    begin = n - end
    if not np.array_equal(a[:begin], b[:begin]):
        return None
    middle = b[begin : begin + more]
    for size in range(1, more + 1):
        if more % size or (len(c) - n) % size:
            continue
        period = middle[:size]
        longer = np.concatenate([a[:begin], *[period] * ((len(c) - n) // size), a[begin:]])
        if np.array_equal(middle, np.tile(period, (more // size, *[1] * (a.ndim - 1)))):
            if not np.array_equal(longer, c):
                return None
            first, last = a[:begin], a[begin:]
            while len(first) >= size and np.array_equal(first[-size:], period):
                first = first[:-size]
            while len(last) >= size and np.array_equal(last[:size], period):
                last = last[size:]
            parts = (first, period, last)
            dtype = arrays[0].dtype
            return tuple([mx.array(np.moveaxis(each, 0, at), dtype) for each in parts])
    return None


def overlapping(indices: Sequence[mx.array]) -> tuple[int, int] | None:
    """Size and hop of frames whose samples lie at these places, `hop t + i`."""
    first = np.array(indices[0]).ravel()
    breaks = np.flatnonzero(np.diff(first) != 1)
    if not len(breaks):
        return None
    size = int(breaks[0]) + 1
    hop = int(first[size])
    for each in indices:
        places = np.array(each).ravel()
        if len(places) % size or hop < 1:
            return None
        frames = np.arange(len(places) // size)[:, None] * hop + np.arange(size)
        if not np.array_equal(places, frames.ravel()):
            return None
    return size, hop
