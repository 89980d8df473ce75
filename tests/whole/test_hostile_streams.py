"""Hostile input to streams, streamed models and resampling."""

from unittest import mock

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

import polyconv
from tests.campaigns import fuzz_inputs
from tests.support.refusals import refused

X, W = mx.ones((1, 6, 4)), mx.ones((2, 3, 4))


@pytest.mark.parametrize(
    ("name", "value"),
    [("in_channels", "x" * 99), ("kernel_size", np.ones((2, 0))), ("stride", None), ("bias", 1)],
)
def test_streaming_convolutions_read_their_arguments(name, value):
    refused(
        polyconv.StreamingConv1d,
        **{"in_channels": 1, "out_channels": 1, "kernel_size": 3, name: value},
    )


@pytest.mark.usefixtures("on_cpu")  # whose room is its memory
def test_a_stream_refuses_states_caches_and_resets_that_are_none():
    state = polyconv.stream_init("conv_transpose1d", W, stride=2)
    for field, value in {
        "tail": mx.ones((1, 9, 4)),
        "position": 10**30,
        "timeline": (3, 1, 2, 1, 0, 0),
        "groups": "1",
        "flip": None,
    }.items():
        text = refused(polyconv.stream_step, state._replace(**{field: value}), X, W)
        assert "state must be one that stream_init made" in text
    for reset in (True, mx.array([1]), mx.array([True, False])):
        assert "reset must be" in refused(polyconv.stream_step, state, X, W, reset=reset)
    layer = polyconv.StreamingConv1d(4, 2, 3)
    for cache in (3, "cache"):
        assert "cache must be a StreamCache" in refused(layer.step, X, cache)
    cache = polyconv.StreamCache()
    cache.state = 3
    assert "cache must be a StreamCache" in refused(layer.flush, cache)
    assert "x must be float" in refused(polyconv.stream_init, "conv1d", W, dtype=mx.int32)
    assert "int32" in refused(polyconv.stream_init, "conv1d", W, dilation=2**40)
    assert "int32" in refused(polyconv.stream_init, "conv1d", W[:, :1], batch=10**18)
    with mock.patch("polyconv.execution.memory.memory_here", return_value=2**20):
        text = refused(polyconv.stream_init, "conv1d", W, dilation=2**18)
    assert "must fit into 1048576 bytes" in text


def test_a_model_that_multiplies_by_no_number_is_not_streamed():
    class Mine(nn.Module):
        def __call__(self, x):
            return x * [[2]]

    text = refused(polyconv.stream, Mine(), X)
    assert "model (Mine): " in text


@pytest.mark.parametrize(
    ("name", "value"),
    [("up", 2.5), ("mode", np.array(["wrap"])), ("axis", None), ("cval", "1"), ("cval", 10**400)],
)
def test_upfirdn_reads_its_arguments(name, value):
    refused(polyconv.upfirdn, [1.0], mx.ones((4,)), **{name: value})
    refused(polyconv.upfirdn, fuzz_inputs.Endless(), mx.ones((4,)))
    for taps in ([1j], [[0], []], [[1.0]], [10**400], None, "1"):
        refused(polyconv.upfirdn, taps, mx.ones((4,)))
    assert polyconv.upfirdn([1.0], mx.ones((4,)), axis=np.int64(0)).shape == (4,)


def test_resampling_reads_its_arguments():
    for more in ({"window": ("kaiser", "x")}, {"window": {}}, {"padtype": []}, {"cval": "x"}):
        refused(polyconv.resample_poly, mx.ones((4,)), 3, 2, **more)
    assert "must be at most" in refused(polyconv.resample_poly, mx.ones((4,)), 10**7, 3)
    stream = polyconv.ResampleStream(3, 2)
    for chunk in (None, "x", {}, [[1, 2, 3]], [1j]):
        refused(stream.resample_chunk, chunk)
    refused(stream.resample_chunk, [1.0], np.array([1, 2]))


def test_a_stream_goes_on_with_a_weight_of_its_kind():
    w = mx.ones((4, 6, 1))
    state = polyconv.stream_init("conv1d", w, stride=2, groups=2)
    text = refused(polyconv.stream_step, state, mx.ones((1, 1, 2)), mx.ones((1, 6, 1)))
    assert "output channels of weight must be divisible by groups=2" in text
    text = refused(polyconv.stream_step, state, mx.ones((1, 1, 2)), mx.ones((4, 6, 2)))
    assert "weight must read 1 channels" in text
    none, _ = polyconv.stream_step(state, mx.ones((1, 1, 2)).astype(mx.float32), w)
    half = polyconv.stream_init("conv1d", w, dtype=mx.float16, stride=2, groups=2)
    none, _ = polyconv.stream_step(half, mx.ones((1, 1, 2), mx.float16), w)
    assert none.shape == (1, 0, 4)
    assert none.dtype == mx.float32  # as that of all other chunks


def test_arguments_are_called_as_the_caller_calls_them():
    for rates, name in (((44100.0, 16000), "in_rate"), ((44100, 0), "out_rate")):
        assert refused(polyconv.ResampleStream, *rates).startswith(f"[ResampleStream] {name} must")
    told = refused(polyconv.ResampleStream, 10**7, 3)
    assert "out_rate and in_rate, without common divisors, must be at most" in told
    assert refused(polyconv.resample_poly, mx.ones(4), 2, 1.5).startswith("[resample_poly] down")


class Uncalled(nn.Module):
    """What holds layers for others to call. Counts its instances."""

    made = 0

    def __init__(self, *args):
        super().__init__()
        Uncalled.made += 1
        self.inner = nn.Conv1d(4, 4, 3)


class CallingUncalled(nn.Module):
    def __init__(self):
        super().__init__()
        self.block = Uncalled()

    def __call__(self, x):
        return self.block(x)


class ReachingInto(CallingUncalled):
    def __call__(self, x):
        return self.block.inner(x)


def test_a_module_that_cannot_be_called_is_not_made_anew():
    models = [Uncalled(), CallingUncalled(), ReachingInto()]
    before = Uncalled.made
    told = refused(polyconv.stream, models[0])
    assert told == (
        "[stream] model must be a module or a function that can be called; "
        "got Uncalled, which has no __call__"
    )
    assert "'Uncalled' object is not callable" in refused(polyconv.stream, models[1])
    x = mx.ones((1, 9, 4))
    streamed = polyconv.stream(models[2])
    assert mx.concatenate([streamed.step(x), streamed.flush()], 1).shape == (1, 7, 4)
    assert Uncalled.made == before
