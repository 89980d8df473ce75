"""Infinity, NaN, zeros and subnormals: which products are made of them (docs/differences.md)."""

import mlx.core as mx
import numpy as np
import pytest

import polyconv
from polyconv.execution.run import run
from polyconv.planning.choose import alternatives
from polyconv.problem.signatures import problem_of

FORMS = {
    # channels, groups, and the form: whether a neighbour becomes NaN
    (1, 1, "per_phase"): False,
    (1, 1, "stacked"): True,
    (1, 1, "taps own scaled"): False,
    (1, 1, "taps shared scaled"): True,
    (2, 1, "per_phase"): False,
    (2, 1, "stacked"): True,
    (2, 1, "taps own flat"): False,
    (2, 1, "taps shared flat"): True,
    (4, 2, "per_phase"): False,
    (4, 2, "stacked"): True,
    (4, 2, "taps own gathered"): False,
    (4, 2, "taps shared gathered"): True,
}


@pytest.mark.parametrize("special", [float("inf"), float("nan")])
@pytest.mark.parametrize(("channels", "groups", "form"), FORMS)
def test_which_zeros_are_multiplied(channels, groups, form, special):
    """Two phases of two taps and one: output 5 has the sample in its window, but no tap on it."""
    x = np.ones((2, 6, channels), np.float32)
    x[0, 1, 0] = special
    w = np.ones((channels, 3, channels // groups), np.float32)
    options = {"stride": 2, "groups": groups}
    problem = problem_of("conv_transpose1d", x.shape, w.shape, "float32", options)
    (plan,) = [each for each in alternatives(problem) if each.label == form]
    with mx.stream(mx.cpu):
        y = np.array(run(plan, mx.array(x), mx.array(w), True))
    assert np.isfinite(y[1]).all()
    reached = ~np.isfinite(y[0, :, 0])
    assert np.flatnonzero(reached).tolist() == [
        2,
        3,
        4,
        *([5] if FORMS[channels, groups, form] else []),
    ]
    assert not np.isnan(y[0, [2, 3, 4], 0]).any() or np.isnan(special)


@pytest.mark.parametrize("method", ["auto", "per_phase", "stacked", "taps", "native"])
def test_subnormals_are_kept_on_the_cpu(method):
    with mx.stream(mx.cpu):
        for channels in (1, 3):
            x = mx.full((1, 4, channels), 1e-40)
            y = polyconv.conv_transpose1d(x, mx.ones((2, 2, channels)), 2, method=method)
            small = polyconv.conv_transpose1d(
                mx.full((1, 4, channels), 1e-20), mx.full((2, 2, channels), 1e-20), 2, method=method
            )
        assert np.allclose(np.array(y), channels * 1e-40, rtol=1e-4, atol=0)
        assert np.allclose(np.array(small), channels * 1e-40, rtol=1e-4, atol=0)
        assert np.array(y).min() > 0
