"""Streams: any partition of the input into chunks gives the output of the whole, by `==`."""

from __future__ import annotations

import copy
import pickle
import random

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import polyconv
from polyconv.streaming.functional import stream_flush, stream_init, stream_step
from tests.campaigns import partitions
from tests.support.cases import integers


@pytest.mark.parametrize("cases", [150, pytest.param(1000, marks=pytest.mark.slow)])
def test_random_partitions_give_the_whole(cases):
    partitions.campaign(cases, 0)


@settings(max_examples=50)
@given(st.data())
def test_partitions_give_the_whole_by_hypothesis(data):
    pick = lambda items: data.draw(st.sampled_from(list(items)))  # noqa: E731
    partitions.check(*partitions.draw(pick), seed=0)


W = integers(3, 16, 4)


def begun(batch=1):
    return stream_init("conv_transpose1d", W, batch=batch, stride=8, padding=4)


def test_latency_and_history_of_hifi_gan_s_first_layer():
    state = begun()
    assert state.latency == (4, 1)
    assert state.tail.shape == (1, 1, 4)
    y, _ = stream_step(state, mx.zeros((1, 1, 4)), W)
    assert y.shape == (1, 4, 3)


def test_a_state_is_a_value():
    x = integers(1, 6, 4)
    _, state = stream_step(begun(), x[:, :3], W)
    expected, after = stream_step(state, x[:, 3:], W)
    for other in (copy.deepcopy(state), pickle.loads(pickle.dumps(state))):
        again, _ = stream_step(other, x[:, 3:], W)
        assert mx.array_equal(again, expected)
    again, _ = stream_step(state, x[:, 3:], W)  # nothing was changed
    assert mx.array_equal(again, expected)
    assert after.tail.shape == state.tail.shape


def test_it_compiles_and_maps():
    x = integers(2, 6, 4)
    step = mx.compile(stream_step)
    plain, compiled = begun(2), begun(2)
    for chunk in (x[:, :1], x[:, 1:2], x[:, 2:3], x[:, 3:]):
        y, plain = stream_step(plain, chunk, W)
        z, compiled = step(compiled, chunk, W)
        assert mx.array_equal(y, z)
    lone = begun()
    mapped = mx.vmap(lambda tail, x: stream_step(lone._replace(tail=tail), x, W)[0])
    y, _ = stream_step(begun(2), x[:, :3], W)
    assert mx.array_equal(mapped(mx.zeros((2, *lone.tail.shape)), x[:, None, :3]).squeeze(1), y)


def test_streams_of_a_batch_begin_at_different_times():
    x, later = integers(2, 5, 4), integers(1, 4, 4, seed=9)
    _, state = stream_step(begun(2), x, W)
    chunk = mx.concatenate([integers(1, 4, 4, seed=8), later])
    y, state = stream_step(state, chunk, W, reset=mx.array([False, True]))
    tail, _ = stream_flush(state, W)
    row = mx.concatenate([y, tail], 1)[1:]
    whole = polyconv.conv_transpose1d(later, W, 8, 4)
    assert mx.array_equal(row[:, state.latency[0] :], whole)


def reset_once(op, options, general, x_shape, w_shape, sizes, rng):
    """A stream of which some rows begin anew at any chunk, and others later; whether any could.

    The judge is a stream of a row by itself. A reset must be taken where the row's outputs, without
    the first `latency[0]`, are that stream's, and refused where they cannot be: where these come
    at other times, or are out already.
    """
    batch, channels = 3, x_shape[2]
    draw = lambda *shape: mx.array(rng.integers(-3, 4, shape).astype(np.float32))  # noqa: E731
    weight = polyconv.pack(draw(*w_shape))
    state = stream_init(op, weight, batch=batch, **options)
    chunks = [draw(batch, size, channels) for size in sizes]
    at = rng.integers(len(chunks))
    rows = rng.random(batch) < 0.5
    stride, _, _, _, s, _ = general
    n = sum(sizes[:at])
    outputs, inputs = state.latency
    is_exact = n * s % stride == 0 and n >= inputs and outputs >= 0
    found = []
    for i, chunk in enumerate(chunks):
        if i == at:
            try:
                y, state = stream_step(state, chunk, weight, reset=mx.array(rows))
            except ValueError as error:
                assert rows.any()
                assert not is_exact, error
                assert str(error).startswith("[stream_step] reset must come ")
                return False
            assert is_exact or not rows.any()
        else:
            y, state = stream_step(state, chunk, weight)
        found.append(y)
    found.append(stream_flush(state, weight)[0])
    for row in range(batch):
        since = at if rows[row] else 0
        one = stream_init(op, weight, **options)
        alone = []
        for chunk in chunks[since:]:
            y, one = stream_step(one, chunk[row : row + 1], weight)
            alone.append(y)
        alone = mx.concatenate([*alone, stream_flush(one, weight)[0]], 1)
        ours = mx.concatenate([each[row : row + 1] for each in found[since:]], 1)
        assert mx.array_equal(ours[:, outputs if rows[row] else 0 :], alone)
    return bool(rows.any())


def resets(cases, seed):
    rng, taken = random.Random(seed), 0
    for n in range(cases):
        op, options, general, x_shape, w_shape, _ = partitions.draw(rng.choice)
        sizes = [rng.choice((0, 1, 1, 2, 3, 7)) for _ in range(rng.choice((1, 2, 4, 6)))]
        case = (op, options, general, x_shape, w_shape, sizes)
        try:
            taken += reset_once(*case, np.random.default_rng(n))
        except AssertionError as error:
            raise AssertionError(f"{case}: {error}") from error
    return taken


def test_resets_at_any_moment_are_new_streams_or_refused():
    assert resets(150, 3) > 20


@pytest.mark.slow
def test_many_resets_at_any_moment():
    assert resets(2000, 4) > 250


def test_what_a_new_stream_would_give_at_other_times_is_refused():
    one, stride = mx.ones((1, 1, 1)), {"stride": 2}
    x = mx.arange(6).astype(mx.float32).reshape(1, 6, 1)
    all_of_it = mx.array([True])
    _, state = stream_step(stream_init("conv1d", one, **stride), x[:, :1], one)
    with pytest.raises(ValueError, match="reset must come after a multiple of 2 samples"):
        stream_step(state, x, one, reset=all_of_it)
    y, _ = stream_step(state, x, one, reset=mx.array([False]))  # none of the rows: nothing to do
    assert y.flatten().tolist() == [1, 3, 5]
    _, state = stream_step(state, x[:, :1], one)
    y, _ = stream_step(state, x, one, reset=all_of_it)
    assert y.flatten().tolist() == [0, 2, 4]
    early = stream_init("conv1d", mx.ones((1, 3, 1)))
    with pytest.raises(ValueError, match="reset must come after at least 2 samples"):
        stream_step(early, x, mx.ones((1, 3, 1)), reset=all_of_it)
    ahead = stream_init("conv1d", one, padding=3)
    with pytest.raises(ValueError, match=r"not ahead of its input; got a latency of -3 samples"):
        stream_step(ahead, x, one, reset=all_of_it)
    # Where nothing can be evaluated, no row may ask.
    step = mx.compile(lambda reset: stream_step(early, x, mx.ones((1, 3, 1)), reset=reset)[0])
    with pytest.raises(ValueError, match="reset must come after at least 2 samples"):
        step(mx.array([False]))


@pytest.mark.parametrize("dtype", [mx.float16, mx.bfloat16])
def test_halves(dtype):
    w, x = W.astype(dtype), integers(1, 6, 4).astype(dtype)
    state = stream_init("conv_transpose1d", w, stride=8, padding=4)
    y, state = stream_step(state, x, w)
    assert y.dtype == dtype
    z, _ = stream_flush(state, w)
    whole = polyconv.conv_transpose1d(x, w, 8, 4)
    assert mx.array_equal(mx.concatenate([y, z], 1), whole)


def test_wrong_arguments_are_refused():
    for match, call in (
        ("op must be one of conv_transpose1d,", lambda: stream_init("conv2d", W)),
        ("weight must have 3 axes", lambda: stream_init("conv1d", mx.ones((2, 2)))),
        ("options must be those of conv1d", lambda: stream_init("conv1d", W, strides=2)),
        ("stride must be at least 1", lambda: stream_init("conv1d", W, stride=0)),
        ("must be divisible by groups=2; got 3", lambda: stream_init("conv1d", W, groups=2)),
        ("x must have batch 1 and 4 channels", lambda: stream_step(begun(), mx.ones((1, 2, 5)), W)),
        ("weight must be an mlx.core.array", lambda: stream_init("conv1d", None)),
        ("dtype must be one of MLX's", lambda: stream_init("conv1d", W, dtype="float32")),
        ("state must be a StreamState", lambda: stream_step(None, W, W)),
        ("weight must have 16 taps", lambda: stream_step(begun(), mx.ones((1, 2, 4)), W[:, :3])),
        ("x must be an array", lambda: polyconv.StreamingConv1d(4, 4, 3).step(None)),
        ("x must be an array", lambda: stream_step(begun(), mx.ones((2, 5)), W)),
    ):
        with pytest.raises(ValueError, match=match):
            call()
