"""`upfirdn`, `resample_poly` and `ResampleStream` against SciPy, and chunks against the whole."""

from __future__ import annotations

import random

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import polyconv
from polyconv.streaming.boundary import MODES

signal = pytest.importorskip("scipy.signal")

PADS = (*MODES, "mean", "median", "minimum", "maximum")


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
    for seed in range(150):
        shape = [rng.randint(1, 3) for _ in range(rng.randint(0, 2))]
        axis = rng.randint(0, len(shape))
        shape.insert(axis, rng.randint(2, 60))
        up, down = rng.randint(1, 12), rng.randint(1, 12)
        window = rng.choice((*windows, drawn(2 * rng.randint(1, 20) + 1, seed=seed)))
        padtype = rng.choice(PADS)
        cval = 0.7 if padtype == "constant" and rng.random() < 0.5 else None
        x = drawn(*shape, seed=seed)
        expected = signal.resample_poly(x, up, down, axis, window, padtype, cval)
        got = polyconv.resample_poly(mx.array(x), up, down, axis, window, padtype, cval)
        loose = padtype in ("smooth", "line", "antireflect")
        close(got, expected, 1e-4 if loose else 2e-5)


def test_a_constant_of_halves_stays_one():
    """By hand: of a constant each padtype that goes on with it makes the same constant."""
    for dtype in (mx.float16, mx.bfloat16):
        for amplitude in (6000, 33_000, 64_000):
            x = mx.full((12,), amplitude, dtype)
            for padtype in ("edge", "wrap", "mean", "median", "minimum", "maximum"):
                y = polyconv.resample_poly(x, 3, 2, padtype=padtype)
                # The taps of a phase add up to 1 but for a thousandth.
                assert mx.abs(y / x[0] - 1).max().item() < 0.01, (padtype, amplitude)
            assert mx.array_equal(polyconv.upfirdn([1.0], x, mode="smooth"), x)


def half_judged(seed, rng):
    """`resample_poly` or `upfirdn` of random halves, and by SciPy of the same in float64."""
    padtype, dtype = PADS[seed % len(PADS)], rng.choice((mx.float16, mx.bfloat16))
    up, down, n = rng.randint(1, 7), rng.randint(1, 7), rng.randint(2, 40)
    numbers = np.random.default_rng(seed)
    amplitude, shape = rng.choice((1, 6000, 33_000)), (n, rng.randint(1, 3))
    # Of both signs, or near one number, where what lies beyond the ends cancels.
    x = numbers.uniform(-1, 1, shape) if rng.random() < 0.6 else 1 - numbers.uniform(0, 0.01, shape)
    x = mx.array((amplitude * x).astype(np.float32)).astype(dtype)
    given = np.array(x.astype(mx.float32)).astype(np.float64)
    if padtype in MODES and rng.random() < 0.3:
        h = drawn(rng.randint(1, 30), seed=seed) / 4
        options = (up, down, 0, padtype)
        return x, polyconv.upfirdn(h, x, *options), signal.upfirdn(h.astype(float), given, *options)
    expected = signal.resample_poly(given, up, down, padtype=padtype)
    return x, polyconv.resample_poly(x, up, down, padtype=padtype), expected


@pytest.mark.parametrize("cases", [390, pytest.param(13_000, marks=pytest.mark.slow)])
def test_halves_are_rounded_once(cases):
    """The result's own rounding, 2^-11 or 2^-8 of it, and float32's of what is summed.

    The latter was 2^-23.9 of the largest number at most in 3,000 cases; 2^-21 is asked for.
    """
    rng = random.Random(0)
    for seed in range(cases):
        x, y, expected = half_judged(seed, rng)
        assert y.dtype == x.dtype
        is_half = x.dtype == mx.float16
        got = np.array(y.astype(mx.float32)).astype(np.float64)
        largest = max(np.abs(expected).max(), mx.abs(x).max().item())
        near = (2.0**-11 if is_half else 2.0**-8) * abs(expected) + 2.0**-21 * largest
        near = near + (2.0**-25 if is_half else 0)  # half of the least number above 0
        # float16 ends at 65504, and what is nearer to 65536 is infinity.
        most = 65_520 if is_half else np.inf
        right = (abs(got - expected) <= near) | (abs(expected) + near >= most) & np.isinf(got)
        assert right.all(), f"{seed}: {got[~right][:3]} where {expected[~right][:3]} is right"


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


def test_nothing_to_do_is_a_signal_of_the_same_numbers():
    x = mx.array(drawn(7))
    y = polyconv.resample_poly(x, 3, 3)
    assert mx.array_equal(y, x)
    y *= 0  # in place, on the array object
    assert mx.array_equal(x, mx.array(drawn(7)))
    assert mx.array_equal(mx.grad(lambda x: polyconv.resample_poly(x, 3, 3).sum())(x), mx.ones(7))


@pytest.mark.parametrize("padtype", PADS)
def test_empty_axes_beside_the_resampled_one_are_scipy_s(padtype):
    for shape, axis in (((10, 0), 0), ((0, 10), 1), ((0, 10, 3), 1), ((3, 10, 0), 1)):
        x = mx.zeros(shape)
        with np.errstate(all="ignore"):
            expected = signal.resample_poly(np.zeros((10,)), 3, 2).shape[0]
        y = polyconv.resample_poly(x, 3, 2, axis, padtype=padtype)
        assert y.shape == (*shape[:axis], expected, *shape[axis + 1 :])
        assert polyconv.resample_poly(x, 2, 2, axis, padtype=padtype).shape == shape
        loss = lambda x, axis=axis: polyconv.resample_poly(x, 3, 2, axis, padtype=padtype).sum()  # noqa: E731
        assert mx.grad(loss)(x).shape == shape
        if padtype in MODES:
            right = signal.upfirdn([1.0, 2.0], np.zeros((10,)), 3, 2).shape[0]
            y = polyconv.upfirdn([1.0, 2.0], x, 3, 2, axis, padtype)
            assert y.shape == (*shape[:axis], right, *shape[axis + 1 :])
        with pytest.raises(ValueError, match="x must have a sample along the axis; got shape"):
            polyconv.resample_poly(x, 3, 2, shape.index(0), padtype=padtype)
    assert signal.resample_poly(np.zeros((10, 0)), 3, 2).shape == (15, 0)


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
        ("h, as a filter, must have one axis", lambda: polyconv.upfirdn([[1]], x)),
        ("x must have a sample", lambda: polyconv.upfirdn([1], x[:0])),
        ("padtype must be one of", lambda: polyconv.resample_poly(x, 2, 1, padtype="zero")),
        (
            "padtype must be 'constant' where cval is given",
            lambda: polyconv.resample_poly(x, 2, 1, padtype="edge", cval=1),
        ),
        ("window must be one of scipy", lambda: polyconv.resample_poly(x, 2, 1, window="none")),
        ("num_channels must be", lambda: polyconv.ResampleStream(2, 1, 0)),
        (
            r"x must be of shape \(n, 2\)",
            lambda: polyconv.ResampleStream(2, 1, 2).resample_chunk(x),
        ),
    ):
        with pytest.raises(ValueError, match=match):
            call()
