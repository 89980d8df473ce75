"""Random models: converted, packed, patched, copied and reverted they give the same, by `==`."""

from __future__ import annotations

import copy
import pickle
import random
import warnings

import mlx.core as mx
import pytest

import polyconv
from polyconv.execution.modules import modules
from polyconv.execution.unpatched import ORIGINALS
from polyconv.models.recording import recorded
from tests.support.random_models import CHANNELS, random_model


def ran(model, x):
    """What a model gives, and by which library each of its transposed convolutions was computed."""
    with recorded(None) as calls:
        y = model(x)
        mx.eval(y)
    return y, [call.lib for call in calls]


def copied(model):
    return copy.deepcopy(model)


def pickled(model):
    return pickle.loads(pickle.dumps(model))


def works(way, model):
    """MLX's functions, which some models hold, are neither copied nor pickled."""
    try:
        return bool(way(model))
    except TypeError:
        return False


def check(seed):
    rng = random.Random(seed)
    model = random_model(rng)
    x = mx.array([rng.randrange(-3, 4) for _ in range(4 * CHANNELS)], mx.float32)
    x = x.reshape(1, 4, CHANNELS)
    ways = [way for way in (copied, pickled) if works(way, model)]
    kinds = [type(module) for _, module in modules(model)]
    expected, by = ran(model, x)
    assert by
    assert set(by) == {"mx"}
    names = ("packed", "exploit_sparsity")
    report = polyconv.convert(model, **{name: rng.random() < 0.4 for name in names})
    got, by_converted = ran(model, x)
    assert mx.array_equal(got, expected)
    assert by_converted == ["polyconv"] * len(by)
    assert sum(each.calls for each in report) == len(by)
    assert not [each for each in report if each.left_alone or each.is_not_reached]
    twin = rng.choice(ways)(model) if ways else model
    with polyconv.patched():
        assert mx.array_equal(model(x), expected)
    twin_got, twin_by = ran(twin, x)
    assert mx.array_equal(twin_got, expected)
    assert twin_by == by_converted
    assert len(polyconv.revert(model)) >= len(report)
    with polyconv.patched():
        assert mx.array_equal(model(x), expected)
    got, by_reverted = ran(model, x)
    assert mx.array_equal(got, expected)
    assert by_reverted == by
    assert [type(module) for _, module in modules(model)] == kinds
    assert {name: getattr(mx, name) for name in ORIGINALS} == ORIGINALS


def checked(seeds):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for seed in seeds:
            try:
                check(seed)
            except Exception as error:
                raise AssertionError(f"seed {seed}") from error


@pytest.mark.parametrize(
    "part", [0, *(pytest.param(n, marks=pytest.mark.slow) for n in range(1, 40))]
)
def test_random_models_agree(part):
    checked(range(50 * part, 50 * part + 50))
