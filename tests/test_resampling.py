"""`upfirdn`, `resample_poly` and `ResampleStream` against SciPy, and chunks against the whole."""

from __future__ import annotations

import random

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import polyconv
from polyconv.extension import MODES

signal = pytest.importorskip("scipy.signal")


def drawn(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def close(got, expected, tolerance=1e-5):
    assert got.shape == expected.shape
    scale = max(1.0, float(np.abs(expected).max(initial=0)))
    np.testing.assert_allclose(np.array(got), expected, rtol=0, atol=tolerance * scale)


@pytest.mark.parametrize("mode", MODES)
def test_upfirdn_is_scipy_s_over_its_parameters(mode):
    rng = random.Random(mode)
    for seed in range(60):
        n, n_taps = rng.randint(1, 12), rng.randint(1, 40)
        up, down = rng.randint(1, 7), rng.randint(1, 7)
        shape = [rng.randint(1, 3) for _ in range(rng.randint(0, 2))]
        axis = rng.randint(0, len(shape))
        shape.insert(axis, n)
        h, x = drawn(n_taps, seed=seed), drawn(*shape, seed=seed + 1)
        cval = rng.choice((0, 0, 1.5)) if mode == "constant" else 0
        axis = rng.choice((axis, axis - len(shape)))
        if n == 1 and mode in ("smooth", "line", "reflect", "antireflect"):
            continue  # SciPy reads outside of a single sample there
        expected = signal.upfirdn(h, x, up, down, axis, mode, cval)
        got = polyconv.upfirdn(h, mx.array(x), up, down, axis, mode, cval)
        close(got, expected, 1e-4 if mode in ("smooth", "line", "antireflect") else 1e-5)


def test_resample_poly_is_scipy_s_over_its_parameters():
    rng = random.Random(0)
    windows = (("kaiser", 5.0), ("kaiser", 2.0), "hamming", "hann", "blackman", "boxcar", "cosine")
    pads = (*MODES, "mean", "median", "minimum", "maximum")
    for seed in range(150):
        shape = [rng.randint(1, 3) for _ in range(rng.randint(0, 2))]
        axis = rng.randint(0, len(shape))
        shape.insert(axis, rng.randint(2, 60))
        up, down = rng.randint(1, 12), rng.randint(1, 12)
        window = rng.choice((*windows, drawn(2 * rng.randint(1, 20) + 1, seed=seed)))
        padtype = rng.choice(pads)
        cval = 0.7 if padtype == "constant" and rng.random() < 0.5 else None
        x = drawn(*shape, seed=seed)
        expected = signal.resample_poly(x, up, down, axis, window, padtype, cval)
        got = polyconv.resample_poly(mx.array(x), up, down, axis, window, padtype, cval)
        loose = padtype in ("smooth", "line", "antireflect")
        close(got, expected, 1e-4 if loose else 2e-5)


def test_audio_rates():
    x = drawn(4410)
    for up, down in ((160, 147), (147, 160), (320, 441), (2, 1), (1, 3)):
        close(polyconv.resample_poly(mx.array(x), up, down), signal.resample_poly(x, up, down))


def test_gradients_are_the_transpose():
    h, x = mx.array(drawn(9)), mx.array(drawn(2, 11, seed=1))
    y = polyconv.upfirdn(h, x, 3, 2)
    v = mx.array(drawn(*y.shape, seed=2))
    _, (dh, dx) = mx.vjp(lambda h, x: polyconv.upfirdn(h, x, 3, 2), [h, x], [v])
    inner = (y * v).sum().item()  # linear in each
    assert (dh * h).sum().item() == pytest.approx(inner, rel=1e-4)
    assert (dx * x).sum().item() == pytest.approx(inner, rel=1e-4)
    assert mx.grad(lambda x: polyconv.resample_poly(x, 2, 3, 1).sum())(x).shape == x.shape


def test_nothing_to_do_is_the_signal_itself():
    x = mx.array(drawn(7))
    assert mx.array_equal(polyconv.resample_poly(x, 3, 3), x)


@settings(max_examples=80)
@given(st.data())
def test_a_stream_is_the_whole_whatever_the_chunks(data):
    rates = data.draw(st.tuples(st.integers(1, 9), st.integers(1, 9)))
    channels = data.draw(st.integers(1, 3))
    sizes = data.draw(st.lists(st.integers(0, 30), min_size=1, max_size=8))
    if not sum(sizes):
        sizes.append(1)
    x = np.random.default_rng(0).integers(-3, 4, (sum(sizes), channels)).astype(np.float32)
    # Taps that are whole numbers, so that every sum is exact.
    taps = np.random.default_rng(1).integers(-3, 4, 2 * 7 + 1).astype(np.float32)
    stream = polyconv.ResampleStream(*rates, channels, window=taps)
    for _ in range(2):  # it begins anew behind the last chunk
        pieces, at = [], 0
        for i, size in enumerate(sizes):
            last = i == len(sizes) - 1
            pieces.append(stream.resample_chunk(x[at : at + size], last=last))
            at += size
        whole = polyconv.resample_poly(mx.array(x), *rates[::-1], window=taps)
        if rates[0] == rates[1]:
            return
        got = np.concatenate(pieces)
        assert got.shape == whole.shape
        assert np.array_equal(got, np.array(whole))


def test_a_stream_takes_mono_and_arrays_of_mlx():
    stream, x = polyconv.ResampleStream(2, 3), drawn(50)
    y = [stream.resample_chunk(mx.array(x[:20])), stream.resample_chunk(mx.array(x[20:]), True)]
    assert isinstance(y[0], mx.array)
    close(mx.concatenate(y), signal.resample_poly(x, 3, 2))
    assert stream.latency[0] > 0


def test_wrong_arguments_are_refused():
    x = mx.zeros((5,))
    for match, call in (
        ("mode must be one of constant, wrap", lambda: polyconv.upfirdn([1], x, mode="zero")),
        ("up must be", lambda: polyconv.upfirdn([1], x, 0)),
        ("axis must be one of the 1 of x; got 1", lambda: polyconv.upfirdn([1], x, axis=1)),
        ("x must be an mlx.core.array; got list", lambda: polyconv.upfirdn([1], [1.0])),
        ("the filter must have one axis", lambda: polyconv.upfirdn([[1]], x)),
        ("x must have a sample", lambda: polyconv.upfirdn([1], x[:0])),
        ("padtype must be one of", lambda: polyconv.resample_poly(x, 2, 1, padtype="zero")),
        ("cval goes with", lambda: polyconv.resample_poly(x, 2, 1, padtype="edge", cval=1)),
        ("window must be one of scipy", lambda: polyconv.resample_poly(x, 2, 1, window="none")),
        ("num_channels must be", lambda: polyconv.ResampleStream(2, 1, 0)),
        (r"x must be \(n, 2\)", lambda: polyconv.ResampleStream(2, 1, 2).resample_chunk(x)),
    ):
        with pytest.raises(ValueError, match=match):
            call()
