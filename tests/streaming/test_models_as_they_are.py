"""Models as others write them stream: what their code asks of the signal is MLX's business.

Weights and inputs are integers, so that all is compared by ==, but where functions are not exact.
"""

from __future__ import annotations

import contextlib
import functools
import math

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

import polyconv
from polyconv.streaming import primitives
from tests.support.cases import integers
from tests.support.streams import assert_streams, chunks, whole_numbers

X = integers(2, 37, 4)
SIZES = (1, 0, 5, 3, 11)
CLOSE = 1e-5


class Model(nn.Module):
    """A convolution, and a function behind it."""

    def __init__(self, function=None, channels=4):
        super().__init__()
        self.conv = whole_numbers(nn.Conv1d(4, channels, 3, padding=1))
        if function is not None:
            self._function = function

    def __call__(self, x):
        return self._function(self.conv(x))


class Shaped(Model):
    def __call__(self, x):
        y = self.conv(x)
        n, length, c = y.shape
        assert (y.ndim, y.size, len(y)) == (3, n * length * c, n)
        assert y.dtype == mx.float32
        half = y.astype(mx.float16).astype(y.dtype)
        return (half.transpose(0, 2, 1).reshape(n, c, length) * 2).swapaxes(1, 2)


class FromTheLeft(Model):
    """MLX does not ask the right operand: it must be an array."""

    def __call__(self, x):
        scale = mx.array([1.0, 2.0, 3.0, 4.0])
        y = self.conv(x)
        return scale * y + mx.array(2.0) - scale - y / mx.array(2.0) + mx.where(scale > 2, y, 0)


class Asking(Model):
    """A stand-in for the signal would take the other branch, without a word."""

    def __call__(self, x):
        y = self.conv(x)
        if not isinstance(x, mx.array):
            y = y * 3
        if type(y) is not mx.array:
            y = y * 5
        same = mx.array([0.0, 1.0, -1.0, 2.0]) == y
        assert isinstance(same, mx.array)
        return y + same


class Keeping(Model):
    def __init__(self):
        super().__init__()
        self.history = []

    def __call__(self, x):
        self.last = x
        self.history.append(x)
        return self.conv(self.last)


class AsData(nn.Module):
    """Functions kept as data: of MLX, compiled ones, partials."""

    def __init__(self):
        super().__init__()
        self.act = nn.gelu
        self.clip = functools.partial(mx.clip, a_min=-2, a_max=2)
        self.inner = nn.Sequential(whole_numbers(nn.Conv1d(4, 4, 3)), mx.tanh, nn.silu)

    def __call__(self, x):
        return self.clip(self.act(self.inner(x)))


def decorated(call):
    @functools.wraps(call)
    def wrapped(self, *args, **kwargs):
        return call(self, *args, **kwargs) + 1

    return wrapped


class Decorated(Model):
    @decorated
    def __call__(self, x):
        return self.conv(x)


class Inherited(Decorated):
    def __call__(self, x):
        return 2 * super().__call__(x)


def evaluated(model):
    model.eval()
    for name in ("running_mean", "running_var", "weight", "bias"):
        model[name] = mx.abs(integers(4, seed=len(name))) + 1
    return model


class Snake(nn.Module):
    def __init__(self):
        super().__init__()
        self.alpha = mx.array([1.0, 0.5, 2.0, 1.5])

    def __call__(self, x):
        return x + (1.0 / (self.alpha + 1e-9)) * mx.power(mx.sin(self.alpha * x), 2)


class WeightNormed(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight_v, self.weight_g = integers(4, 7, 4), mx.ones((4, 1, 1))
        self.bias = integers(4)

    def __call__(self, x):
        norm = mx.sqrt(mx.sum(self.weight_v**2, axis=(1, 2), keepdims=True))
        weight = self.weight_g * self.weight_v / norm
        return mx.conv1d(mx.pad(x, [(0, 0), (6, 0), (0, 0)]), weight) + self.bias


class ChannelNorm(nn.Module):
    """Group norm of channels alone: each sample by itself."""

    def __init__(self, groups):
        super().__init__()
        self.groups = groups

    def __call__(self, x):
        n, length, c = x.shape
        y = x.reshape(n, length, self.groups, c // self.groups)
        mean = mx.mean(y, axis=-1, keepdims=True)
        y = (y - mean) * mx.rsqrt(mx.var(y, axis=-1, keepdims=True) + 1e-5)
        return y.reshape(n, length, c)


def causal(y):
    return mx.pad(y, [(0, 0), (5, 0), (0, 0)])[:, :-5]


def shuffled(y):
    n, length, c = y.shape
    return y.reshape(n, length * 2, c // 2)


def unshuffled(y):
    n, length, c = y.shape
    return y.reshape(n, length // 3, c * 3)


def shuffled_channels_first(y):
    """As PyTorch's pixel shuffle in 1D, (N, C, L)."""
    y = y.transpose(0, 2, 1)
    n, c, length = y.shape
    y = y.reshape(n, c // 2, 2, length).transpose(0, 1, 3, 2)
    return y.reshape(n, c // 2, length * 2).transpose(0, 2, 1)


def zeros_between(y):
    n, length, c = y.shape
    return mx.stack([y, mx.zeros_like(y)], 2).reshape(n, 2 * length, c)


def reflected(y):
    return mx.concatenate([y[:, 3:0:-1], y, y[:, -2:-5:-1]], 1)


def edged(y):
    return mx.pad(y, [(0, 0), (3, 2), (0, 0)], mode="edge")


def conditioned(y):
    return y * 2 + y[:, :1]


def trimmed_up(y):
    return mx.conv_transpose1d(y, integers(4, 4, 4), stride=2)[:, 1:-1]


EXACT = {
    "shape, transpose, dtype": Shaped(),
    "array * signal": FromTheLeft(),
    "isinstance, type, ==": Asking(),
    "decorated": Decorated(),
    "inherited": Inherited(),
    "a causal trim": Model(causal),
    "a pixel shuffle": Model(shuffled),
    "a pixel shuffle of (N, C, L)": Model(shuffled_channels_first),
    "repeat": Model(lambda y: mx.repeat(y, 3, axis=1)),
    "repeat of (N, C, L)": Model(lambda y: mx.repeat(y.swapaxes(1, 2), 3, -1).swapaxes(1, 2)),
    "nearest upsampling": Model(nn.Upsample(2.0)),
    "zeros between": Model(zeros_between),
    "a reflect pad": Model(reflected),
    "an edge pad": Model(edged),
    "an edge pad and a crop": Model(lambda y: edged(y)[:, 2:-4]),
    "the first frame": Model(conditioned),
    "the last frame": Model(lambda y: y + y[:, -1:]),
    "every second": Model(lambda y: y[:, ::2]),
    "every third from the second": Model(lambda y: y[:, 1::3]),
    "a transposed convolution, trimmed": Model(trimmed_up),
    "maxima of channels": Model(lambda y: mx.concatenate([y, mx.max(y, 2, keepdims=True)], 2)),
    "a mask of the ends": Model(
        lambda y: mx.where((mx.arange(y.shape[1]) < y.shape[1] - 2)[:, None], y, 0)
    ),
    "stacked branches": Model(lambda y: mx.stack([y, causal(y)], 1).sum(1)),
    "a difference": Model(lambda y: y[:, 1:] - y[:, :-1]),
    "a concatenation of delays": Model(
        lambda y: mx.concatenate([y[:, 2:], y[:, 1:-1], y[:, :-2]], -1)
    ),
    "a window by slices": Model(
        lambda y: mx.stack([y[:, k : y.shape[1] - 4 + k] for k in range(5)], 2).sum(2)
    ),
    "an einsum": Model(lambda y: mx.einsum("nlc,dc->nld", y, integers(6, 4))),
    "an update in place": Model(lambda y: _set_channel(y)),
}


def _set_channel(y):
    y = mx.array(y)
    y[:, :, 1:3] = y[:, :, :2] * 2
    return y


CLOSE_TO = {
    "functions as data": AsData(),
    "BatchNorm in eval": Model(evaluated(nn.BatchNorm(4))),
    "LayerNorm": Model(nn.LayerNorm(4)),
    "RMSNorm": Model(nn.RMSNorm(4)),
    "a norm over groups of channels": Model(ChannelNorm(2)),
    "Snake": Model(Snake()),
    "GLU": Model(nn.GLU(), 8),
    "weight norm": Model(WeightNormed()),
    "PReLU, ELU, Softplus": Model(nn.Sequential(nn.PReLU(), nn.ELU(), nn.Softplus())),
    "a softmax over channels": Model(lambda y: mx.softmax(y, axis=-1)),
    "a compiled function": Model(mx.compile(lambda y: mx.exp(-mx.abs(y)) + 1)),
}


@pytest.mark.parametrize("name", EXACT)
def test_a_model_streams_to_the_bit(name):
    model = EXACT[name]
    x = integers(2, 37, 4)
    assert_streams(model, x, SIZES, example=mx.zeros((2, 37, 4)))


@pytest.mark.parametrize("name", CLOSE_TO)
def test_a_model_of_functions_that_are_not_exact_streams(name):
    assert_streams(CLOSE_TO[name], X, SIZES, CLOSE, mx.zeros((2, 37, 4)))


def test_a_model_that_keeps_its_input_keeps_none_of_a_trace():
    model = Keeping()
    assert_streams(model, X, SIZES)
    assert [x.shape for x in model.history] == [X.shape]  # of the whole alone
    assert mx.array_equal(model.last, X)


class ChannelsFirst(nn.Module):
    """As codecs are that were ported from PyTorch: each layer turns time and channels."""

    def __init__(self):
        super().__init__()
        self.first = whole_numbers(nn.Conv1d(4, 6, 7, padding=3))
        self.up = whole_numbers(nn.ConvTranspose1d(6, 4, 4, stride=2))
        self.scale = integers(1, 4, 1)

    def __call__(self, x):
        y = self.first(x.swapaxes(1, 2)).swapaxes(1, 2)
        y = self.up(y.transpose(0, 2, 1)).transpose(0, 2, 1)[:, :, : 2 * x.shape[2]]
        return y * self.scale + mx.repeat(x, 2, axis=2)


def test_a_model_of_channels_first_streams_along_axis_2():
    x = integers(1, 4, 23)
    assert_streams(ChannelsFirst(), x, SIZES, example=x, axes=(2, 2))
    assert polyconv.stream(ChannelsFirst(), x, axis=-1).step(x).ndim == 3


@pytest.mark.parametrize("padding", [([-1], [0]), ([0], [-3]), ([-3], [-2]), ([-4], [5])])
@pytest.mark.parametrize("dilation", [1, 2, 3])
def test_negative_padding_crops_the_dilated_input(padding, dilation):
    """MLX crops the input itself. What is traced must be what polyconv computes."""
    w = integers(4, 3, 4)

    def model(x):
        return polyconv.conv_general(x, w, 2, padding, 2, dilation)

    assert_streams(model, X, SIZES, example=X)


def test_time_may_be_in_another_axis_of_the_output():
    model = Model(lambda y: y.transpose(1, 0, 2)[:, :, None])
    assert_streams(model, X, SIZES, example=X, axes=(1, 0))


@pytest.mark.parametrize("time", [1, 2])
def test_a_convolution_in_2d_streams_along_one_of_its_axes(time):
    conv = whole_numbers(nn.Conv2d(2, 3, (3, 5), padding=(1, 2)))
    up = whole_numbers(nn.ConvTranspose2d(3, 2, (3, 4), stride=(1, 2)))

    def model(x):
        y = nn.relu(up(conv(x)))
        return y.transpose(0, 2, 1, 3).flatten(2)

    x = integers(1, *((23, 6) if time == 1 else (6, 23)), 2)
    assert_streams(model, x, SIZES, example=x, axes=(time, 3 - time))


def test_codes_go_through_an_embedding():
    table = nn.Embedding(9, 4)
    table.weight = integers(9, 4)
    model = Model(channels=2)
    codes = mx.arange(46).reshape(2, 23) * 5 % 9
    assert_streams(lambda c: model.conv(table(c)), codes, SIZES, example=codes)
    assert_streams(lambda c: model.conv(table.weight[c]), codes, SIZES, example=codes)


class InverseSTFT(nn.Module):
    """Frames, windowed and added up with `at[].add`, divided by the sum of the windows."""

    def __init__(self, size=16, hop=4):
        super().__init__()
        self.size, self.hop = size, hop
        self.head = nn.Linear(4, 2 * (size // 2 + 1))

    def __call__(self, x):
        y = self.head(x)
        real, imaginary = mx.split(y, 2, -1)
        window = 0.5 - 0.5 * mx.cos(2 * math.pi * mx.arange(self.size) / self.size)
        frames = mx.fft.irfft(real + 1j * imaginary, axis=-1) * window
        n = frames.shape[1]
        total = (n - 1) * self.hop + self.size
        at = (mx.arange(n)[:, None] * self.hop + mx.arange(self.size)).flatten()
        sound = mx.zeros((total,)).at[at].add(frames[0].flatten())
        norm = mx.zeros((total,)).at[at].add(mx.tile(window**2, n))
        cut = self.size // 2
        return (sound / mx.maximum(norm, 1e-8))[None, cut:-cut]


def test_an_inverse_stft_by_overlap_add_streams():
    assert_streams(InverseSTFT(), integers(1, 23, 4), SIZES, CLOSE, mx.zeros((1, 23, 4)))


def test_what_depends_on_the_length_is_computed_on_the_cpu(monkeypatch):
    """A GPU adds up what meets at a place in any order, so that no period is alike in its bits."""
    own, own_stream, noise, where = primitives.updated, mx.stream, np.random.default_rng(0), []

    @contextlib.contextmanager
    def stream(device):
        where.append(device)
        with own_stream(device):
            yield
        where.pop()

    def rounded(*args):
        y = own(*args)
        return y if where else y * mx.array(1 + 1e-6 * noise.random(y.shape), y.dtype)

    monkeypatch.setattr(mx, "stream", stream)
    monkeypatch.setattr(primitives, "updated", rounded)
    polyconv.stream(InverseSTFT(), mx.zeros((1, 23, 4)))


def test_a_function_of_one_array_streams_and_need_not_be_a_module():
    w = integers(4, 5, 4)
    assert_streams(lambda x: mx.conv1d(x, w, padding=2) - x, X, SIZES, example=X)
    assert_streams(functools.partial(mx.multiply, w[0, 0]), X, SIZES, example=X)


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("kind", [nn.GRU, nn.LSTM, nn.RNN])
def test_recurrent_layers_go_on_where_they_were(kind, batch):
    layer = kind(4, 4)

    def model(x):
        y = layer(x)
        return (y[0] if isinstance(y, tuple) else y) + x

    assert_streams(model, X[:batch], SIZES, CLOSE, X[:batch])


def test_samples_of_a_constant_in_front_are_cut_in_channels_too():
    def model(x):
        y = mx.concatenate([mx.ones((x.shape[0], 4, 4)), x], 1)
        return x[:, :, :2] + y[:, :1, :2] * y[:, 1:2, 2:]

    assert_streams(model, X, SIZES, example=X)


def test_pieces_without_samples_stream():
    """As a layer pads that has nothing to pad: `x[:, 1 : 1 + n]` in front, turned, and behind."""

    def padded(x):
        last = max(x.shape[1] - 1, 0)
        return mx.concatenate([x[:, 1:1][:, ::-1], x, x[:, last:-1][:, ::-1]], 1) + x[:, :0].sum()

    assert_streams(Model(padded), X, SIZES, example=X)
    assert_streams(lambda x: mx.concatenate([x[:, :0], x], 1), X, SIZES, example=X)


class OwnLSTM(nn.Module):
    """As codecs write it: a loop of its own, which gives what is hidden and keeps the cells."""

    def __init__(self, gates="ifgo"):
        super().__init__()
        self.hidden_size, self._gates, self._n_calls = 4, gates, 0
        self.Wx, self.Wh, self.bias = [mx.random.normal(each) for each in [(16, 4), (16, 4), (16,)]]

    def __call__(self, x, hidden=None, cell=None):
        self._n_calls += 1
        cell = mx.zeros((len(x), 4)) if cell is None else cell
        hidden, found = mx.zeros((len(x), 4)) if hidden is None else hidden, []
        for t in range(x.shape[1]):
            parts = mx.split(x[:, t] @ self.Wx.T + self.bias + hidden @ self.Wh.T, 4, axis=-1)
            i, f, g, o = [parts[self._gates.index(gate)] for gate in "ifgo"]
            cell = mx.sigmoid(f) * cell + mx.sigmoid(i) * mx.tanh(g)
            hidden = mx.sigmoid(o) * mx.tanh(cell)
            found.append(hidden)
        return mx.stack(found, 1)


def test_a_layer_of_others_that_computes_an_lstm_streams():
    model = Model(OwnLSTM())
    assert_streams(model, X, SIZES, CLOSE, X)
    called = OwnLSTM()
    polyconv.stream(called, X)
    assert called._n_calls == 0
    assert "__call__" in vars(OwnLSTM)
    assert vars(OwnLSTM)["__call__"].__qualname__ == "OwnLSTM.__call__"


def test_a_layer_that_only_looks_like_an_lstm_is_refused():
    with pytest.raises(ValueError, match="another way at another length"):
        polyconv.stream(Model(OwnLSTM("figo")), X)


@pytest.mark.parametrize("dtype", [mx.float16, mx.bfloat16, mx.int32])
def test_other_types_stream(dtype):
    x = integers(2, 37, 4).astype(dtype)
    assert_streams(lambda x: mx.repeat(x[:, 1:] - 2 * x[:, :-1], 2, axis=1), x, SIZES, example=x)


def test_a_model_that_takes_multiples_alone_is_traced_at_those_of_the_example():
    x = integers(2, 36, 4)
    assert_streams(Model(unshuffled), x, SIZES, example=x)


# What cannot be streamed.

TABLE = nn.Embedding(99, 4)


def attention(y):
    return mx.fast.scaled_dot_product_attention(y[:, None], y[:, None], y[:, None], scale=1.0)[:, 0]


REFUSED = {
    "attention": (attention, "Matmul combines every sample with every other"),
    "softmax over time": (lambda y: mx.softmax(y.swapaxes(1, 2), -1), "Softmax over time"),
    "softmax over axis 1": (lambda y: mx.softmax(y, 1), "Reduce over time"),
    "mean": (lambda y: y - y.mean(1, keepdims=True), "Reduce over time"),
    "a peak": (lambda y: y / mx.abs(y).max(), "Reduce over time"),
    "instance norm": (nn.InstanceNorm(4), "Reduce over time"),
    "group norm": (nn.GroupNorm(2, 4), "Reduce over time"),
    "BatchNorm in training": (nn.BatchNorm(4), "Reduce over time"),
    "random numbers": (lambda y: y + mx.random.normal(y.shape), "random numbers are drawn"),
    "random numbers per channel": (lambda y: y * mx.random.normal((4,)), "random numbers"),
    "random numbers of a key": (
        lambda y: y + mx.random.normal(y.shape, key=mx.random.key(0)),
        "random numbers are drawn",
    ),
    "dropout": (nn.Dropout(0.5), "random numbers are drawn"),
    "item": (lambda y: y * y.max().item(), "looks at the numbers of the signal"),
    "if": (lambda y: y if y.sum() > 0 else -y, "looks at the numbers of the signal"),
    "tolist": (lambda y: mx.array(y.tolist()), "looks at the numbers of the signal"),
    "eval": (lambda y: mx.eval(y) or y, "looks at the numbers of the signal"),
    "the length": (lambda y: y / y.shape[1], "Divide meets numbers that depend on the time"),
    "positions": (lambda y: y + mx.arange(y.shape[1])[:, None], "Add meets numbers that depend"),
    "an embedding of positions": (
        lambda y: y + TABLE(mx.arange(y.shape[1])),
        "Add meets numbers that depend on",
    ),
    "reversed": (lambda y: y[:, ::-1], "Slice turns time around"),
    "cumsum": (lambda y: mx.cumsum(y, 1), "Scan over time"),
    "sorted": (lambda y: mx.sort(y, 1), "Sort over time"),
    "its Gram matrix": (lambda y: y.swapaxes(1, 2) @ y, "Matmul sums over time"),
    "rfft": (lambda y: mx.abs(mx.fft.rfft(y, axis=1)), "FFT over time"),
    "twice": (lambda y: mx.concatenate([y, y], 1), "Concatenate puts one signal behind another"),
    "a few samples": (lambda y: y[:, :5], "the output does not grow with the input"),
    "half of it": (
        lambda y: y[:, : y.shape[1] // 2],
        "Slice at a place that depends on the length",
    ),
    "a pad to a multiple": (
        lambda y: mx.pad(y, [(0, 0), (0, -y.shape[1] % 4), (0, 0)]),
        "Pad by numbers that depend on the length",
    ),
    "its own filter": (lambda y: mx.conv1d(y, y[0, :3, None]), "by weights that depend on"),
    "two outputs": (lambda y: (y, y), "must give one array"),
}


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.parametrize("check", [True, False])
def test_what_needs_all_of_time_is_refused_for_its_reason(name, check):
    function, told = REFUSED[name]
    with pytest.raises(ValueError, match=rf"^\[stream\] [^\n]*{told}"):
        polyconv.stream(Model(function), mx.zeros((2, 40, 4)), check=check)


@pytest.mark.parametrize("length", [40, 64])
@pytest.mark.parametrize("least", [35, 64])
def test_a_branch_on_the_length_is_not_overlooked(length, least):
    """Also where the model takes one way alone at the lengths that are traced instead."""

    def model(x):
        return x * 2 if x.shape[1] > least else mx.tanh(x)

    told = {True: "chunks must give what the model gives", False: "another way at another length"}
    with pytest.raises(ValueError, match=told[True]):
        polyconv.stream(model, mx.zeros((1, length, 4)))
    if least == 64:  # else no trace sees it
        with pytest.raises(ValueError, match=told[False]):
            polyconv.stream(model, mx.zeros((1, length, 4)), check=False)


@pytest.mark.parametrize("check", [True, False])
def test_a_branch_of_the_same_operations_is_not_overlooked(check):
    def model(x):
        return mx.exp(x) - mx.sin(x) if x.shape[1] < 65 else mx.exp(x) - mx.sin(mx.exp(x))

    with pytest.raises(ValueError, match="chunks must give" if check else "another way at"):
        polyconv.stream(model, X, check=check)


def test_a_number_made_of_the_length_may_be_alike_another():
    """As 79 % 5 = 4, and MLX merges both."""
    told = r"Add meets numbers|another way at another length"
    for model in (lambda x: x * 4 + x.shape[1] % 5, lambda x: mx.clip(x, -8, 4) + x.shape[1] % 5):
        with pytest.raises(ValueError, match=told):
            polyconv.stream(model, X, check=False)


def test_a_branch_between_the_traced_lengths_is_found_by_the_proof():
    def model(x):
        return x * 2 if 25 < x.shape[1] < 35 else x * 3

    with pytest.raises(ValueError, match="chunks must give what the model gives at once"):
        polyconv.stream(model, mx.zeros((1, 64, 4)))
    assert polyconv.stream(model, mx.zeros((1, 64, 4)), check=False)


def test_an_input_may_not_end_where_the_model_would_not_take_it():
    streamed = polyconv.stream(lambda x: x.reshape(1, -1, 12), mx.zeros((1, 30, 4)))
    assert streamed.step(integers(1, 7, 4)).shape == (1, 2, 12)
    with pytest.raises(ValueError, match=r"must not end here; got .*a multiple of 3 samples"):
        streamed.flush()
    assert streamed.step(integers(1, 2, 4)).shape == (1, 1, 12)
    assert streamed.flush().shape == (1, 0, 12)


@pytest.mark.parametrize("length", range(7))
def test_a_crop_does_not_reach_into_the_padding_on_the_other_side(length):
    def model(y):
        return mx.pad(y, [(0, 0), (6, 2), (0, 0)])[:, 4:-5]

    streamed, x = polyconv.stream(model, X), integers(2, length, 4)
    first = streamed.step(x)
    if length < 3:
        with pytest.raises(ValueError, match="at least 3 samples"):
            streamed.flush()
    else:
        assert mx.array_equal(mx.concatenate([first, streamed.flush()], 1), model(x))


def test_chunks_may_be_one_sample_each():
    model = Model(lambda y: causal(mx.repeat(y, 2, axis=1))[:, ::3])
    streamed = polyconv.stream(model, X)
    found = mx.concatenate(list(chunks(streamed, X, (1,) * 36)), 1)
    assert mx.array_equal(found, model(X))
