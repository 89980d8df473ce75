"""`convert(model, packed=True)`: weights cut up once, and never computed stale."""

from __future__ import annotations

import copy
import pickle
import warnings

import mlx.core as mx
import mlx.nn as nn
import pytest

import polyconv
from polyconv.execution import cutting, packing
from tests.support.cases import integers
from tests.support.models import KINDS, Passing, WeightNorm, layer_of

X = integers(1, 5, 4)


@pytest.fixture
def cut(monkeypatch):
    """How often a weight is cut into taps for a packed one."""
    cuts = []

    def cutter(plan):
        cuts.append(plan)
        return cutting.cutter(plan)

    monkeypatch.setattr(packing, "cutter", cutter)
    return cuts


def explicit():
    class Explicit(nn.ConvTranspose1d):
        def __call__(self, x):
            return nn.ConvTranspose1d.__call__(self, x)

    layer = Explicit(4, 4, 4, 2, 1)
    layer.weight, layer.bias = integers(4, 4, 4), integers(4)
    return layer


MAKERS = {
    "plain": lambda: layer_of("plain", 4),
    "trimmed": lambda: layer_of("trimmed", 4),
    "passing": lambda: layer_of("passing", 4),
    "explicit": explicit,
}


@pytest.mark.parametrize("kind", MAKERS)
def test_a_weight_is_cut_up_once_for_all_calls(kind, cut):
    layer = MAKERS[kind]()
    y = layer(X)
    (told,) = polyconv.convert(layer, packed=True)
    assert "packed for inference; under a gradient of the weight" in told.note
    for _ in range(3):
        assert mx.array_equal(layer(X), y)
    assert len(cut) == 1
    assert told.calls == 3
    polyconv.convert(layer)  # stays what it is
    assert mx.array_equal(layer(X), y)
    assert len(cut) == 1
    polyconv.revert(layer)
    assert "_polyconv_blocks" not in vars(layer)
    (told,) = polyconv.convert(layer)
    assert "packed" not in told.note
    assert mx.array_equal(layer(X), y)
    assert len(cut) == 1


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_gives_the_same_packed(kind):
    layer = layer_of(kind, 4)
    y = layer(X)
    assert polyconv.convert(layer, packed=True).converted
    assert mx.array_equal(layer(X), y)
    assert mx.array_equal(mx.compile(layer)(X), y)
    with polyconv.patched():
        assert mx.array_equal(layer(X), y)


@pytest.mark.parametrize("kind", MAKERS)
@pytest.mark.parametrize("how", ["replaced", "in place", "loaded"])
def test_a_weight_that_changed_is_computed_as_it_is_now(kind, how):
    layer = MAKERS[kind]()
    polyconv.convert(layer, packed=True)
    layer(X)
    if how == "replaced":
        layer.weight = layer.weight + 1
    elif how == "in place":
        layer.weight += 1
    else:
        layer.load_weights([("weight", layer.weight + 1)], strict=False)
    with pytest.warns(UserWarning, match="its packed weight was replaced or changed"):
        changed = layer(X)
    polyconv.revert(layer)
    assert mx.array_equal(layer(X), changed)


@pytest.mark.parametrize("kind", MAKERS)
def test_gradients_of_the_weight_are_right_with_a_warning_and_of_the_input_without(kind):
    layer = MAKERS[kind]()
    by_input = mx.grad(lambda x: layer(x).square().sum())
    by_weight = nn.value_and_grad(layer, lambda x: layer(x).square().sum())
    polyconv.convert(layer)  # MLX's own gradient of a trimmed layer has another shape
    before = by_input(X)
    _, wanted = by_weight(X)
    polyconv.convert(layer, packed=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert mx.array_equal(by_input(X), before)
    with pytest.warns(UserWarning, match="its packed weight was replaced or changed"):
        _, got = by_weight(X)
    assert mx.array_equal(got["weight"], wanted["weight"])


def test_copies_and_pickles_are_packed_too():
    layer = layer_of("plain", 4)
    y = layer(X)
    polyconv.convert(layer, packed=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for twin in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
            assert mx.array_equal(twin(X), y)
            weight, _ = twin._weight_and_groups()
            assert isinstance(weight, packing.PackedWeight)
            twin.weight = twin.weight + 1
    assert mx.array_equal(layer(X), y)


def test_blocks_are_packed_as_groups():
    layer = Passing(6)
    layer.weight = (integers(6, 4, 6) + 5) * mx.eye(6)[:, None]
    x = integers(1, 5, 6)
    y = layer(x)
    polyconv.convert(layer, exploit_sparsity=True, packed=True)
    with polyconv.watch() as seen:
        assert mx.array_equal(layer(x), y)
    ((problem, _),) = next(iter(seen.sites.values())).problems.items()
    assert problem.groups == 6


def test_a_weight_that_is_made_at_each_call_is_not_packed(cut):
    layer = WeightNorm(4, 2)
    y = layer(X)
    polyconv.convert(layer, packed=True)
    assert mx.array_equal(layer(X), y)
    assert not cut


def test_packed_must_be_a_bool():
    with pytest.raises(ValueError, match=r"\[convert\] packed must be "):
        polyconv.convert(nn.ConvTranspose1d(2, 2, 2), packed=3)
