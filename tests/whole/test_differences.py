"""Each row of docs/differences.md: MLX does what the row says, and polyconv what is right."""

import re
import tempfile
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

import polyconv
from polyconv.execution.device import pads_explicitly
from tests.support.cases import integers
from tests.support.reference import conv_general as reference_conv

DIFFERENCES = Path(__file__).parents[2] / "docs" / "differences.md"


X1, W1 = integers(2, 6, 4), integers(2, 3, 4, seed=1)
X2, W2 = integers(2, 5, 6, 4), integers(2, 3, 3, 4, seed=1)


def agrees(ours, x, w, **general):
    return np.array_equal(np.array(ours), reference_conv(np.array(x), np.array(w), **general))


def _general(lo, hi, input_dilation=1, ndim=1):
    """The reference's arguments, the same on every axis."""
    return {
        "stride": [1] * ndim,
        "lo": [lo] * ndim,
        "hi": [hi] * ndim,
        "kernel_dilation": [1] * ndim,
        "input_dilation": [input_dilation] * ndim,
    }


def differs_padding_above_kernel():
    x, w = integers(1, 6, 1), integers(1, 3, 1)
    assert mx.conv_transpose1d(x, w, 2, 3).shape == (1, 5, 1)
    return agrees(
        polyconv.conv_transpose1d(x, w, 2, 3),
        x,
        w,
        **_general(lo=-1, hi=-1, input_dilation=2),
        flip=True,
    ) and polyconv.conv_transpose1d(x, w, 2, 3).shape == (1, 7, 1)


def differs_negative_general_padding():
    x, w = integers(1, 6, 1), integers(1, 3, 1)
    assert mx.conv_general(x, w, 1, ([-1], [0]), 1, 3).shape == (1, 11, 1)
    y = polyconv.conv_general(x, w, 1, ([-1], [0]), 1, 3)
    return y.shape == (1, 13, 1) and agrees(y, x, w, **_general(lo=-1, hi=0, input_dilation=3))


def differs_whole_axis_cropped():
    x, w = integers(1, 6, 1), integers(1, 3, 1)
    y = polyconv.conv_general(x, w, 1, ([-7], [9]))
    assert mx.conv_general(x, w, 1, ([-7], [9])).shape != y.shape
    return y.shape == (1, 6, 1) and agrees(y, x, w, **_general(lo=-7, hi=9))


def differs_kernel_longer_than_input():
    x, w = integers(1, 2, 1), integers(1, 3, 1)
    assert mx.conv_general(x, w, 2).shape == (1, 1, 1)
    with pytest.raises(ValueError, match="x with its padding must be at least"):
        polyconv.conv_general(x, w, 2)
    return True


def differs_groups_in_3d():
    x, w = integers(1, 2, 3, 2, 4), integers(2, 2, 2, 2, 2)
    with pytest.raises(ValueError, match="Can only handle groups"):
        mx.conv_transpose3d(x, w, 2, groups=2)
    y = polyconv.conv_transpose3d(x, w, 2, groups=2)
    return agrees(y, x, w, **_general(lo=1, hi=1, input_dilation=2, ndim=3), groups=2, flip=True)


def differs_groups_zero():
    with pytest.raises(ValueError, match="groups must be at least 1; got 0"):
        polyconv.conv_transpose1d(X1, W1, groups=0)
    return True


def differs_no_input_channels():
    y = polyconv.conv_transpose1d(mx.zeros((1, 6, 0)), mx.zeros((2, 3, 0)), 2)
    return y.shape == (1, 13, 2) and not np.any(np.array(y))


def differs_common_multiples():
    x, w = integers(1, 4, 1), integers(1, 3, 1)
    for steps in ((2**31 - 1, 1, 8), (1, 65537, 65536)):
        options = dict(zip(("stride", "kernel_dilation", "input_dilation"), steps))
        options |= {"padding": steps[1]}
        with pytest.raises(ValueError, match=r"MLX counts common multiples|MLX on CUDA may"):
            polyconv.conv_general(x, w, **options, method="native")
        y = polyconv.conv_general(x, w, **options)
        general = _general(lo=steps[1], hi=steps[1], input_dilation=steps[2])
        general |= {"stride": [steps[0]], "kernel_dilation": [steps[1]]}
        if not agrees(y, x, w, **general):
            return False
    return True


def differs_no_taps():
    w = mx.zeros((2, 0, 4))
    assert mx.conv_transpose1d(X1, w, 2).shape == (2, 8, 2)
    with pytest.raises(ValueError, match="at least one tap"):
        polyconv.conv_transpose1d(X1, w, 2)
    return True


def differs_rank_taken_from_the_input():
    assert mx.conv_transpose1d(X2, W2, 2).ndim == 4
    with pytest.raises(ValueError, match="x must have 3 dimensions"):
        polyconv.conv_transpose1d(X2, W2, 2)
    return True


def differs_vmap_of_groups():
    x, w = integers(2, 8, 4), integers(3, 6, 3, 2)
    each = mx.stack([mx.conv_transpose1d(x, w[i], 2, groups=2) for i in range(3)])

    def mapped(lib):
        return mx.vmap(lambda w: lib.conv_transpose1d(x, w, 2, groups=2))(w)

    assert not mx.array_equal(mapped(mx), each)
    return mx.array_equal(mapped(polyconv), each).item()


def differs_error_types():
    with pytest.raises(TypeError):
        mx.conv_transpose1d(X1, W1, 2.0)
    with pytest.raises((OverflowError, ValueError)):  # ValueError before MLX 0.32
        mx.eval(mx.conv_transpose1d(mx.ones((1, 3, 1)), mx.ones((1, 1, 1)), 2**30))
    for stride in (2.0, 2**30):
        with pytest.raises(ValueError, match="must"):
            polyconv.conv_transpose1d(mx.ones((1, 3, 1)), mx.ones((1, 1, 1)), stride)
    return True


def differs_infinity():
    x = mx.array([1.0, float("inf"), 1, 1, 1, 1]).reshape(1, 6, 1)
    w = mx.ones((1, 3, 1))
    exact = [1, 1, *[float("inf")] * 3, 1, 2, 1, 2, 1, 2, 1, 1]

    def values(lib, **method):
        # On Metal MLX multiplies inserted zeros, and so infinity by zero.
        return lib.conv_transpose1d(x, w, 2, **method, stream=mx.cpu).flatten().tolist()

    assert values(mx) == values(polyconv, method="per_phase") == exact
    stacked = values(polyconv, method="stacked")
    spread = [i for i, (a, b) in enumerate(zip(stacked, exact)) if a != b]
    return spread == [5] and np.isnan(stacked[5])


def differs_infinity_in_the_weight():
    x, w = mx.ones((1, 5, 1)), mx.array([float("inf"), 1, 1]).reshape(1, 3, 1)
    exact = [float("inf"), 1] * 5 + [1]
    assert mx.conv_transpose1d(x, w, 2, stream=mx.cpu).flatten().tolist() == exact
    for method in ("per_phase", "stacked", "taps", "auto"):
        y = polyconv.conv_transpose1d(x, w, 2, method=method, stream=mx.cpu).flatten().tolist()
        if y[:-1] != exact[:-1] or not np.isnan(y[-1]):
            return False
    plain = mx.conv1d(x, w, 1, 1, stream=mx.cpu).flatten().tolist()  # without a dilation MLX too
    ours = polyconv.conv1d(x, w, 1, 1, stream=mx.cpu).flatten().tolist()
    return np.isnan(plain[0]) and str(plain) == str(ours)


def differs_infinity_and_a_shared_filter():
    x = mx.ones((1, 600, 2))
    x[0, 1, 0] = float("inf")
    w = mx.ones((1, 3, 1))
    with pytest.raises(ValueError, match="groups"):
        mx.eval(mx.conv_transpose1d(x, w, 2, groups=2))
    y = np.array(polyconv.conv_transpose1d(x, w, 2, groups=2, stream=mx.cpu))[0]
    assert np.isinf(y[2:5, 0]).all()
    others = [
        0,
        1,
        *range(5, 32),
    ]  # a block is of 32 outputs here: of 16 inputs, by the stride of 2
    spread = np.flatnonzero(np.isnan(y[:, 0])).tolist()
    return spread == others and np.isfinite(y[32:]).all() and np.isfinite(y[:, 1]).all()


def differs_second_order_of_strides():
    x, w = integers(1, 10, 1), integers(2, 2, 1)

    def dw(lib, x):
        loss = lambda x, w: (lib.conv_general(x, w, 3) ** 2).sum()  # noqa: E731
        return mx.grad(lambda w: (mx.grad(loss)(x, w) ** 2).sum())(w)

    right = dw(mx, x[:, :8])  # without the two samples that no window reads
    # Older versions of MLX get this example right.
    assert mx.array_equal(dw(mx, x), right).item() == pads_explicitly()
    return mx.array_equal(dw(polyconv, x), right).item()


def differs_shapeless():
    def double(lib):
        w = integers(3, 4, 4)
        return mx.compile(lambda x: lib.conv_transpose1d(x, w, 2, 1), shapeless=True)

    for length in (5, 9):
        assert double(mx)(integers(1, length, 4)).shape == (1, 2 * length, 3)
    w = integers(2, 3, 1)
    gradient = mx.compile(mx.grad(lambda x: mx.conv1d(x, w, 2, 1).sum()), shapeless=True)
    assert [gradient(integers(1, n, 1)).shape[1] for n in (65, 64)] == [65, 63]
    convolve = double(polyconv)
    with pytest.raises(ValueError, match="cannot infer output shapes"):
        mx.eval(convolve(integers(1, 5, 4)), convolve(integers(1, 9, 4)))
    return True


def differs_export():
    x, w = integers(1, 5, 4), integers(4, 3, 2)
    with tempfile.TemporaryDirectory() as folder:
        file = f"{folder}/convolve.mlxfn"
        mx.export_function(file, lambda x: mx.conv_transpose1d(x, w, 2, groups=2), x)
        ours = lambda x: polyconv.conv_transpose1d(x, w, 2, groups=2)  # noqa: E731
        with pytest.raises(ValueError, match="Unable to serialize primitive"):
            mx.export_function(file, ours, x)
        with polyconv.exporting():
            mx.export_function(file, ours, x)
        return mx.array_equal(mx.import_function(file)(x)[0], ours(x)).item()


def differs_complex_weight():
    w = W1.astype(mx.complex64)
    assert mx.conv_transpose1d(X1, w).dtype == mx.complex64
    with pytest.raises(ValueError, match="weight must be real"):
        polyconv.conv_transpose1d(X1, w)
    return True


def test_types_are_taken_and_refused_as_mlx_does():
    names = ("float32", "float16", "bfloat16", "int32", "uint8", "bool_", "complex64")

    def found(lib, x, w):
        try:
            y = lib.conv_transpose1d(X1.astype(getattr(mx, x)), W1.astype(getattr(mx, w)))
            mx.eval(y)
            return y.dtype
        except ValueError:
            return "refused"

    for x in names:
        for w in names[:-1]:
            assert found(polyconv, x, w) == found(mx, x, w)


TABLE = {name: check for name, check in globals().items() if name.startswith("differs_")}


@pytest.mark.parametrize("name", TABLE)
def test_differences_from_mlx(name):
    assert TABLE[name]()


def test_each_row_of_the_table_of_differences_has_a_test():
    rows = re.findall(r"`(differs_\w+)`", DIFFERENCES.read_text())
    assert sorted(rows) == sorted(TABLE)
