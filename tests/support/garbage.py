"""Garbage, all of it."""

from __future__ import annotations

import gc

_MOST = 10  # rounds, as another thread may make more all the time


def collect() -> None:
    """Frees all garbage, also what only becomes garbage when other garbage is freed."""
    for _ in range(_MOST):
        if not gc.collect():
            return
