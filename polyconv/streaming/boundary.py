"""What lies beyond the ends of a signal? The modes of `scipy.signal.upfirdn`, as sums of samples.

NumPy only.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np

Array: TypeAlias = "np.ndarray[Any, Any]"
# Samples `at[i]`, or how far they are above samples `above[i]`, times `by[i]`, added up: one triple
# of rows per term, one column per sample beyond. A line that goes on far is a multiple of a
# difference: as a difference of multiples it would be rounded at their size.
Terms: TypeAlias = "list[tuple[Array, Array, Array | None]]"

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
    one = np.ones(len(i))
    zero, last = np.zeros(len(i), int), np.full(len(i), n - 1)
    if n == 1 and mode in ("smooth", "reflect", "antireflect", "line"):
        mode = "edge"
    if mode == "wrap":
        return [(one, i % n, None)]
    if mode == "edge":
        return [(one, i.clip(0, n - 1), None)]
    if mode in ("symmetric", "antisymmetric"):
        j = i % (2 * n)
        sign = np.where(i // n % 2, -1, 1) if mode == "antisymmetric" else one
        return [(sign, np.minimum(j, 2 * n - 1 - j), None)]
    if mode == "reflect":
        j = i % (2 * n - 2)
        return [(one, np.minimum(j, 2 * n - 2 - j), None)]
    if mode == "antireflect":
        # Odd about both ends: after 2 (n - 1) samples it is higher by twice the rise.
        turns, j = np.divmod(i + n - 1, 2 * n - 2)
        j -= n - 1
        at, back = j.clip(0, None), (-j).clip(0, None)
        return [(one, at, None), (one, zero, back), (2 * turns, last, zero)]
    step = np.where(i < 0, i, i - n + 1)
    near = np.where(i < 0, 0, n - 1)
    if mode == "smooth":  # on along the first two samples, or the last two
        inner, outer = np.where(i < 0, 0, n - 2), np.where(i < 0, 1, n - 1)
        return [(one, near, None), (step, outer, inner)]
    return [(one, near, None), (step / (n - 1), last, zero)]  # "line": on along first and last
