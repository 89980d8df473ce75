"""Any partition of a stream's input into chunks gives the output of the whole, by `==`.

python -m tests.campaigns.partitions --cases 5000
"""

from __future__ import annotations

import argparse
import random
import sys

import mlx.core as mx
import numpy as np

import polyconv
from polyconv.streaming.functional import stream_flush, stream_init, stream_step
from tests.support.reference import conv_general as reference


def draw(pick):
    """An op, its options, the same as `conv_general`'s, shapes and a partition."""
    kernel, dilation = pick(range(1, 10)), pick((1, 1, 2, 3))
    groups, s = pick((1, 1, 2)), pick((1, 1, 2, 3, 4, 5, 8))
    shape = (pick((1, 1, 2)), pick(range(21)), groups * pick((1, 2, 3)))
    weight = (groups * pick((1, 2)), kernel, shape[2] // groups)
    op = pick(("conv_transpose1d", "conv1d", "conv_general"))
    if op == "conv_transpose1d":
        padding, more = pick(range(-2, 9)), pick((0, 0, 1, 2, -1))
        options = {"stride": s, "padding": padding, "dilation": dilation, "output_padding": more}
        lo = dilation * (kernel - 1) - padding
        general = (1, lo, lo + more, dilation, s, True)
    elif op == "conv1d":
        step, padding = pick((1, 1, 2, 3)), pick(range(6))
        options = {"stride": step, "padding": padding, "dilation": dilation}
        general = (step, padding, padding, dilation, 1, False)
    else:
        step, lo, hi, flip = (
            pick((1, 2, 3, 5)),
            pick(range(-5, 10)),
            pick(range(-5, 10)),
            pick("yn"),
        )
        options = {"stride": step, "padding": ([lo], [hi]), "kernel_dilation": dilation}
        options |= {"input_dilation": s, "flip": flip == "y"}
        general = (step, lo, hi, dilation, s, flip == "y")
    sizes, left = [], shape[1]
    while left:
        sizes.append(min(left, pick((0, 1, 1, 2, 3, 7))))
        left -= sizes[-1]
    sizes += pick(((), (0,)))
    return op, options | {"groups": groups}, general, shape, weight, sizes


def check(op, options, general, x_shape, w_shape, sizes, seed):
    numbers = np.random.default_rng(seed)
    x, w = (numbers.integers(-3, 4, s).astype(np.float32) for s in (x_shape, w_shape))
    stride, lo, hi, dilation, s, flip = general
    dilated = s * (x_shape[1] - 1) + 1
    n_outputs = (dilated + lo + hi - dilation * (w_shape[1] - 1) - 1) // stride + 1
    if n_outputs < 1:
        expected = np.zeros((x_shape[0], 0, w_shape[0]))
    elif x_shape[1] == 0:
        expected = np.zeros((x_shape[0], n_outputs, w_shape[0]))
    else:
        axis = ((stride,), (lo,), (hi,), (dilation,), (s,))
        names = ("stride", "lo", "hi", "kernel_dilation", "input_dilation")
        more = {"groups": options["groups"], "flip": flip}
        expected = reference(x, w, **dict(zip(names, axis)), **more)
    weight = polyconv.pack(mx.array(w))
    state = stream_init(op, weight, batch=x_shape[0], **options)
    outputs, at = [], 0
    for size in sizes:
        y, state = stream_step(state, mx.array(x[:, at : at + size]), weight)
        outputs.append(np.array(y))
        at += size
        behind = at * s // stride - sum(each.shape[1] for each in outputs)
        assert behind <= state.latency[0] or at == 0
    y, fresh = stream_flush(state, weight)
    got = np.concatenate([*outputs, np.array(y)], 1)
    assert got.shape == expected.shape
    assert np.array_equal(got, expected)
    again = stream_init(op, weight, batch=x_shape[0], **options)
    assert fresh[1:] == again[1:]
    assert mx.array_equal(fresh.tail, again.tail)


def campaign(cases, seed):
    rng = random.Random(seed)
    for n in range(cases):
        case = draw(rng.choice)
        try:
            check(*case, seed=n)
        except AssertionError as error:
            raise AssertionError(f"{case}: {error}") from error


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    campaign(args.cases, args.seed)
    print(f"{args.cases} random partitions give the output of the whole")
    return 0


if __name__ == "__main__":
    sys.exit(main())
