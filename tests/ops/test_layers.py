"""The layers against mlx.nn's: signature, repr, initialisation, checkpoints, numbers."""

import inspect

import mlx.core as mx
import mlx.nn as nn
import pytest
from mlx.utils import tree_flatten

import polyconv

RANKS = (1, 2, 3)
OPTIONS = [
    {"kernel_size": 4, "stride": 2, "padding": 1},
    {"kernel_size": 3, "stride": 2, "output_padding": 1, "bias": False},
    {"kernel_size": 2, "stride": 1, "dilation": 2},
    {},
]


def pair(ndim, **options):
    """The same layer of both libraries, made from the same seed."""
    options = {"kernel_size": 3, **options}
    made = []
    for lib, name in ((polyconv, "PolyConvTranspose"), (nn, "ConvTranspose")):
        mx.random.seed(7)
        made.append(getattr(lib, f"{name}{ndim}d")(4, 6, **options))
    return made


def signal(ndim):
    return mx.random.normal((2, *(5, 4, 3)[:ndim], 4))


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("ndim", RANKS)
def test_same_layer_as_mlx(ndim, options):
    ours, theirs = pair(ndim, **options)
    assert isinstance(ours, type(theirs))
    assert isinstance(ours, polyconv.PolyConvTranspose)
    assert repr(ours) == "Poly" + repr(theirs)
    for name in ("stride", "padding", "dilation", "output_padding"):
        assert getattr(ours, name) == getattr(theirs, name)
        assert type(getattr(ours, name)) is type(getattr(theirs, name))
    ours_flat, theirs_flat = (dict(tree_flatten(m.parameters())) for m in (ours, theirs))
    assert list(ours_flat) == list(theirs_flat)
    assert all(mx.array_equal(ours_flat[k], theirs_flat[k]) for k in ours_flat)
    assert ("bias" in ours) == ("bias" in theirs)
    x = signal(ndim)
    assert mx.allclose(ours(x), theirs(x), atol=1e-5)


@pytest.mark.parametrize("ndim", RANKS)
def test_signature_is_mlx_s_with_groups_behind(ndim):
    ours, theirs = (inspect.signature(type(layer)) for layer in pair(ndim))
    assert [*theirs.parameters, "groups", "max_workspace"] == list(ours.parameters)
    for name, parameter in theirs.parameters.items():
        assert ours.parameters[name].default == parameter.default


@pytest.mark.parametrize("ndim", RANKS)
def test_checkpoints_load_into_each_other(ndim, tmp_path):
    x = signal(ndim)
    for here, there in (pair(ndim), pair(ndim)[::-1]):
        here.weight, here.bias = here.weight + 1, here.bias + 2
        file = str(tmp_path / f"{type(here).__name__}.safetensors")
        here.save_weights(file)
        there.load_weights(file, strict=True)
        assert mx.allclose(here(x), there(x), atol=1e-4)


def test_attributes_set_after_construction_are_used():
    ours, theirs = pair(1, kernel_size=4, stride=2)
    for layer in (ours, theirs):
        layer.output_padding, layer.padding = 1, 1
    x = signal(1)
    assert ours(x).shape == theirs(x).shape == (2, 11, 6)
    assert mx.allclose(ours(x), theirs(x), atol=1e-5)


def test_new_weights_are_used_at_once():
    layer, _ = pair(1)
    x = signal(1)
    before = layer(x)
    layer.weight = 2 * layer.weight
    assert mx.allclose(layer(x), 2 * before, atol=1e-5)


@pytest.mark.parametrize("ndim", RANKS)
def test_groups(ndim):
    layer = getattr(polyconv, f"PolyConvTranspose{ndim}d")(4, 6, 3, 2, groups=2)
    assert layer.weight.shape == (6, *(3,) * ndim, 2)
    assert ", groups=2, bias=True)" in repr(layer)
    x = signal(ndim)
    halves = [
        getattr(mx, f"conv_transpose{ndim}d")(x[..., a : a + 2], layer.weight[b : b + 3], 2)
        for a, b in ((0, 0), (2, 3))
    ]
    assert mx.allclose(layer(x), mx.concatenate(halves, -1), atol=1e-5)


def test_phases_that_read_nothing_are_the_bias():
    layer = polyconv.PolyConvTranspose1d(1, 1, kernel_size=1, stride=3)
    layer.bias = mx.array([5.0])
    layer.weight = mx.ones_like(layer.weight)
    assert layer(mx.ones((1, 2, 1))).flatten().tolist() == [6, 5, 5, 6]


def test_the_rank_is_taken_from_the_tuples_or_told():
    layer = polyconv.PolyConvTranspose(4, 6, (3, 5), 2)
    assert repr(layer) == (
        "PolyConvTranspose(4, 6, kernel_size=(3, 5), stride=(2, 2), padding=(0, 0), "
        "dilation=1, output_padding=(0, 0), bias=True)"
    )
    assert layer(signal(2)).shape == (2, 11, 11, 6)
    for ndim in RANKS:
        layer = polyconv.PolyConvTranspose(4, 6, 3, 2, groups=2, ndim=ndim)
        assert layer.weight.shape == (6, *(3,) * ndim, 2)
        assert layer(signal(ndim)).shape[-1] == 6


RANK = "the rank must be told by ndim, or by the length of every tuple argument; got"
BAD = [
    ({}, f"{RANK} neither"),
    ({"kernel_size": (3, 3), "stride": (2, 2, 2)}, f"{RANK} 2 and 3"),
    ({"kernel_size": (3, 3), "ndim": 1}, "kernel_size must be an int or 1 int; got (3, 3)"),
    ({"kernel_size": (3, 3, 3, 3)}, "the rank must be 1, 2 or 3; got 4"),
    ({"ndim": 0}, "ndim must be at least 1; got 0"),
    ({"ndim": "1"}, "ndim must be an int; got '1'"),
    ({"ndim": 1, "in_channels": 0}, "in_channels must be at least 1; got 0"),
    ({"ndim": 1, "in_channels": 4.0}, "in_channels must be an int; got 4.0"),
    ({"ndim": 1, "out_channels": -1}, "out_channels must be at least 1; got -1"),
    ({"ndim": 1, "groups": 3}, "in_channels must be divisible by groups=3; got 4"),
    ({"ndim": 1, "groups": 4}, "out_channels must be divisible by groups=4; got 6"),
    ({"ndim": 1, "groups": 0}, "groups must be at least 1; got 0"),
    ({"ndim": 1, "groups": True}, "groups must be an int; got True"),
    ({"ndim": 1, "bias": 2}, "bias must be True or False; got 2"),
    ({"ndim": 1, "kernel_size": 0}, "kernel_size must be at least 1; got 0"),
    ({"ndim": 1, "kernel_size": 3.5}, "kernel_size must be an int or 1 int; got 3.5"),
    ({"ndim": 2, "stride": (1, 0)}, "stride must be at least 1; got 0"),
    ({"ndim": 1, "dilation": 0}, "dilation must be at least 1; got 0"),
]


@pytest.mark.parametrize(("arguments", "text"), BAD, ids=[text for _, text in BAD])
def test_bad_arguments_are_one_sentence(arguments, text):
    with pytest.raises(ValueError) as error:
        polyconv.PolyConvTranspose(
            **{"in_channels": 4, "out_channels": 6, "kernel_size": 3, **arguments}
        )
    assert str(error.value) == f"[PolyConvTranspose] {text}"


def test_groups_and_bias_in_the_other_s_place_are_refused():
    with pytest.raises(ValueError, match="groups must be an int; got True"):
        polyconv.PolyConvTranspose1d(8, 4, 3, 1, 0, 1, 0, True, True)
    with pytest.raises(ValueError, match="bias must be True or False; got 2"):
        polyconv.PolyConvTranspose1d(8, 4, 3, 1, 0, 1, 0, 2)
