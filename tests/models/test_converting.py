"""`convert` and `revert`: the same arrays, names, flags and outputs, whatever holds a layer."""

from __future__ import annotations

import copy
import pickle
import warnings

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mlx.utils import tree_flatten

import polyconv
from polyconv.execution.modules import modules
from polyconv.models.converted_classes import original_class
from polyconv.ops import plain_layers
from tests.support.cases import integers
from tests.support.models import KINDS, OTHERS, Chain, Louder, WeightNorm, layer_of


@st.composite
def models(draw, depth=2):
    """A nested model of several kinds of layers, in lists and dicts, some shared or frozen."""
    parts = []
    for _ in range(draw(st.integers(1, 3))):
        if depth and draw(st.booleans()) and not parts:
            part = draw(models(depth=depth - 1))
        elif len(parts) > 1 and draw(st.integers(0, 4)) == 0:
            part = parts[-1]  # shared; not a chain, or lengths would grow without bound
        else:
            part = layer_of(draw(st.sampled_from((*KINDS, *OTHERS))), 4)
            if draw(st.booleans()):
                part.freeze()
            if draw(st.booleans()):
                part.eval()
        parts.append(part)
    return Chain(*[{"layer": each} if draw(st.booleans()) else each for each in parts])


def state(model):
    """All that must stay: arrays by name, which are trainable, flags, classes and attributes."""
    return {
        "arrays": [(name, id(value)) for name, value in tree_flatten(model.parameters())],
        "trainable": [name for name, _ in tree_flatten(model.trainable_parameters())],
        "modules": [(path, id(module)) for path, module in modules(model)],
        "flags": [module.training for _, module in modules(model)],
        "attributes": [sorted(vars(module)) for _, module in modules(model)],
    }


@settings(max_examples=60)
@given(models())
def test_convert_then_revert_is_the_identity(model):
    x = integers(1, 3, 4)
    before, y, classes = state(model), np.array(model(x)), [type(m) for _, m in modules(model)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # if there is nothing to convert
        done = polyconv.convert(model)
    assert state(model) == before
    # Sums of many layers pass what float32 holds exactly.
    np.testing.assert_allclose(np.array(model(x)), y, rtol=0, atol=1e-5 * np.abs(y).max())
    converted = [path for path, m in modules(model) if original_class(m)]
    assert sorted(", ".join(each.path for each in done.converted).split(", ")) == sorted(
        converted or [""]
    )
    assert polyconv.revert(model) == converted
    assert state(model) == before
    assert [type(m) for _, m in modules(model)] == classes
    assert np.array_equal(np.array(model(x)), y)


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_is_computed_by_polyconv_after_it(kind, monkeypatch):
    layer, x = layer_of(kind, 4), integers(1, 5, 4, seed=1)
    y = np.array(layer(x))
    done = polyconv.convert(layer)
    assert done.converted
    assert type(layer).__name__ in (type(layer_of(kind, 4)).__name__, "PolyConvTranspose1d")

    def refuse(*_, **__):
        raise AssertionError("MLX's own function was called")

    for name in ("conv_transpose1d", "conv_general"):
        monkeypatch.setattr(mx, name, refuse)
    assert np.array_equal(np.array(layer(x)), y)
    polyconv.revert(layer)
    with pytest.raises(AssertionError, match="own function"):
        layer(x)


def test_layers_of_mlx_become_polyconv_s_and_stay_mlx_s():
    for ndim, cls in ((1, nn.ConvTranspose1d), (2, nn.ConvTranspose2d), (3, nn.ConvTranspose3d)):
        layer = cls(2, 3, 3, 2)
        text = str(layer)
        (done,) = polyconv.convert(layer)
        assert isinstance(layer, (cls, getattr(polyconv, f"PolyConvTranspose{ndim}d")))
        assert isinstance(layer, polyconv.PolyConvTranspose)
        assert str(layer) == f"Poly{text}"
        assert done.saving == 2**ndim
        layer.output_padding = 1  # attributes are read when it is called
        assert layer(mx.ones((1, *[4] * ndim, 2))).shape[1] == 10


def test_a_shared_layer_is_told_once_with_all_its_places():
    layer = nn.ConvTranspose1d(2, 2, 2)
    model = Chain(layer, {"layer": layer})
    model._hidden = (nn.ConvTranspose1d(2, 2, 2),)
    told = [each.path for each in polyconv.convert(model)]
    assert told == ["parts.0, parts.1.layer", "_hidden.0"]


def test_the_predicate_decides():
    model = Chain(nn.ConvTranspose1d(2, 2, 2), nn.ConvTranspose1d(2, 2, 4))
    done = polyconv.convert(model, lambda path, layer: layer.weight.shape[1] == 4)
    assert [each.path for each in done.converted] == ["parts.1"]
    assert "parts.0: ConvTranspose1d left alone: the predicate says so" in str(done)


def test_nothing_converted_is_a_warning_that_says_why():
    with pytest.warns(UserWarning, match=r"none of its 1 modules \(1 Linear\) is a transposed"):
        assert not polyconv.convert(nn.Linear(2, 2))
    with pytest.warns(UserWarning, match="the predicate says so"):
        polyconv.convert(nn.ConvTranspose1d(2, 2, 2), lambda *_: False)


def test_what_is_no_model_is_refused():
    for call in (polyconv.convert, polyconv.revert):
        with pytest.raises(ValueError, match=r"model must be an mlx\.nn\.Module; got 3"):
            call(3)
    with pytest.raises(ValueError, match="layer_type must be a subclass"):
        polyconv.register_converter(int, print)
    with pytest.raises(ValueError, match="call must be callable"):
        polyconv.register_converter(nn.Linear, 3)


def test_a_registered_type_is_called_as_told():
    class Hidden(nn.Module):
        """Calls MLX where `convert` cannot see it."""

        def __call__(self, x):
            return getattr(mx, "conv_" + "transpose1d")(x, mx.ones((1, 2, 1)), 2)

    layer, x = Hidden(), mx.ones((1, 3, 1))
    with pytest.warns(UserWarning, match="nothing of Hidden converted"):
        polyconv.convert(layer)
    polyconv.register_converter(
        Hidden, lambda self, x: polyconv.conv_transpose1d(x, mx.ones((1, 2, 1)), 2)
    )
    y = layer(x)
    assert polyconv.convert(layer).converted
    assert mx.array_equal(layer(x), y)
    assert polyconv.revert(layer) == ["(model)"]


def test_pickles_and_copies_are_converted_too_and_hold_what_is_shared():
    layer = layer_of("louder", 4)
    model = Chain(layer, layer_of("plain", 4), {"layer": layer})
    polyconv.convert(model)
    x = integers(1, 3, 4)
    y = model(x)
    for other in (pickle.loads(pickle.dumps(model)), copy.deepcopy(model)):
        assert mx.array_equal(other(x), y)
        assert other.parts[0] is other.parts[2]["layer"]
        assert isinstance(other.parts[1], polyconv.PolyConvTranspose1d)
        assert polyconv.revert(other) == ["parts.0", "parts.1", "parts.2.layer"]
        assert type(other.parts[0]) is Louder


def test_checkpoints_go_both_ways(tmp_path):
    model = Chain(layer_of("plain", 4), layer_of("weight norm", 4))
    polyconv.convert(model)
    model.save_weights(str(tmp_path / "converted.safetensors"))
    other = Chain(nn.ConvTranspose1d(4, 4, 4, 2, 1), WeightNorm(4, 2))
    other.load_weights(str(tmp_path / "converted.safetensors"))
    x = integers(1, 3, 4)
    assert mx.array_equal(other(x), model(x))
    other.save_weights(str(tmp_path / "plain.safetensors"))
    model.load_weights(str(tmp_path / "plain.safetensors"))
    assert mx.array_equal(other(x), model(x))


def test_compile_export_and_quantize(tmp_path):
    model = Chain(layer_of("plain", 64), nn.Linear(64, 64), layer_of("weight norm", 64))
    x = integers(1, 3, 64)
    polyconv.convert(model)
    y = model(x)
    close = 1e-6 * mx.abs(y).max().item()
    assert mx.allclose(mx.compile(model)(x), y, rtol=0, atol=close)
    with polyconv.exporting():
        mx.export_function(str(tmp_path / "model"), model, x)
    exported = mx.import_function(str(tmp_path / "model"))
    assert mx.allclose(exported(x)[0], y, rtol=0, atol=close)
    nn.quantize(model)
    assert isinstance(model.parts[1], nn.QuantizedLinear)
    assert isinstance(model.parts[0], polyconv.PolyConvTranspose1d)


def test_a_converted_model_trains():
    model, x = Chain(layer_of("plain", 4), layer_of("weight norm", 4)), integers(1, 3, 4)
    loss = nn.value_and_grad(model, lambda model, x: model(x).square().sum())
    expected = loss(model, x)
    polyconv.convert(model)
    (value, grads), (wanted, wanted_grads) = loss(model, x), expected
    assert value == wanted
    for (name, got), (_, other) in zip(tree_flatten(grads), tree_flatten(wanted_grads)):
        assert mx.allclose(got, other), name


COUNT = 0


class Counting(nn.Module):
    def __call__(self, x):
        global COUNT
        COUNT += 1
        return mx.conv_transpose1d(x, mx.ones((1, 2, 1)), 2)


def test_a_method_that_assigns_a_global_assigns_it_still():
    layer = Counting()
    (told,) = polyconv.convert(layer)
    layer(mx.ones((1, 3, 1)))
    assert (COUNT, told.calls) == (1, 1)


PLAIN = {
    1: lambda: nn.Conv1d(6, 4, 3, stride=1, padding=4, dilation=4),
    2: lambda: nn.Conv2d(6, 4, 3, stride=2, padding=1, groups=2),
    3: lambda: nn.Conv3d(6, 4, 2, padding=1),
}


@pytest.mark.usefixtures("on_cpu")  # as `cpu_convs` is about a CPU's convolutions
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("ndim", PLAIN)
def test_plain_layers_are_converted_if_asked(ndim, packed):
    layer = PLAIN[ndim]()
    layer.weight, layer.bias = integers(*layer.weight.shape), integers(4)
    x = integers(2, *(9, 8, 7)[:ndim], 6)
    cls, y = type(layer), layer(x)
    with pytest.warns(UserWarning, match="none of its 1 modules"):
        assert not polyconv.convert(layer)
    assert type(layer) is cls
    (told,) = polyconv.convert(layer, cpu_convs=True, packed=packed)
    assert isinstance(layer, plain_layers.PlainConv)
    assert told.saving is None
    assert mx.array_equal(layer(x), y)
    assert told.calls == 1
    assert mx.array_equal(copy.deepcopy(layer)(x), y)
    assert polyconv.revert(layer)
    assert type(layer) is cls


@pytest.mark.usefixtures("on_cpu")
def test_plain_layers_are_computed_by_polyconv_on_a_cpu(monkeypatch):
    layer, x = PLAIN[1](), integers(1, 9, 6)
    polyconv.convert(layer, cpu_convs=True)
    asked = []
    monkeypatch.setitem(plain_layers.OPS, 1, lambda *given: asked.append(given) or x[..., :4])
    layer(x)
    assert len(asked) == 1
    monkeypatch.setattr(plain_layers, "is_on_cpu", lambda stream: False)
    layer(x)
    assert len(asked) == 1


def test_plain_layers_are_trained_by_polyconv_on_cuda(monkeypatch):
    """Its gradients are faster there. MLX computes the rest, and all on Metal."""
    monkeypatch.setattr(plain_layers, "is_on_cpu", lambda stream: False)
    layer, x, asked = PLAIN[1](), integers(1, 9, 6), []
    polyconv.convert(layer, cpu_convs=True)
    monkeypatch.setitem(plain_layers.OPS, 1, lambda *given: asked.append(given) or x[..., :4])
    for device, is_trained, n in (("m4-max", True, 0), ("cuda", False, 0), ("cuda", True, 1)):
        with polyconv.planning_for(device):
            layer.train(is_trained)(x)
        assert len(asked) == n
    polyconv.convert(layer, cpu_convs=True, packed=True)  # for inference
    with polyconv.planning_for("cuda"):
        layer(x)
    assert len(asked) == 1
    layer.weight = layer.weight + 1  # as training does
    with polyconv.planning_for("cuda"), pytest.warns(UserWarning, match="is computed unpacked"):
        layer(x)
    assert len(asked) == 2


@pytest.mark.usefixtures("on_cpu")
def test_a_weight_with_another_number_of_axes_is_refused_as_by_mlx(monkeypatch):
    layer = PLAIN[1]()
    polyconv.convert(layer, cpu_convs=True)
    layer.weight = mx.zeros((4, 4))
    with pytest.raises(ValueError, match="weight must"):
        layer(integers(1, 9, 6))
    monkeypatch.setattr(plain_layers, "is_on_cpu", lambda stream: False)
    with polyconv.planning_for("m4-max"), pytest.raises(ValueError, match="conv"):
        layer(integers(1, 9, 6))


def test_the_gradient_of_a_plain_layer_is_mlx_s():
    layer, x = PLAIN[1](), integers(1, 9, 6)
    layer.weight, layer.bias = integers(*layer.weight.shape), integers(4)
    step = nn.value_and_grad(layer, lambda x: (layer(x) ** 2).sum())
    _, truth = step(x)
    polyconv.convert(layer, cpu_convs=True)
    _, found = step(x)
    assert mx.array_equal(found["weight"], truth["weight"])
    assert mx.array_equal(found["bias"], truth["bias"])
