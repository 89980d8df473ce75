"""The Metal guarantee, by tracing every convolution that polyconv issues, forward and in gradients.

    python -m tests.campaigns.guarantee --cases 10000

prints how many convolutions took which kernel. No explicit path, no unfold, no read outside, also
by the rules of other versions than that of the plan.
"""

from __future__ import annotations

import argparse
import random
from collections import Counter
from itertools import islice
from pathlib import Path

import mlx.core as mx

import polyconv
from polyconv.bench import cases
from polyconv.metal.kernels import RULE_SETS, predict
from polyconv.planning.devices import DEVICES
from polyconv.planning.methods import METHODS
from tests.support.trace import traced

LAYERS = Path(__file__).parents[1] / "data" / "real_layers.csv"
_CHANNELS = (
    1,
    1,
    2,
    3,
    4,
    5,
    6,
    7,
    8,
    12,
    15,
    16,
    17,
    20,
    24,
    31,
    32,
    33,
    48,
    64,
    80,
    96,
    100,
    128,
)
_GROUPS = (1, 1, 1, 1, 2, 3, 4, 16)


def real_calls():
    """The rows of `real_layers.csv` as calls."""
    for case in cases.read(LAYERS):
        options = {name: case[name] for name in _OPTIONS}
        yield case["op"], case["input"], case["weight"], options, case["groups"]


_OPTIONS = ("stride", "padding", "output_padding", "dilation")


def random_call(rng):
    """A transposed convolution of any rank: odd channels, groups, depthwise, dilation, crops."""
    ndim = rng.choice((1, 1, 2, 2, 3))
    each = lambda *items: tuple(rng.choice(items) for _ in range(ndim))  # noqa: E731
    groups = rng.choice(_GROUPS)
    c, o = rng.choice(_CHANNELS), rng.choice(_CHANNELS)
    if rng.random() < 0.2:  # depthwise
        groups, c, o = rng.choice((3, 8, 16, 32, 96, 512)), 1, 1
    most = {1: 3000, 2: 70, 3: 20}[ndim]
    kernel = each(1, 2, 3, 4, 5, 6, 7, 8, *((16, 20) if ndim == 1 else ()))
    options = {
        "stride": each(1, 2, 2, 2, 3, 4, 5, 8),
        "padding": each(0, 0, 1, 1, 2, 3, 5, -2),
        "output_padding": each(0, 0, 0, 1, 2, -1),
        "dilation": each(1, 1, 1, 2, 3),
    }
    size = tuple(rng.choice((1, rng.randint(1, 9), rng.randint(1, most))) for _ in range(ndim))
    x = (rng.choice((1, 1, 1, 2, 4)), *size, groups * c)
    return f"conv_transpose{ndim}d", x, (groups * o, *kernel, c), options, groups


def random_general_call(rng):
    """`conv_general` with both strides, asymmetric padding, and often without input dilation."""
    ndim = rng.choice((1, 2, 3))
    each = lambda *items: tuple(rng.choice(items) for _ in range(ndim))  # noqa: E731
    groups, c, o = rng.choice(_GROUPS), rng.choice(_CHANNELS), rng.choice(_CHANNELS)
    if rng.random() < 0.3:
        groups, c, o = rng.choice((3, 8, 16, 32)), 1, 1
    options = {
        "stride": each(1, 1, 2, 3),
        "padding": (list(each(0, 0, 1, 2, -1)), list(each(0, 0, 1, 2, 3))),
        "kernel_dilation": each(1, 1, 2),
        "input_dilation": each(1, 1, 1, 2, 3),
    }
    size = tuple(rng.randint(6, {1: 3000, 2: 70, 3: 16}[ndim]) for _ in range(ndim))
    x = (rng.choice((1, 1, 2)), *size, groups * c)
    return "conv_general", x, (groups * o, *each(1, 2, 3, 3, 4), c), options, groups


def issued(op, x_shape, w_shape, options, groups, method, dtype):
    """The convolutions of a call and of both its gradients. Nothing is computed."""
    x, w = mx.zeros(x_shape, dtype), mx.zeros(w_shape, dtype)
    call = lambda x, w: getattr(polyconv, op)(x, w, **options, groups=groups, method=method)  # noqa: E731
    with traced() as forward:
        y = call(x, w)
    with traced() as all_calls:
        mx.vjp(call, [x, w], [mx.zeros(y.shape, dtype)])
    assert all_calls[: len(forward)] == forward
    return forward, all_calls[len(forward) :]


def check(call, method, dtype, counts, device="m4-max"):
    """Asserts the guarantee for one call, and counts its kernels. False if it has no output."""
    try:
        with polyconv.planning_for(device):
            directions = issued(*call, method, dtype)
    except ValueError as error:
        if (
            "padding must leave" in str(error)
            or "must suit" in str(error)
            or "long as" in str(error)
        ):
            return False
        raise
    for direction, specs in zip(("forward", "gradient"), directions, strict=True):
        for spec in specs:
            for rule_set in RULE_SETS:
                kernel = predict(spec, DEVICES[device], rule_set)
                assert not kernel.is_explicit, (call, spec, rule_set)
                assert kernel.unfold_bytes == 0
                assert not kernel.hazard, (call, spec, kernel)
            counts[direction, kernel.path] += 1
    return True


def check_all(n_random, every=1, seed=0):
    """Real layers, all or each so many'th, in two dtypes by every method, then random calls."""
    counts = Counter()
    methods = ("auto", *[method for method in METHODS if method != "native"])
    n_real = sum(
        check(call, method, dtype, counts)
        for call in islice(real_calls(), 0, None, every)
        for method in methods
        for dtype in (mx.float32, mx.float16)
    )
    rng, done = random.Random(seed), 0
    while done < n_random:
        dtype = rng.choice((mx.float32, mx.float16, mx.bfloat16))
        done += check(random_call(rng), rng.choice(methods), dtype, counts)
    return n_real, done, counts


def report(n_real, n_random, counts):
    print(f"{n_real} plans of real layers, {n_random} random: 0 explicit, 0 unfolded, 0 hazards")
    for (direction, path), n in sorted(counts.items()):
        print(f"  {direction:8} {path:26} {n:7}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=10_000)
    report(*check_all(parser.parse_args().cases))
