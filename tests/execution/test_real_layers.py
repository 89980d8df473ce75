"""Every layer of `real_layers.csv`, by MLX and by every method, as long as MLX can finish."""

from __future__ import annotations

from math import prod
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

import polyconv
from polyconv.bench.cases import read
from polyconv.planning.methods import METHODS

LAYERS = read(Path(__file__).parents[1] / "data" / "real_layers.csv")
_MOST = 3e7  # multiply-accumulates of MLX's loops, and looks at inserted zeros


def shortened(layer, most):
    """The input's shape, cut to as many samples as keep MLX's own op within the bound."""
    n, *sizes, channels = layer["input"]
    per_sample = prod(layer["weight"]) + prod(layer["weight"][:-1]) * prod(layer["stride"])
    size = max(2, int((most / per_sample / n) ** (1 / len(sizes))))
    return (n, *[min(size, each) for each in sizes], channels)


def narrowed(layer):
    """The layer with a sixteenth of its channels, and one item, but with its groups."""
    (_, *sizes, _), (out, *kernel, per_group) = layer["input"], layer["weight"]
    groups, narrow = layer["groups"], -(-per_group // 16)
    makes = -(-out // groups // 16)
    if per_group == 1:  # depthwise
        groups = -(-groups // 16)
    shapes = {"input": (1, *sizes, groups * narrow), "weight": (groups * makes, *kernel, narrow)}
    return {**layer, **shapes, "groups": groups}


@pytest.mark.parametrize("layer", LAYERS, ids=[layer["name"] for layer in LAYERS])
def test_every_real_layer_made_narrow_by_every_method_is_mlx_s(layer):
    check(narrowed(layer), _MOST / 100)


@pytest.mark.slow
@pytest.mark.parametrize("layer", LAYERS, ids=[layer["name"] for layer in LAYERS])
def test_every_real_layer_by_every_method_is_mlx_s(layer):
    check(layer, _MOST)


def check(layer, most):
    rng = np.random.default_rng(0)
    shapes = shortened(layer, most), layer["weight"]
    x, w = (mx.array(rng.integers(-2, 3, shape).astype(np.float32)) for shape in shapes)
    options = {
        name: layer[name] if x.ndim > 3 else layer[name][0]
        for name in ("stride", "padding", "output_padding", "dilation")
    }
    groups = {"groups": layer["groups"]}
    try:
        expected = np.array(getattr(mx, layer["op"])(x, w, **options, **groups))
    except ValueError:  # groups in 3D
        expected = np.array(getattr(polyconv, layer["op"])(x, w, **options, **groups))
    tried = 0
    for method in ("auto", *METHODS):
        try:
            got = getattr(polyconv, layer["op"])(x, w, **options, **groups, method=method)
        except ValueError as error:
            assert "method must suit" in str(error)
            continue
        assert np.array_equal(np.array(got), expected), method
        tried += 1
    assert tried >= 3
