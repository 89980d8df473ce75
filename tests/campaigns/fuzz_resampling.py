"""Generators of inputs for resampling."""

from __future__ import annotations

import random
from typing import Any

import mlx.core as mx
import numpy as np

import polyconv
from polyconv.streaming.boundary import MODES
from tests.campaigns.fuzz_inputs import FLOATS, array, no_array, numbers, odd
from tests.campaigns.fuzz_judge import Input, values
from tests.campaigns.fuzz_models import _mutated, _told
from tests.support.reference import conv_general as reference_conv


def upfirdn(rng: random.Random) -> Input:
    n, taps = rng.choice((1, 2, 5, 30)), rng.choice((1, 2, 5, 12))
    shape = rng.choice(((n,), (n, 2), (2, n), (1, 2, n)))
    x, h = array(rng, shape, rng.choice(FLOATS)), numbers(rng, (taps,))
    axis = shape.index(n)
    kwargs: dict[str, Any] = {"up": rng.randint(1, 5), "down": rng.randint(1, 5), "axis": axis}
    kwargs |= {"mode": rng.choice(MODES), "cval": rng.choice((0, 1.5))}
    args: list[Any] = [rng.choice((h, mx.array(h), h.tolist())), x]
    is_odd = _mutated(rng, kwargs)
    if rng.random() < 0.3:
        args[rng.randrange(2)] = no_array(rng)
        is_odd = True
    call = lambda: polyconv.upfirdn(*args, **kwargs)  # noqa: E731

    def check(y: Any) -> str:
        if y.size < 2**16:
            mx.eval(y)
        if is_odd or kwargs["mode"] != "constant" or kwargs["cval"]:
            return ""
        lines = np.moveaxis(values(x), axis, -1).reshape(-1, n, 1)
        general = {"stride": [kwargs["down"]], "input_dilation": [kwargs["up"]]}
        m = ((n - 1) * kwargs["up"] + taps - 1) // kwargs["down"] + 1
        hi = (m - 1) * kwargs["down"] - (n - 1) * kwargs["up"]
        general |= {"lo": [taps - 1], "hi": [hi], "kernel_dilation": [1], "flip": True}
        right = reference_conv(lines, h.reshape(1, -1, 1), **general)[..., 0]
        ours = np.moveaxis(values(y), axis, -1).reshape(len(lines), -1)
        same = ours.shape == right.shape and np.allclose(ours, right, 1e-2, 1e-2)
        return "" if same else f"{ours.shape} is not the reference's, {right.shape}"

    return Input(_told("upfirdn", args, kwargs), call, check, legal=not is_odd)


def resample_poly(rng: random.Random) -> Input:
    n = rng.choice((1, 3, 20))
    x: Any = array(rng, rng.choice(((n,), (n, 2))), "float32")
    pads = (*MODES, "mean", "median", "minimum", "maximum")
    windows = (("kaiser", 5.0), "hann", "boxcar", "blackman", [1.0, 2, 1], np.ones(5))
    kwargs: dict[str, Any] = {"up": rng.choice((1, 2, 3, 160)), "down": rng.choice((1, 2, 147))}
    kwargs |= {"axis": 0, "window": rng.choice(windows), "padtype": rng.choice(pads)}
    is_odd = _mutated(rng, kwargs)
    if rng.random() < 0.2:
        x, is_odd = no_array(rng), True
    if rng.random() < 0.2:
        kwargs["cval"] = odd(rng)
    if rng.random() < 0.1:
        kwargs["window"] = rng.choice((("kaiser", odd(rng)), ("nonsense", 1), (odd(rng),), (1, 2)))

    def check(y: Any) -> str:
        if y.size < 2**16:
            mx.eval(y)
        if is_odd:
            return ""
        m = -(-n * kwargs["up"] // kwargs["down"])
        return "" if y.shape == (m, *x.shape[1:]) else f"{y.shape}, not {m} samples"

    call = lambda: polyconv.resample_poly(x, **kwargs)  # noqa: E731
    return Input(_told("resample_poly", (x,), kwargs), call, check)


def resample_stream(rng: random.Random) -> Input:
    args: list[Any] = [rng.choice((2, 3, 44)), rng.choice((1, 2, 48)), rng.choice((1, 2))]
    channels = args[2]
    is_odd = rng.random() < 0.6
    kwargs: dict[str, Any] = {}
    chunks: list[Any] = [numbers(rng, (n, channels)) for n in (0, 5, 17)]
    if is_odd:
        if rng.random() < 0.5:
            args[rng.randrange(3)] = odd(rng)
        elif rng.random() < 0.5:
            kwargs = {"window": odd(rng)}
        else:
            chunks[rng.randrange(3)] = rng.choice((no_array(rng), numbers(rng, (4, 3)).tolist()))
    last = rng.choice((True, False, odd(rng)))

    def call() -> Any:
        made = polyconv.ResampleStream(*args, **kwargs)
        _ = made.latency
        for chunk in chunks:
            y = made.resample_chunk(chunk)
        y = made.resample_chunk(numbers(rng, (3, channels)), last)
        return y

    return Input(_told("ResampleStream", (args, kwargs, chunks, last)), call, legal=False)
