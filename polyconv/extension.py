"""What lies beyond the ends of a signal? The modes of `scipy.signal.upfirdn`, as sums of samples.

NumPy only.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np

Array: TypeAlias = "np.ndarray[Any, Any]"
# Samples `at[i]`, times `by[i]`, added up: one pair of rows per term, one column per sample beyond.
Terms: TypeAlias = "list[tuple[Array, Array]]"

MODES = (
    "constant",
    "wrap",
    "edge",
    "smooth",
    "symmetric",
    "reflect",
    "antisymmetric",
    "antireflect",
    "line",
)


def beyond(mode: str, positions: Array, n: int) -> Terms:
    """The samples at `positions` outside of a signal of n samples, of any mode but ``"constant"``.

    Positions count from the first sample. (scipy/signal/_upfirdn_apply.pyx, `_extend_left`.)
    """
    i = positions
    one = np.ones(len(i), np.float32)
    zero, last = np.zeros(len(i), int), np.full(len(i), n - 1)
    if n == 1 and mode in ("smooth", "reflect", "antireflect", "line"):
        mode = "edge"
    if mode == "wrap":
        return [(i % n, one)]
    if mode == "edge":
        return [(i.clip(0, n - 1), one)]
    if mode in ("symmetric", "antisymmetric"):
        j = i % (2 * n)
        sign = np.where(i // n % 2, -1, 1) if mode == "antisymmetric" else one
        return [(np.minimum(j, 2 * n - 1 - j), sign.astype(np.float32))]
    if mode == "reflect":
        j = i % (2 * n - 2)
        return [(np.minimum(j, 2 * n - 2 - j), one)]
    if (
        mode == "antireflect"
    ):  # odd about both ends: after 2 (n - 1) samples it is higher by as much
        turns, j = np.divmod(i + n - 1, 2 * n - 2)
        j -= n - 1
        sign, turns = np.where(j < 0, -1, 1), 2 * turns
        return [
            (abs(j), sign.astype(np.float32)),
            (zero, ((j < 0) * 2 - turns).astype(np.float32)),
            (last, turns.astype(np.float32)),
        ]
    step = np.where(i < 0, i, i - n + 1).astype(np.float32)
    if mode == "smooth":  # on along the first two samples, or the last two
        near = np.where(i < 0, 0, n - 1)
        inner, outer = np.where(i < 0, 0, n - 2), np.where(i < 0, 1, n - 1)
        return [(near, one), (outer, step), (inner, -step)]
    near = np.where(i < 0, 0, n - 1)  # "line": on along first and last
    return [(near, one), (last, step / (n - 1)), (zero, -step / (n - 1))]
