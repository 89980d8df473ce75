"""The streaming layers: chunks give the whole, and the weight that a layer has is used."""

from __future__ import annotations

import copy

import mlx.core as mx
import mlx.nn as nn
import pytest

import polyconv
from polyconv.streaming import layers
from tests.support.cases import integers
from tests.support.streams import assert_streams, whole_numbers

LAYERS = (
    lambda: polyconv.StreamingConvTranspose1d(4, 3, 16, 8, 4),
    lambda: polyconv.StreamingConv1d(4, 3, 7, padding=9, dilation=3),
    lambda: polyconv.StreamingConv1d(4, 4, 5, stride=2, groups=2, causal=True, bias=False),
)


@pytest.mark.parametrize("make", LAYERS)
def test_streaming_layers(make):
    layer, x = whole_numbers(make()), integers(2, 9, 4)
    whole = layer(x)
    cache = layer.make_cache()
    for own in (None, cache, None):
        pieces = [layer.step(x[:, a:b], own) for a, b in ((0, 1), (1, 1), (1, 6), (6, 9))]
        assert mx.array_equal(mx.concatenate([*pieces, layer.flush(own)], 1), whole)
    layer.step(x)
    layer.reset_state()
    first = layer.step(x[:, :4])
    layer.reset_state()
    assert mx.array_equal(layer.step(x[:, :4]), first)
    assert_streams(nn.Sequential(layer), x, (1, 3))
    twin = copy.deepcopy(layer)
    twin.reset_state()
    assert mx.array_equal(twin.step(x[:, :4]), first)
    assert [name for name, _ in layer.parameters().items()] == [
        name for name in ("weight", "bias") if name in layer
    ]


def added(layer):
    layer.weight += 1


def added_by_name(layer):
    w = layer.weight
    w += 1


def assigned(layer):
    layer.weight[0, 1] = layer.weight[0, 1] + 2


def taken_over(layer):
    layer.weight[:] = 1 - layer.weight


def repeated(layer):
    """Its numbers begin where they did, and lie otherwise."""
    layer.weight[:] = layer.weight[:1]


@pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16, mx.float16])
@pytest.mark.parametrize("change", [added, added_by_name, assigned, taken_over, repeated])
def test_a_weight_that_is_changed_in_place_is_used(change, dtype):
    layer, x = LAYERS[0](), integers(2, 5, 4).astype(dtype)
    layer.weight = integers(3, 16, 4, seed=3).astype(dtype)
    layer.bias = mx.zeros(3, dtype)
    for _ in range(3):
        y = mx.concatenate([layer.step(x[:, :2]), layer.step(x[:, 2:]), layer.flush()], 1)
        assert mx.array_equal(y, polyconv.conv_transpose1d(x, mx.array(layer.weight), 8, 4))
        change(layer)


def test_a_weight_is_cut_up_once_for_all_chunks(monkeypatch):
    made = []
    monkeypatch.setattr(layers, "pack", lambda w: made.append(1) or polyconv.pack(w))
    for weight in (integers(3, 16, 4), integers(4, 16, 3).T.astype(mx.bfloat16)):
        layer, x = LAYERS[0](), integers(1, 4, 4)
        layer.weight = weight
        for _ in range(5):
            layer.step(x)
        made.append("next")
    assert made == [1, "next", 1, "next"]


def test_a_weight_that_takes_another_s_place_is_used():
    layer, x = LAYERS[0](), integers(1, 4, 4)
    layer.step(x)
    layer.reset_state()
    layer.weight = integers(3, 16, 4)
    y = mx.concatenate([layer.step(x), layer.flush()], 1)
    assert mx.array_equal(y, layer(x))
