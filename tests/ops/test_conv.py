"""Plain convolutions: `mx.conv1d/2d/3d`, and what their gradients become."""

import mlx.core as mx
import numpy as np
import pytest

import polyconv
from polyconv.execution.device import pads_explicitly
from polyconv.planning.methods import METHODS
from tests.support.cases import integers
from tests.support.reference import conv_general as reference_conv

CASES = {
    "plain": ((2, 9, 4), (6, 3, 4), {"padding": 1}),
    "dilated": ((1, 20, 4), (4, 3, 4), {"dilation": 3, "padding": 3}),
    "strided": ((2, 11, 3), (5, 4, 3), {"stride": 3, "padding": 2}),
    "strided, unread end": ((1, 10, 3), (5, 2, 3), {"stride": 4}),
    "depthwise": ((2, 9, 6), (6, 5, 1), {"padding": 2, "groups": 6}),
    "one channel in, two out": ((2, 9, 3), (6, 5, 1), {"padding": 2, "groups": 3}),
    "groups": ((1, 9, 6), (4, 3, 3), {"dilation": 2, "groups": 2}),
    "2d": ((2, 5, 6, 3), (4, 3, 2, 3), {"padding": (1, 0)}),
    "2d dilated": ((2, 7, 8, 3), (4, 3, 2, 3), {"dilation": (2, 3), "padding": 2}),
    "2d depthwise": ((2, 5, 6, 4), (4, 3, 3, 1), {"stride": 2, "padding": 1, "groups": 4}),
    "3d": ((2, 4, 3, 4, 2), (3, 2, 2, 3, 2), {"stride": (1, 2, 1), "padding": 1}),
    "3d groups": ((1, 4, 3, 4, 4), (2, 2, 2, 3, 2), {"padding": 1, "groups": 2}),
}


def call(name, x, w, lib=polyconv, **more):
    _, _, options = CASES[name]
    return getattr(lib, f"conv{x.ndim - 2}d")(x, w, **options, **more)


def reference(name, x, w):
    ndim, options = len(x.shape) - 2, dict(CASES[name][2])
    groups = options.pop("groups", 1)
    each = {k: v if isinstance(v, tuple) else (v,) * ndim for k, v in options.items()}
    ones, padding = (1,) * ndim, each.get("padding", (0,) * ndim)
    return reference_conv(
        np.array(x),
        np.array(w),
        stride=each.get("stride", ones),
        lo=padding,
        hi=padding,
        kernel_dilation=each.get("dilation", ones),
        input_dilation=ones,
        groups=groups,
    )


@pytest.mark.parametrize("device", [None, "m4-max"])
@pytest.mark.parametrize("method", ["auto", *METHODS])
@pytest.mark.parametrize("name", CASES)
def test_values(name, method, device):
    x_shape, w_shape, _ = CASES[name]
    x, w = integers(*x_shape), integers(*w_shape, seed=1)
    if method == "native" and name == "3d groups":
        pytest.skip("MLX has no groups in 3D")
    if device is None:
        y = call(name, x, w, method=method)
    else:
        with polyconv.planning_for(device):
            y = call(name, x, w, method=method)
    assert np.array_equal(np.array(y), reference(name, x, w))


@pytest.mark.parametrize("name", CASES)
def test_gradients_are_those_of_mlx(name):
    if name in ("3d groups", "strided, unread end") or pads_explicitly():
        pytest.skip("MLX refuses it, or some version of it is wrong")
    x_shape, w_shape, _ = CASES[name]
    x, w = integers(*x_shape), integers(*w_shape, seed=1)
    loss = lambda lib: lambda x, w: (call(name, x, w, lib) ** 2).sum()  # noqa: E731
    ours = mx.grad(loss(polyconv), argnums=(0, 1))(x, w)
    theirs = mx.grad(loss(mx), argnums=(0, 1))(x, w)
    for a, b in zip(ours, theirs, strict=True):
        assert mx.array_equal(a, b)


@pytest.mark.parametrize("dtype", [mx.float16, mx.bfloat16])
def test_products_of_halves_are_summed_in_float32(dtype):
    """Rounded once: as the float32 result of the same halves, then cast."""
    x = mx.random.normal((1, 50, 64)).astype(dtype)
    w = mx.random.normal((32, 16, 64)).astype(dtype)
    wide = polyconv.conv_transpose1d(x.astype(mx.float32), w.astype(mx.float32), 8, method="taps")
    assert mx.array_equal(polyconv.conv_transpose1d(x, w, 8, method="taps"), wide.astype(dtype))


def test_errors_bear_the_function_s_name():
    x, w = mx.ones((1, 5, 4)), mx.ones((2, 3, 4))
    with pytest.raises(ValueError, match=r"\[conv2d\] x must have 4 dimensions"):
        polyconv.conv2d(x, w)
    with pytest.raises(ValueError, match=r"\[conv1d\] stride must be at least 1; got 0"):
        polyconv.conv1d(x, w, stride=0)
    with pytest.raises(ValueError, match=r"\[conv1d\] padding must be"):
        polyconv.conv1d(x, w, padding=([1], [2]))
