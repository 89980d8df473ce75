"""A share of the guarantee's campaign, and whether the campaign can fail."""

from __future__ import annotations

import random
from collections import Counter

import mlx.core as mx
import pytest

import polyconv
from polyconv.metal.kernels import predict
from polyconv.planning.devices import DEVICES
from tests.campaigns.guarantee import check, check_all, random_call, random_general_call
from tests.support.trace import traced

LIMITS = DEVICES["m4-max"]


@pytest.mark.parametrize(
    ("n_random", "every"), [(400, 8), pytest.param(10_000, 1, marks=pytest.mark.slow)]
)
def test_no_convolution_of_a_real_layer_or_of_random_ones_unfolds_or_reads_outside(n_random, every):
    n_real, _, counts = check_all(n_random, every, seed=2)
    assert n_real > 900 / every
    common = {"implicit_gemm_2d", "implicit_gemm_2d_general", "implicit_gemm_3d", "small_kd_3d"}
    assert {path for _, path in counts} >= {*common, "depthwise_2d", "pad_and_slice_3d"}


def test_conv_general_neither():
    """Also where nothing is dilated and MLX's own convolution is taken if that is safe."""
    rng, counts = random.Random(3), Counter()
    assert (
        sum(check(random_general_call(rng), "auto", mx.float32, counts) for _ in range(300)) > 150
    )


@pytest.mark.parametrize("device", DEVICES)
def test_on_the_other_devices_too(device):
    rng = random.Random(7)
    calls = [random_call(rng) for _ in range(20)]
    assert sum(check(call, "auto", mx.float32, Counter(), device) for call in calls) > 10


@pytest.mark.usefixtures("on_cpu")
def test_it_can_fail():
    """The trace sees what polyconv prevents: the same call planned for no Mac."""
    x, w = mx.zeros((1, 4, 16)), mx.zeros((5, 8, 16))
    with traced() as calls:
        polyconv.conv_transpose1d(x, w, 4, 2, method="stacked")
    assert predict(calls[0], LIMITS).is_explicit
    with polyconv.planning_for("m4-max"), traced() as calls:
        polyconv.conv_transpose1d(x, w, 4, 2, method="stacked")
    assert not predict(calls[0], LIMITS).is_explicit
