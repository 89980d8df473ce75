"""Weights that are cut into taps once."""

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

import polyconv
from polyconv.execution import packing
from polyconv.gradients import bilinear
from polyconv.planning.methods import METHODS
from tests.support.cases import NAMED, integers


@pytest.mark.parametrize("method", ["auto", *[m for m in METHODS if m != "native"]])
@pytest.mark.parametrize("name", NAMED)
def test_a_packed_weight_gives_the_same(name, method):
    if method == "stacked" and name.startswith("dilated, co"):
        pytest.skip("stacked cannot")
    case = NAMED[name]
    x, w = (mx.array(a) for a in case.data())
    packed = polyconv.pack(w)
    for _ in range(2):
        assert np.array_equal(np.array(case.call(x, packed, method)), case.reference())


@pytest.fixture
def cuts(monkeypatch):
    """How often a weight is cut up."""
    count = []
    cutter = packing.cutter
    monkeypatch.setattr(packing, "cutter", lambda *a: count.append(1) or cutter(*a))
    return count


def test_a_weight_is_cut_once_whatever_the_length(cuts):
    w = polyconv.pack(integers(6, 16, 4))
    for length in range(20, 220):
        x = integers(1, length, 4)
        y = polyconv.conv_transpose1d(x, w, 8, 4)
        assert y.shape == (1, 8 * length, 6)
    assert mx.array_equal(y, mx.conv_transpose1d(x, w.array, 8, 4))
    assert len(cuts) == 1


def test_two_ways_of_cutting_one_weight_are_kept_apart(cuts):
    w, x = polyconv.pack(integers(6, 5, 4)), integers(1, 9, 4)
    for stride in (2, 3, 2, 3):
        y = polyconv.conv_transpose1d(x, w, stride, method="stacked")
        assert mx.array_equal(y, mx.conv_transpose1d(x, w.array, stride))
    assert len(cuts) == 2


@pytest.mark.parametrize("name", ["hifigan", "groups", "2d 3x3 s2", "3d groups"])
def test_gradients_of_the_input_and_transforms(name):
    case = NAMED[name]
    x, w = (mx.array(a) for a in case.data())
    packed = polyconv.pack(w)
    loss = lambda w: lambda x: (case.call(x, w, "auto") ** 2).sum()  # noqa: E731
    expected = mx.grad(loss(w))(x)
    assert mx.array_equal(mx.grad(loss(packed))(x), expected)
    assert mx.array_equal(mx.compile(mx.grad(loss(packed)))(x), expected)
    xs = mx.stack([x, 2 * x])
    mapped = mx.vmap(lambda x: case.call(x, packed, "auto"))(xs)
    assert mx.array_equal(mapped, mx.stack([case.call(each, w, "auto") for each in xs]))


def test_changing_an_array_in_place_does_not_reach_what_was_packed():
    w, x = integers(6, 16, 4), integers(1, 9, 4)
    packed = polyconv.pack(w)
    before = polyconv.conv_transpose1d(x, w, 8, 4)
    w[:] = 0
    for method in ("stacked", "per_phase", "taps"):
        assert mx.array_equal(polyconv.conv_transpose1d(x, packed, 8, 4, method=method), before)
    layer = polyconv.PolyConvTranspose1d(4, 6, 8, stride=4)
    fast, expected = layer.to_packed(), layer(x)
    layer.weight[:] = 0
    layer.bias[:] = 7
    assert mx.allclose(fast(x), expected, atol=1e-6)


def test_a_packed_weight_can_be_exported_and_stays_on_its_stream(
    tmp_path, monkeypatch, worked_out_anew
):
    w, x, stream = polyconv.pack(integers(6, 4, 4)), integers(1, 9, 4), mx.new_stream(mx.cpu)
    used = []
    made = bilinear.executor

    def executor(*args):
        execute = made(*args)
        return lambda *arrays: used.append(mx.default_stream(mx.cpu)) or execute(*arrays)

    monkeypatch.setattr(bilinear, "executor", executor)
    call = lambda x: polyconv.conv_transpose1d(x, w, 2, stream=stream)  # noqa: E731
    with polyconv.exporting():
        mx.export_function(str(tmp_path / "f.mlxfn"), call, x)
    assert set(map(str, used)) == {str(stream)}
    (y,) = mx.import_function(str(tmp_path / "f.mlxfn"))(x)
    assert mx.array_equal(y, mx.conv_transpose1d(x, w.array, 2))


def test_packing_inside_a_compiled_function_stays_valid():
    w = polyconv.pack(integers(6, 4, 4))
    x = integers(1, 9, 4)
    first = mx.compile(lambda x: polyconv.conv_transpose1d(x, w, 2))(x)
    again = polyconv.conv_transpose1d(x, w, 2)
    assert mx.array_equal(first, again)
    assert mx.array_equal(again, mx.conv_transpose1d(x, w.array, 2))


def test_a_packed_layer_is_another_layer_without_parameters():
    layer = polyconv.PolyConvTranspose1d(4, 6, 8, stride=4, padding=2)
    layer.bias = mx.arange(6).astype(mx.float32)
    x = integers(2, 7, 4)
    packed = layer.to_packed()
    before = layer(x)
    assert mx.allclose(packed(x), before, atol=1e-6)
    assert packed.parameters() == {}
    layer.weight = mx.zeros_like(layer.weight)
    assert mx.allclose(packed(x), before, atol=1e-6)
    assert not mx.any(layer(x) - layer.bias)
    assert repr(packed) == (
        "PackedConvTranspose(weight=(6, 8, 4), stride=4, padding=2, dilation=1, output_padding=0, "
        "bias=True)"
    )


def test_layers_of_any_rank_pack_inside_a_model():
    model = nn.Sequential(
        polyconv.PolyConvTranspose2d(3, 4, (2, 4), stride=(2, 1), groups=1, bias=False),
        polyconv.PolyConvTranspose(4, 4, (3, 3), stride=2, groups=2),
    )
    x = mx.random.normal((1, 5, 6, 3))
    packed = nn.Sequential(*[layer.to_packed() for layer in model.layers])
    assert mx.allclose(packed(x), model(x), atol=1e-5)


def test_what_is_not_a_weight_is_refused():
    with pytest.raises(ValueError, match=r"\[pack\] weight must be an mlx.core.array; got list"):
        polyconv.pack([1, 2])
    with pytest.raises(ValueError, match=r"x must be an mlx.core.array; got PackedWeight"):
        polyconv.conv_transpose1d(polyconv.pack(mx.ones((1, 2, 3))), mx.ones((1, 2, 3)))
    assert repr(polyconv.pack(mx.ones((1, 2, 3)))).startswith(
        "PackedWeight(shape=(1, 2, 3), dtype="
    )
