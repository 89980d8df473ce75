"""What is a signal beyond its ends? The modes of `scipy.signal.upfirdn`, as sums of samples.

NumPy only.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np

Array: TypeAlias = "np.ndarray[Any, Any]"
# A list of terms `(by, at, above)` to add up. Column i of a term, for the i-th sample beyond, is
# `by[i] x[at[i]]`, or `by[i] (x[at[i]] - x[above[i]])` where `above` is given. The difference is
# taken first, because two large products would each be rounded at their own size.
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
    """The samples at `positions` outside of a signal of n samples, in any mode but ``"constant"``.

    Positions are counted from the signal's first sample.
    (scipy/signal/_upfirdn_apply.pyx, `_extend_left`.)
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
        # The signal is odd about both ends. So after 2 (n - 1) samples it repeats, higher by twice
        # the rise from first to last.
        turns, j = np.divmod(i + n - 1, 2 * n - 2)
        j -= n - 1
        at, back = j.clip(0, None), (-j).clip(0, None)
        return [(one, at, None), (one, zero, back), (2 * turns, last, zero)]
    step = np.where(i < 0, i, i - n + 1)
    near = np.where(i < 0, 0, n - 1)
    if mode == "smooth":  # the line through the first two samples, or the last two
        inner, outer = np.where(i < 0, 0, n - 2), np.where(i < 0, 1, n - 1)
        return [(one, near, None), (step, outer, inner)]
    return [(one, near, None), (step / (n - 1), last, zero)]  # "line": through first and last
