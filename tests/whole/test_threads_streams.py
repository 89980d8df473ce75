"""Streams of chunks in several threads: side by side, and handed on from thread to thread."""

import mlx.core as mx
import mlx.nn as nn
import numpy as np

import polyconv
from tests.support.threading_tools import assert_right, in_threads, ints

X1, W1 = ints((2, 9, 4)), ints((6, 5, 4), 1)


def _streamed(packed, seed):
    state = polyconv.stream_init("conv_transpose1d", packed, stride=3, batch=2)
    sizes, parts = np.random.default_rng(seed).multinomial(9, [0.25] * 4), []
    for end, size in zip(np.cumsum(sizes), sizes):
        y, state = polyconv.stream_step(state, X1[:, int(end - size) : int(end)], packed)
        parts.append(y)
    y, _ = polyconv.stream_flush(state, packed)
    return np.array(mx.concatenate([*parts, y], 1))


def test_streams_side_by_side():
    expected = np.array(polyconv.conv_transpose1d(X1, W1, 3))
    packed = polyconv.pack(W1)
    assert_right(
        in_threads(lambda i: [_streamed(packed, 10 * i + n) for n in range(5)]), [expected] * 5
    )


def test_caches_of_one_layer():
    layer = polyconv.StreamingConvTranspose1d(4, 6, 5, 3)
    layer.weight, layer.bias = W1, ints((6,), 4)
    expected = np.array(layer(X1))

    def work(i):
        cache = layer.make_cache()
        parts = [layer.step(X1[:, at : at + 1 + i], cache) for at in range(0, 9, 1 + i)]
        return [np.array(mx.concatenate([*parts, layer.flush(cache)], 1))]

    assert_right(in_threads(work), [expected])


class Gated(nn.Module):
    """A constant is computed when it is streamed; what is added waits for the other."""

    def __init__(self):
        super().__init__()
        self.up = nn.ConvTranspose1d(4, 6, 5, 3)
        self.up.weight, self.up.bias = W1, ints((6,), 4)
        self.scale = ints((6,), 8)

    def __call__(self, x):
        y = self.up(x) * (self.scale * 2)
        return y[:, 1:-2] + mx.maximum(y, 0)[:, :-3]


def test_a_streamed_model_goes_from_thread_to_thread():
    model = Gated()
    mx.eval(model.parameters())
    streamed = polyconv.stream(model)

    def step(i, start, stop):
        y = streamed.step(X1[:, start:stop])
        mx.eval(y, streamed.state)
        return y

    parts = [
        in_threads(lambda i, ends=ends: step(i, *ends), 1)[0]
        for ends in ((0, 2), (2, 3), (3, 3), (3, 7), (7, 9))
    ]
    parts += in_threads(lambda i: evaluated(streamed.flush()), 1)
    assert (np.array(mx.concatenate(parts, 1)) == np.array(model(X1))).all()


def evaluated(y):
    mx.eval(y)
    return y


def test_a_cache_goes_from_thread_to_thread():
    layer = polyconv.StreamingConvTranspose1d(4, 6, 5, 3)
    layer.weight, layer.bias = W1, ints((6,), 4)
    cache, parts = layer.make_cache(), []

    def step(i, at):
        y = layer.step(X1[:, at : at + 3], cache)
        mx.eval(y, cache.state)
        return y

    for at in (0, 3, 6):
        parts += in_threads(lambda i, at=at: step(i, at), 1)
    parts.append(layer.flush(cache))
    assert (np.array(mx.concatenate(parts, 1)) == np.array(layer(X1))).all()


def test_a_state_goes_from_thread_to_thread():
    packed = polyconv.pack(W1)
    state, parts = polyconv.stream_init("conv_transpose1d", packed, stride=3, batch=2), []
    for at in range(9):

        def work(i, at=at, state=state):
            y, after = polyconv.stream_step(state, X1[:, at : at + 1], packed)
            mx.eval(y, after.tail)
            return y, after

        ((y, state),) = in_threads(work, 1)
        parts.append(y)
    rest, _ = polyconv.stream_flush(state, packed)
    expected = polyconv.conv_transpose1d(X1, W1, 3)
    assert (np.array(mx.concatenate([*parts, rest], 1)) == np.array(expected)).all()


def test_chunks_of_numpy_come_from_any_thread():
    signal = np.random.default_rng(0).standard_normal(400).astype(np.float32)
    expected = polyconv.ResampleStream(2, 3).resample_chunk(signal, last=True)
    stream, parts = polyconv.ResampleStream(2, 3), []
    for at in range(0, 400, 100):
        chunk = signal[at : at + 100]
        work = lambda i, c=chunk, at=at: stream.resample_chunk(c, last=at == 300)  # noqa: E731
        parts += in_threads(work, 1)
    np.testing.assert_allclose(np.concatenate(parts), expected, atol=1e-5)
    halves, stream = [mx.array(signal[:200]), mx.array(signal[200:])], polyconv.ResampleStream(2, 3)
    mx.eval(halves)

    def step(i, last):
        y = stream.resample_chunk(halves[last], last=last)
        mx.eval(y, stream.state)
        return y

    parts = [in_threads(lambda i, last=last: step(i, last), 1)[0] for last in (False, True)]
    np.testing.assert_allclose(np.array(mx.concatenate(parts)), expected, atol=1e-5)
