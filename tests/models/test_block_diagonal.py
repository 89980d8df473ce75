"""Dense weights that are block-diagonal: found, told, and computed by their blocks."""

from __future__ import annotations

import copy
import pickle
import warnings

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

import polyconv
from polyconv.models.block_diagonal import blocks_of
from tests.support.cases import integers
from tests.support.models import Passing


@pytest.mark.parametrize("groups", [1, 2, 6])
def test_blocks_are_found(groups):
    w = np.zeros((12, 3, 6), np.float32)
    for i in range(groups):
        o, c = 12 // groups, 6 // groups
        w[i * o : (i + 1) * o, :, i * c : (i + 1) * c] = 1
    assert blocks_of(mx.array(w)) == groups
    w[0, 0, 5] = 1
    assert blocks_of(mx.array(w)) == 1
    assert blocks_of(mx.zeros((4, 3, 4))) == 1


@pytest.mark.parametrize("ranked", [True, False])
def test_a_dense_weight_that_emulates_depthwise_is_told_and_exploited(ranked):
    eye = mx.eye(6)[:, None]
    if ranked:
        layer = nn.ConvTranspose1d(6, 6, 4, 2)
        layer.weight = integers(6, 4, 6) * eye
    else:
        layer = Passing(6)
        layer.weight = (integers(6, 4, 6) + 5) * eye
    x = integers(1, 5, 6)
    y = layer(x)
    (told,) = polyconv.convert(layer)
    assert told.note.startswith("its dense weight is block-diagonal, as of 6 groups; exploit_")
    polyconv.revert(layer)
    (told,) = polyconv.convert(layer, exploit_sparsity=True)
    assert told.note.endswith("computed so")
    with polyconv.watch() as seen:
        assert mx.array_equal(layer(x), y)
    ((problem, _),) = next(iter(seen.sites.values())).problems.items()
    assert problem.groups == 6
    twin = copy.deepcopy(layer)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert mx.array_equal(twin(x), y)
    layer.weight = layer.weight + 1
    with pytest.warns(UserWarning, match="was replaced or changed and is computed densely"):
        changed = layer(x)
    polyconv.revert(layer)
    assert mx.array_equal(layer(x), changed)
    assert "_polyconv_blocks" not in vars(layer)


@pytest.mark.parametrize("ranked", [True, False])
@pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16])
def test_a_block_diagonal_weight_that_is_changed_in_place_is_computed_densely(ranked, dtype):
    layer = nn.ConvTranspose1d(6, 6, 4, 2, bias=False) if ranked else Passing(6)
    layer.weight = ((integers(6, 4, 6) + 5) * mx.eye(6)[:, None]).astype(dtype)
    polyconv.convert(layer, exploit_sparsity=True)
    x = integers(1, 5, 6).astype(dtype)
    layer(x)
    twin, viewed = copy.deepcopy(layer), copy.deepcopy(layer)
    layer.weight += 1
    twin.weight += 1
    viewed.weight[:] = viewed.weight[:1]  # which begins where it did, and lies otherwise
    for copied in (layer, twin, viewed):
        with pytest.warns(UserWarning, match="was replaced or changed and is computed densely"):
            y = copied(x)
        polyconv.revert(copied)
        assert mx.array_equal(y, copied(x))


def test_a_copy_of_a_changed_layer_is_computed_densely_too():
    layer, x = nn.ConvTranspose1d(6, 6, 4, 2, bias=False), integers(1, 5, 6)
    layer.weight = integers(6, 4, 6) * mx.eye(6)[:, None]
    polyconv.convert(layer, exploit_sparsity=True)
    layer.weight += 1
    for twin in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        with pytest.warns(UserWarning, match="was replaced or changed and is computed densely"):
            assert mx.array_equal(twin(x), mx.conv_transpose1d(x, layer.weight, 2))


class Everything(nn.Module):
    """Groups by place, a flip behind them, and a plain convolution of the same weight."""

    def __init__(self):
        super().__init__()
        self.weight = (integers(8, 5, 8) + 5) * mx.eye(8)[:, None]

    def __call__(self, x):
        y = mx.conv_general(x, self.weight, input_dilation=2, padding=4)
        z = mx.conv_general(x, self.weight, 1, 4, 1, 2, 1, True)
        return y + z + mx.conv1d(x, self.weight, 1, 2, 1, 1).sum()


def test_blocks_keep_all_other_arguments_and_leave_plain_convolutions_alone():
    layer, x = Everything(), integers(1, 6, 8)
    y = layer(x)
    polyconv.convert(layer)
    (told,) = polyconv.convert(layer, exploit_sparsity=True)  # again, now by blocks
    assert told.note.endswith("computed so")
    assert mx.array_equal(layer(x), y)
    with polyconv.patched():
        assert mx.array_equal(layer(x), y)


class Grouped(nn.Module):
    """One weight, dense for one input and of groups for another of twice the channels."""

    def __init__(self):
        super().__init__()
        self.weight = (integers(8, 5, 8) + 5) * mx.eye(8)[:, None]

    def __call__(self, x):
        twice = mx.concatenate([x, x], -1)
        y = mx.conv_transpose1d(twice, self.weight, 2, groups=2)
        return y + mx.conv_transpose1d(x, self.weight, 2)


def test_a_call_with_groups_keeps_them():
    layer, x = Grouped(), integers(1, 6, 8)
    y = layer(x)
    polyconv.convert(layer, exploit_sparsity=True)
    assert mx.array_equal(layer(x), y)


@pytest.mark.parametrize("ranked", [True, False])
def test_the_warning_points_at_the_call(ranked):
    layer = nn.ConvTranspose1d(6, 6, 4, 2, bias=False) if ranked else Passing(6)
    layer.weight = (integers(6, 4, 6) + 5) * mx.eye(6)[:, None]
    polyconv.convert(layer, exploit_sparsity=True)
    layer.weight = layer.weight + 1
    with pytest.warns(UserWarning, match="was replaced or changed") as seen:
        layer(integers(1, 5, 6))
    assert seen[0].filename == __file__
