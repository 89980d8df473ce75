"""Does anything grow with the number of calls? Memory and caches, over a million of them.

    python -m tests.campaigns.leak [--calls 1000000]

runs rounds of calls of every kind, with shapes that repeat and shapes that do not, and samples what
the process holds after each round. Exits with 1 if, from the end of the first quarter on, more than
the bounds of `Bounds` was added, which do not depend on the number of calls.
"""

from __future__ import annotations

import argparse
import gc
import os
import random
import resource
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import mlx.core as mx
import mlx.nn as nn
import numpy as np

import polyconv
from polyconv.models import converted_classes, dispatching

X = mx.array(np.random.default_rng(0).standard_normal((1, 24, 4)).astype(np.float32))
W = mx.array(np.random.default_rng(1).standard_normal((6, 8, 4)).astype(np.float32))


class Bounds(NamedTuple):
    """What may be added after the first quarter, however many calls follow.

    `rss`: what the allocator keeps in pieces, and caches of plans that fill up, or are full but
    hold longer plans for shorter ones; a leak of 100 bytes a call would be 75 MB of a million.
    `active`: bytes of arrays that somebody holds; nobody may. `objects`: those of Python, beyond 20
    for each plan that was added to a cache, all of which are bounded.
    """

    rss: int = 24 << 20
    active: int = 64 << 10
    objects: int = 20_000
    threads: int = 1


def cached(rng: random.Random) -> Any:
    return polyconv.conv_transpose1d(X, W, 4, 2)


def uncached(rng: random.Random) -> Any:
    n, stride = rng.randrange(1, 2000), rng.randrange(1, 9)
    method = rng.choice(("auto", "taps", "per_phase", "stacked"))
    padding = rng.randrange(4)
    return polyconv.conv_transpose1d(mx.zeros((1, n, 4)), W, stride, padding, method=method)


def general(rng: random.Random) -> Any:
    shape = (1, rng.randrange(4, 60), rng.randrange(4, 60), 2)
    weight = mx.ones((2, rng.randrange(1, 4), rng.randrange(1, 4), 1))
    return polyconv.conv_general(mx.zeros(shape), weight, 2, 1, 1, (2, 3), groups=2)


def gradient(rng: random.Random) -> Any:
    loss = lambda x, w: polyconv.conv_transpose1d(x, w, 4, 2).square().sum()  # noqa: E731
    x = X if rng.random() < 0.8 else mx.zeros((1, rng.randrange(1, 500), 4))
    return mx.grad(loss, argnums=(0, 1))(x, W)


LAYER = polyconv.PolyConvTranspose1d(4, 6, 8, 4, 2)


def layer(rng: random.Random) -> Any:
    if rng.random() < 0.1:
        return polyconv.PolyConvTranspose1d(4, 6, 8, 4, 2)(X)
    return LAYER(X)


PACKED = polyconv.pack(W)


def packed(rng: random.Random) -> Any:
    if rng.random() < 0.05:
        return polyconv.conv_transpose1d(X, polyconv.pack(W), 4, 2)
    return polyconv.conv_transpose1d(mx.zeros((1, rng.randrange(1, 300), 4)), PACKED, 4, 2)


def native(rng: random.Random) -> Any:
    """Inside the block of patches that a round opens."""
    return mx.conv_transpose1d(X, W, 4, rng.randrange(3))


BAD: tuple[dict[str, Any], ...] = (
    {"stride": 0},
    {"stride": 2.5},
    {"groups": 3},
    {"padding": 10**9},
    {"method": "nothing"},
    {"dilation": 10**30},
    {"max_workspace": 1},
    {"stream": "gpu"},
)


def error(rng: random.Random) -> Any:
    try:
        polyconv.conv_transpose1d(mx.zeros((1, rng.randrange(1, 999), 4)), W, **rng.choice(BAD))
    except ValueError as told:
        assert str(told).startswith("[conv_transpose1d] ")
        return None
    raise AssertionError("accepted")


STREAMED = polyconv.StreamingConvTranspose1d(4, 6, 8, 4, 2)
STATES = [polyconv.stream_init("conv_transpose1d", W, stride=4, padding=2)]


def stream(rng: random.Random) -> Any:
    if rng.random() < 0.5:
        y, STATES[0] = polyconv.stream_step(STATES[0], X[:, : rng.randrange(9)], PACKED)
        if rng.random() < 0.01:
            STATES[0] = polyconv.stream_flush(STATES[0], PACKED)[1]
        return y, STATES[0].tail
    if rng.random() < 0.02:
        return STREAMED.flush()
    return STREAMED.step(X)


def tiled(rng: random.Random) -> Any:
    n = rng.randrange(2000, 2200)
    loss = lambda x: polyconv.conv_transpose1d(x, W, 4, 2, max_workspace=300_000).sum()  # noqa: E731
    return mx.grad(loss)(mx.zeros((1, n, 4)))


def compiled(rng: random.Random) -> Any:
    function = mx.compile(lambda x: polyconv.conv_transpose1d(x, W, 4, 2) * 2)
    return function(X)


class _Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.out = nn.ConvTranspose1d(4, 4, 4, 2), nn.Conv1d(4, 1, 3)

    def __call__(self, x: mx.array) -> mx.array:
        return self.out(nn.relu(self.up(x)))


def model(rng: random.Random) -> Any:
    made = _Model()
    kind = rng.randrange(5)
    if kind == 0:
        streamed = polyconv.stream(made)
        return streamed.step(X), streamed.flush()
    if kind == 1:
        polyconv.convert(made, exploit_sparsity=rng.random() < 0.5)
        y = made(X)
        polyconv.revert(made)
        return y
    if kind == 2:
        return [str(each) for *_, each in polyconv.explain_model(made, (1, 9, 4))] and None
    if kind == 3:
        with polyconv.patched(), polyconv.planning_for("m4-max"):
            return made(X)
    return polyconv.PolyConvTranspose1d(4, 6, 8, 4).to_packed()(X)


def new_class(rng: random.Random) -> Any:
    """A model of a class that is made for it, as notebooks make them again and again."""
    made = type("Mine", (_Model,), {"__call__": lambda self, x: mx.conv_transpose1d(x, W, 2)})()
    polyconv.convert(made)
    return made(X)


def resampled(rng: random.Random) -> Any:
    up, down = rng.randrange(1, 20), rng.randrange(1, 20)
    return polyconv.resample_poly(mx.zeros((rng.randrange(1, 300), 2)), up, down)


# Kinds by how often they are in a round of 1000 calls.
KINDS: dict[Callable[[random.Random], Any], int] = {
    cached: 300,
    packed: 150,
    stream: 150,
    layer: 100,
    error: 100,
    gradient: 60,
    native: 60,
    uncached: 56,
    general: 10,
    resampled: 5,
    model: 4,
    compiled: 3,
    tiled: 1,
    new_class: 1,
}


class Sample(NamedTuple):
    rss: int
    active: int
    objects: int
    threads: int
    caches: int


def caches() -> Iterator[tuple[str, int, int | None]]:
    """Name, entries and bound of all that keeps something from call to call."""
    for path, module in list(sys.modules.items()):
        for name, value in list(vars(module).items()) if path.startswith("polyconv") else ():
            if hasattr(value, "cache_info") and value.__module__ == path:
                info = value.cache_info()
                yield f"{path}.{name}", info.currsize, info.maxsize
    yield "converted_classes._CLASSES", len(converted_classes._CLASSES), None
    yield "converted_classes._COUNTS", len(converted_classes._COUNTS), None
    yield "dispatching.blocks", len(dispatching.STATE.blocks), None
    yield "bindings.places", len(dispatching.BINDINGS._places), None
    yield "PACKED._taps", len(PACKED._taps), None


def resident() -> int:
    """Bytes of memory that this process holds now."""
    statm = Path("/proc/self/statm")
    if statm.exists():
        return int(statm.read_text().split()[1]) * resource.getpagesize()
    return resident_by_ps()


def resident_by_ps() -> int:
    """The same on macOS, which has no /proc."""
    command = ["ps", "-o", "rss=", "-p", str(os.getpid())]
    return 1024 * int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def sample() -> Sample:
    gc.collect()
    mx.synchronize()  # or what was computed before may be freed later
    mx.clear_cache()
    n_cached = sum(size for _, size, _ in caches())
    return Sample(
        rss=resident(),
        active=mx.get_active_memory(),
        objects=len(gc.get_objects()),
        threads=threading.active_count(),
        caches=n_cached,
    )


def judged() -> tuple[str, ...]:
    """What must stay within its bound. CUDA keeps graphs and plans by shape in this memory too."""
    return tuple([name for name in Bounds._fields if name != "rss" or not mx.cuda.is_available()])


def run(calls: int, told: Callable[[str], None] = print) -> list[str]:
    """Makes so many calls. What grew, nothing if nothing did."""
    rng, samples, begin, done = random.Random(0), [], time.monotonic(), 0
    kinds = [kind for kind, n in KINDS.items() for _ in range(n)]
    told(f"{'calls':>9}{'RSS, MB':>10}{'active, B':>11}{'objects':>9}{'threads':>9}{'cached':>8}")
    every = max(calls // 20, len(kinds))
    warnings.simplefilter("ignore")
    while done < calls:
        with polyconv.patched():
            rng.shuffle(kinds)
            for kind in kinds:
                mx.eval(kind(rng))
        done += len(kinds)
        if done % every < len(kinds) or done >= calls:
            s = sample()
            samples.append(s)
            told(
                f"{done:>9}{s.rss / 1e6:>10.1f}{s.active:>11}{s.objects:>9}{s.threads:>9}"
                f"{s.caches:>8}   {time.monotonic() - begin:.0f} s"
            )
    settled = samples[max(len(samples) // 4, 1) - 1 :]
    settled = [s._replace(objects=s.objects - 20 * s.caches) for s in settled]
    grown = [
        f"{name} by {max(values) - values[0]}"
        for name, values in zip(Sample._fields, zip(*settled))
        if name in judged() and max(values) - values[0] > getattr(Bounds(), name)
    ]
    return grown + [f"{n} over {most}" for n, size, most in caches() if most and size > most]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--calls", type=int, default=1_000_000)
    grown = run(parser.parse_args().calls)
    for name, size, most in caches():
        print(f"  {name}: {size} of {'any number' if most is None else most}")
    print(f"grew: {', '.join(grown)}" if grown else "flat")
    return 1 if grown else 0


if __name__ == "__main__":
    raise SystemExit(main())
