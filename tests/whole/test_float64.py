"""float64 on the CPU is as accurate as float64: by products, the gradients too."""

import random

import mlx.core as mx
import numpy as np
import pytest

import polyconv
from polyconv import distributed
from polyconv.execution import device
from tests.support.cases import draw_case
from tests.support.reference import conv_general, gradients
from tests.support.refusals import refused

pytestmark = pytest.mark.usefixtures("on_cpu")  # MLX has float64 there only


def drawn_data(case, seed):
    """Input, weight and cotangent that float32 cannot hold."""
    rng = np.random.default_rng(seed)
    x, w = (rng.standard_normal(shape) for shape in (case.x_shape, case.w_shape))
    y = rng.standard_normal(conv_general(x, w, **case.general).shape)
    return x, w, y


def near(ours, right, size):
    """Within rounding: sums of fewer than 2^11 terms, of which none is above `size`."""
    assert ours.dtype == mx.float64
    assert ours.shape == right.shape
    return np.abs(np.array(ours) - right).max(initial=0) <= 2.0**-42 * size


@pytest.mark.parametrize("cases", [60, pytest.param(3000, marks=pytest.mark.slow)])
def test_results_and_gradients_are_those_of_float64(cases):
    rng = random.Random(64)
    for seed in range(cases):
        case = draw_case(rng.choice)
        while not case.has_output:
            case = draw_case(rng.choice)
        x, w, y = drawn_data(case, seed)
        most = [np.abs(a).max(initial=0) for a in (x, w, y)]
        method, packed = rng.choice(("auto", "auto", "taps")), rng.random() < 0.3
        arrays = [mx.array(a, mx.float64) for a in (x, w)]
        call = lambda x, w, c=case, m=method: c.call(x, w, m)  # noqa: E731
        right = conv_general(x, w, **case.general)
        assert near(call(*arrays), right, most[0] * most[1]), case
        if packed:
            assert near(call(arrays[0], polyconv.pack(arrays[1])), right, most[0] * most[1]), case
        _, found = mx.vjp(call, arrays, [mx.array(y, mx.float64)])
        dx, dw = gradients(x, w, y, **case.general)
        assert near(found[0], dx, most[1] * most[2]), f"x of {case}"
        assert near(found[1], dw, most[0] * most[2]), f"w of {case}"


def test_tiles_maps_and_one_filter_for_all_channels():
    rng = np.random.default_rng(0)
    x, w, h = (rng.standard_normal(s) for s in ((2, 300, 4), (6, 5, 4), (1, 5, 1)))
    general = {"stride": (1,), "lo": (4,), "hi": (4,), "kernel_dilation": (1,), "flip": True}
    general["input_dilation"] = (3,)
    right = conv_general(x, w, **general)
    arrays = [mx.array(a, mx.float64) for a in (x, w)]
    assert near(polyconv.conv_transpose1d(*arrays, 3), right, 20)
    assert near(polyconv.conv_transpose1d(*arrays, 3, max_workspace=60_000), right, 20)
    mapped = mx.vmap(lambda w: polyconv.conv_transpose1d(arrays[0], w, 3))(arrays[1][None])
    assert near(mapped[0], right, 20)
    shared = polyconv.conv_transpose1d(arrays[0], mx.array(h, mx.float64), 3, groups=4)
    right = conv_general(x, np.repeat(h, 4, 0), groups=4, **general)
    assert near(shared, right, 20)


def test_a_float64_layer():
    layer = polyconv.PolyConvTranspose1d(3, 4, 5, stride=2)
    layer.set_dtype(mx.float64)
    x = np.random.default_rng(0).standard_normal((1, 9, 3))
    right = conv_general(x, np.array(layer.weight), (1,), (4,), (4,), (1,), (2,), flip=True)
    assert near(layer(mx.array(x, mx.float64)), right + np.array(layer.bias), 5)


X, W = (
    mx.zeros((1, 6, 3), mx.float64, stream=mx.cpu),
    mx.zeros((2, 3, 3), mx.float64, stream=mx.cpu),
)
LAYER = polyconv.StreamingConv1d(3, 2, 3)


@pytest.mark.parametrize(
    "call",
    [
        lambda: polyconv.pack(W),
        lambda: polyconv.stream(lambda x: x + 1, X),
        lambda: polyconv.stream(LAYER).step(X),
        lambda: polyconv.stream_init("conv1d", W),
        lambda: polyconv.stream_init("conv1d", mx.zeros(W.shape), dtype=mx.float64),
        lambda: LAYER.step(X),
        lambda: distributed.with_halo(X, distributed.Sharding.even(6, 1), 1, 1),
        lambda: distributed.conv1d(X, W),
        lambda: distributed.conv1d(mx.zeros(X.shape), W),
    ],
)
def test_a_gpu_is_not_given_what_it_does_not_have(call, monkeypatch):
    """MLX would say so in words of its own, wherever it first makes an array of it."""
    monkeypatch.setattr(device, "is_on_cpu", lambda stream: False)
    assert refused(call).endswith("must be of a type that a GPU has; got float64")


@pytest.mark.parametrize("planned_for", ["cuda", "m4-max"])
@pytest.mark.parametrize("method", ["auto", "taps", "per_phase", "stacked", "native"])
def test_no_gpu_is_planned_for(planned_for, method):
    with polyconv.planning_for(planned_for):
        told = refused(polyconv.conv1d, X, W, method=method)
    assert told.endswith("x must be float16, bfloat16 or float32 here, as for MLX; got float64")
