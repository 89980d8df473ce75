"""Is what a call allocates below its max_workspace? Measured by MLX, over random calls.

`python -m tests.campaigns.peak --cases 1000` prints the worst ratio of each map.
"""

from __future__ import annotations

import argparse
import random
import re
from collections.abc import Callable
from math import prod
from typing import Any
from unittest import mock

import mlx.core as mx

import polyconv
from polyconv.gradients import bilinear
from polyconv.ops import call as calls

_SAMPLES = {1: (50, 20_000), 2: (10, 150), 3: (4, 28)}
_TAPS, _STRIDES = {1: 16, 2: 6, 3: 4}, {1: 8, 2: 4, 3: 3}


def draw_call(
    rng: random.Random, size: float
) -> tuple[Callable[..., mx.array], mx.array, mx.array, str]:
    """A function of input and weight, both, and the call in words."""
    while True:
        ndim = rng.choice((1, 1, 2, 2, 3))
        shape = [rng.randint(*_SAMPLES[ndim]) for _ in range(ndim)]
        kernel = [rng.randint(1, _TAPS[ndim]) for _ in range(ndim)]
        stride = [rng.randint(1, _STRIDES[ndim]) for _ in range(ndim)]
        dilation = [rng.choice((1, 1, 1, 2)) for _ in range(ndim)]
        groups, reads, makes = (
            rng.choice((1, 1, 2, 4)),
            rng.choice((1, 2, 8, 16)),
            rng.randint(1, 16),
        )
        batch = rng.choice((1, 2, 3, 8))
        outputs = batch * prod(shape) * prod(stride) * groups * makes
        macs = outputs * prod(kernel) // prod(stride) * reads
        if outputs < 4e6 * size and macs < 1e9 * size:
            break
    dtype = rng.choice((mx.float32, mx.float32, mx.float16, mx.bfloat16))
    x = mx.zeros((batch, *shape, groups * reads), dtype)
    w = mx.zeros((groups * makes, *kernel, reads), dtype)
    padding = [k // 2 for k in kernel]
    if rng.random() < 0.4:
        op = "conv_general"
        given: tuple[Any, ...] = (
            [rng.choice((1, 1, 2, 3)) for _ in range(ndim)],
            padding,
            dilation,
        )
        given = (*given, stride, groups, rng.random() < 0.5)
    else:
        op = f"conv_transpose{ndim}d"
        given = (tuple(stride), tuple(padding), tuple(dilation), 0, groups)
    method = rng.choice(("auto", "auto", "stacked", "per_phase", "taps"))
    call = lambda x, w, **more: getattr(polyconv, op)(x, w, *given, method=method, **more)  # noqa: E731
    return call, x, w, f"{op}({x.shape}, {w.shape}, {given}) by {method} in {dtype}"


def ratio(call: Callable[..., mx.array], known: dict[str, mx.array], result: str, n: int) -> float:
    """Bytes allocated at a time by the map with this result, without it, in those of the limit."""
    asked: list[Any] = []

    def noted(request: Any, *_: Any) -> Callable[..., mx.array]:
        asked.append(request)
        return lambda x, w: x

    calls._call_for.cache_clear()
    with mock.patch("polyconv.ops.call.call_of", noted):
        call(known["x"], known["w"], max_workspace=n)
    calls._call_for.cache_clear()
    apply = bilinear.compiled(asked[0], None).map(result)
    mx.synchronize()  # or what was computed before may be freed later
    mx.clear_cache()
    before = mx.get_active_memory()
    mx.reset_peak_memory()
    found = apply(*[known[kind] for kind in "xwy" if kind != result])
    mx.eval(found)
    return (mx.get_peak_memory() - before - found.nbytes) / n


def measure(cases: int, seed: int, size: float = 1.0) -> dict[str, tuple[float, str]]:
    """The largest ratio of each map, and of which call it is; of calls so many times as large."""
    rng = random.Random(seed)
    worst = dict.fromkeys("yxw", (0.0, ""))
    done = 0
    cache = mx.set_cache_limit(0)
    while done < cases:
        call, x, w, words = draw_call(rng, size)
        try:
            y = call(x, w)
        except ValueError:  # forced, and cannot
            continue
        if not y.size:
            continue
        known = {"x": x, "w": w, "y": mx.zeros(y.shape, y.dtype)}
        mx.eval(known)
        result = rng.choice("yxw")
        limit = int(10 ** rng.uniform(-2, 0.5) * sum(each.nbytes for each in known.values()))
        try:
            found = ratio(call, known, result, limit)
        except ValueError as error:  # less than one tile
            least = int(re.search(r"at least (\d+) bytes", str(error))[1])
            limit = int(least * rng.choice((1, 1.5, 3)))
            found = ratio(call, known, result, limit)
        worst[result] = max(worst[result], (found, f"{words}, max_workspace={limit}"))
        done += 1
    mx.set_cache_limit(cache)
    return worst


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    for kind, (found, words) in measure(args.cases, args.seed).items():
        print(f"{kind}: {found:.2f} of {words}")
