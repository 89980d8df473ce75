"""`stream(model)`: chunks give the whole, and what cannot be is named."""

from __future__ import annotations

import copy

import mlx.core as mx
import mlx.nn as nn
import pytest
from hifigan import VARIANTS, Generator, PolyConv1d, seed_weights
from hypothesis import given, settings
from hypothesis import strategies as st

import polyconv
from tests.support.cases import integers
from tests.support.models import Louder, Trimmed, WeightNorm
from tests.support.refusals import skip_where_mlx_finds_no_memory
from tests.support.streams import assert_streams, chunks, whole_numbers


class Residual(nn.Module):
    """Branches of different delay, a crop, padding in front alone, a helper of the module."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv1d(4, 4, 7, padding=3), nn.Conv1d(4, 4, 5)
        self.up = Trimmed(4, 4, 4, 2, output_padding=2)
        self.scale = mx.array([1.0, 2.0, 3.0, 4.0])

    def causal(self, x):
        return self.b(mx.pad(x, [(0, 0), (4, 0), (0, 0)]))

    def __call__(self, x):
        y = nn.relu(self.a(x)) * self.scale + x - 2 * self.causal(x)
        return -clipped(self.up(y / 2)[:, 1:-2])


def clipped(x):
    return mx.maximum(x, -1000.0) + 0.5


class Sums(nn.Module):
    def __init__(self):
        super().__init__()
        self.parts = [nn.Conv1d(4, 4, k, padding=k // 2) for k in (1, 3, 7)]
        self.last = nn.Sequential(nn.LeakyReLU(0.5), nn.Linear(4, 3), Louder(3, 2))

    def __call__(self, x):
        return self.last(sum(part(x) for part in self.parts))


@settings(max_examples=40)
@given(st.sampled_from((Residual, Sums)), st.lists(st.integers(0, 6), max_size=8))
def test_models_give_the_whole_by_any_chunks(kind, sizes):
    assert_streams(whole_numbers(kind()), integers(2, max(1, sum(sizes)) + 2, 4), sizes)


@pytest.mark.parametrize("converted", [False, True])
def test_layers_with_weight_norm_and_subclasses(converted):
    model = whole_numbers(nn.Sequential(WeightNorm(4, 2), Trimmed(4, 4, 4, 2, output_padding=2)))
    if converted:
        polyconv.convert(model)
    assert_streams(model, integers(1, 7, 4), (1, 0, 3))
    assert bool(polyconv.revert(model)) == converted


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_hifi_gan_generator_streams_unedited(variant):
    if variant == "v2":  # one of its convolutions
        skip_where_mlx_finds_no_memory((1, 192, 64), (64, 7, 64), padding=3)
    generator = Generator(VARIANTS[variant], polyconv.PolyConvTranspose1d, PolyConv1d)
    seed_weights(generator)
    before = {id(module): type(module) for module in generator.modules()}
    mel = mx.random.normal((1, 24, 80), key=mx.random.key(0))
    assert_streams(generator, mel, (1, 0, 5, 9), tolerance=1e-5)
    assert {id(module): type(module) for module in generator.modules()} == before


class Attending(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.MultiHeadAttention(4, 2)

    def __call__(self, x):
        return self.inner(x, x, x)


class Measuring(nn.Module):
    def __call__(self, x):
        return x.reshape(x.shape[0], -1)


class Aliased(nn.Module):
    """`+=` changes an array in place, and comparisons are functions of each sample."""

    def __init__(self):
        super().__init__()
        self.c = nn.Conv1d(4, 4, 3, padding=1)

    def __call__(self, x):
        h = self.c(x)
        r = h
        h += self.c(h)
        h = mx.where(h > 0, h, 0.0) + mx.where(x == 0, 1.0, x)
        return h * 2 + r


def test_signals_are_changed_in_place_and_compared_as_arrays_are():
    assert_streams(whole_numbers(Aliased()), integers(1, 9, 4), (1, 0, 3))


class Choosing(nn.Module):
    def __call__(self, x):
        return -x if x.sum() else x


class Noisy(nn.Module):
    def __call__(self, x):
        return x + mx.random.normal((4,))


class Averaging(nn.Module):
    def __call__(self, x):
        return x - mx.mean(x, axis=1, keepdims=True)


class Halving(nn.Module):
    def __call__(self, x):
        return x[:, ::2]


@pytest.mark.parametrize(
    ("model", "told"),
    [
        (
            nn.Sequential(Attending()),
            r"layers\.0\.inner \(MultiHeadAttention\): Matmul comb",
        ),
        (nn.Sequential(nn.Linear(4, 4), Averaging()), r"layers\.1 \(Averaging\): Reduce over time"),
        (nn.Sequential(nn.GroupNorm(2, 4)), r"layers\.0 \(GroupNorm\): Reduce over time"),
        (Choosing(), r"model \(Choosing\): its code looks at the numbers of the signal"),
        (nn.Sequential(Noisy()), r"layers\.0 \(Noisy\): random numbers are drawn"),
        (nn.Sequential(nn.GLU(axis=1)), r"layers\.0 \(GLU\): Split of a signal in time"),
    ],
)
def test_what_cannot_be_streamed_is_named_with_its_path(model, told):
    with pytest.raises(ValueError, match=told):
        polyconv.stream(model, mx.zeros((1, 16, 4)))


def test_a_reshape_and_steps_in_time_stream():
    x = integers(1, 11, 4)
    for model, axis in ((Measuring(), 1), (Halving(), 1)):
        streamed, whole = polyconv.stream(model, x), model(x)
        found = mx.concatenate(list(chunks(streamed, x, (1, 0, 4))), axis)
        assert found.shape == whole.shape
        assert mx.array_equal(found, whole)


def test_a_wrong_chunk_is_refused_and_the_stream_goes_on():
    streamed, x = polyconv.stream(nn.Sequential(nn.Conv1d(4, 4, 3))), integers(1, 5, 4)
    first = streamed.step(x)
    for wrong in (mx.zeros((3, 4, 4)), mx.zeros((4, 4)), None):
        with pytest.raises(ValueError, match="x must"):
            streamed.step(wrong)
    assert mx.concatenate([first, streamed.flush()], 1).shape == (1, 3, 4)


def test_a_flush_needs_a_step_and_a_reset_forgets():
    streamed = polyconv.stream(nn.Sequential(nn.Conv1d(4, 4, 3, padding=1)))
    with pytest.raises(ValueError, match="flush must come after a step"):
        streamed.flush()
    first = streamed.step(mx.ones((1, 3, 4)))
    streamed.reset_state()
    assert mx.array_equal(streamed.step(mx.ones((1, 3, 4))), first)


def test_a_copy_that_begins_anew_leaves_the_first_alone():
    model, x = whole_numbers(nn.Sequential(nn.Conv1d(4, 4, 3, padding=1))), integers(1, 9, 4)
    streamed = polyconv.stream(model, x)
    found = [streamed.step(x[:, :4])]
    copied = copy.deepcopy(streamed)
    copied.reset_state()
    again = mx.concatenate(list(chunks(copied, x, (2,))), 1)
    found += [streamed.step(x[:, 4:]), streamed.flush()]
    assert mx.array_equal(again, model(x))
    assert mx.array_equal(mx.concatenate(found, 1), model(x))


@pytest.mark.parametrize("stride", range(1, 9))
@pytest.mark.parametrize("transposed", [False, True])
def test_a_latency_is_that_of_the_layer_at_any_rate(stride, transposed):
    kind = polyconv.StreamingConvTranspose1d if transposed else polyconv.StreamingConv1d
    layer = kind(4, 4, stride + 3, stride, 1)
    streamed = polyconv.stream(layer, mx.zeros((1, 64, 4)))
    assert streamed.latency == layer.latency
    assert streamed.behind == 0
    given = streamed.step(mx.zeros((1, 8 * stride, 4))).shape[1]
    assert streamed.behind == (8 * stride**2 if transposed else 8) - given == layer.latency[0]


def test_a_streamed_model_keeps_what_it_was_made_from():
    model = whole_numbers(nn.Sequential(nn.Conv1d(4, 4, 3), nn.Linear(4, 4), Residual()))
    x, streamed = integers(1, 9, 4), polyconv.stream(model)
    expected = model(x)
    for _, module in model.named_modules():
        for name in ("weight", "bias", "scale"):
            if name in module:
                module[name] += 1
    assert not mx.array_equal(model(x), expected)
    assert mx.array_equal(mx.concatenate(list(chunks(streamed, x, (2,))), 1), expected)
