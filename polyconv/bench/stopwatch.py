"""How long does a call take, and what memory does MLX need for it?"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import mlx.core as mx

from polyconv.bench import frameworks


def timed(run: Callable[[], Any], calls: int = 1) -> tuple[Any, float, int]:
    """The result of a call, its seconds, and the bytes of MLX's peak beyond what was held before.

    With `calls` above 1 it is called so often in a row, and the seconds are those of one call. On a
    GPU calls are issued ahead of their execution, as in a model; the last one is waited for.
    """
    mx.synchronize()  # or what was computed before may be freed during the call
    before = mx.get_active_memory()
    mx.reset_peak_memory()
    start = time.perf_counter()
    for _ in range(calls):
        y = run()
        if isinstance(y, mx.array):
            mx.async_eval(y)
    _finish(y)
    seconds = (time.perf_counter() - start) / calls
    # What the call itself frees can leave its peak below what was held before.
    return y, seconds, max(0, mx.get_peak_memory() - before) if isinstance(y, mx.array) else 0


def _finish(y: Any) -> None:
    if isinstance(y, mx.array):
        mx.eval(y)
        mx.synchronize()
    else:
        frameworks.wait_for_gpu(y)


def on_gpu() -> bool:
    return bool(mx.default_device() == mx.gpu)


def rounded(ms: float) -> float:
    return float(f"{ms:.4g}")
