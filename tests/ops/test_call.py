"""The door: the argument forms, results and laziness of `mx.*`, and where polyconv differs."""

import mlx.core as mx
import numpy as np
import pytest

import polyconv
from tests.support.cases import NAMED, integers
from tests.support.reference import conv_general as reference_conv
from tests.support.tiled import counted

X1, W1 = integers(2, 6, 4), integers(2, 3, 4, seed=1)
X2, W2 = integers(2, 5, 6, 4), integers(2, 3, 3, 4, seed=1)
X3, W3 = integers(1, 3, 2, 3, 4), integers(2, 2, 3, 2, 4, seed=1)

CALLS = [
    ("conv_transpose1d", X1, W1, (2, 1, 1, 1), {}),
    ("conv_transpose1d", X1, W1, (), {"stride": 2, "padding": 1, "dilation": 2, "groups": 1}),
    ("conv_transpose1d", X1, W1, (np.int64(2), True), {}),
    ("conv_transpose1d", X1, integers(2, 3, 2), (2, 0, 1, 0, 2), {}),
    ("conv_transpose2d", X2, W2, (np.array([2, 3]),), {"padding": np.array([1, 0])}),
    ("conv_general", X2, W2, (np.array([2]), (np.array([1]), np.array([2])), 1, 2), {}),
    ("conv_transpose2d", X2, W2, (2, (1, 0), 1, (1, 0)), {}),
    ("conv_transpose2d", X2, W2, ([2, 1],), {"output_padding": (5, 2)}),
    ("conv_transpose3d", X3, W3, ((2, 1, 3), 1), {"dilation": (1, 2, 1), "output_padding": 1}),
    ("conv_transpose1d", X1[:, :0], W1, (2,), {}),
    ("conv_transpose1d", X1[:0], W1, (2,), {}),
    ("conv_transpose1d", X1, W1[:0], (2,), {}),
    ("conv_general", X2, W2, (), {}),
    ("conv_general", X2, W2, ([2], [1], [], [3]), {}),
    ("conv_general", X2, W2, (1, (1, 2), 1, 2), {"flip": True}),
    ("conv_general", X2, W2, (1, ([1, 0], [2, 1]), (2, 1), (1, 3)), {}),
    ("conv_general", X2, W2, (1, ([1], [2]), 1, 2), {}),
    ("conv_general", X1, W1, (3, [[4], [1]], 1, 2, 1, False), {}),
    ("conv_general", X1, W1, (1, ([], []), 1, 2), {}),
    ("conv_general", X3, W3, (2, 1, 1, [3, 1, 2]), {}),
]


@pytest.mark.parametrize(("name", "x", "w", "args", "kwargs"), CALLS)
def test_argument_forms_are_those_of_mlx(name, x, w, args, kwargs):
    ours = getattr(polyconv, name)(x, w, *args, **kwargs)
    theirs = getattr(mx, name)(x, w, *args, **kwargs)
    assert ours.dtype == theirs.dtype
    assert ours.shape == theirs.shape
    assert mx.array_equal(ours, theirs)


def test_the_first_two_arguments_are_positional_only():
    with pytest.raises(TypeError):
        polyconv.conv_transpose1d(x=X1, w=W1)


def test_1d_also_takes_a_sequence_of_one():
    assert mx.array_equal(
        polyconv.conv_transpose1d(X1, W1, [2], padding=(1,)), mx.conv_transpose1d(X1, W1, 2, 1)
    )


def test_random_normal_data_agrees_to_rounding():
    x, w = mx.random.normal((2, 40, 32)), mx.random.normal((16, 16, 32))
    for method in ("per_phase", "stacked"):
        y = polyconv.conv_transpose1d(x, w, 8, 4, method=method)
        assert mx.allclose(y, mx.conv_transpose1d(x, w, 8, 4), rtol=1e-5, atol=1e-4)


def test_nothing_is_computed_before_eval():
    """Measured: 4 bytes, and then 1.2 times the output."""
    mx.eval(X1, W1)
    before = counted()
    y = polyconv.conv_transpose1d(X1, W1, 2**16)
    assert mx.get_active_memory() - before < y.nbytes / 10
    mx.eval(y)
    assert mx.get_active_memory() - before > y.nbytes / 2


def test_halves_of_grouped_3d_are_rounded_once():
    """The partial sums over depth exceed float16; the result does not."""
    x = mx.full((1, 1, 1, 1, 2), 200, mx.float16)
    w = mx.array([200, 200, -200, -200], mx.float16).reshape(1, 4, 1, 1, 1)
    y = polyconv.conv_general(
        mx.broadcast_to(x, (1, 4, 1, 1, 2)), mx.tile(w, (2, 1, 1, 1, 1)), groups=2
    )
    assert y.flatten().tolist() == [0, 0]


@pytest.mark.parametrize("layout", ["transposed", "reversed", "strided", "broadcast"])
def test_inputs_need_not_be_contiguous(layout):
    x = {
        "transposed": integers(2, 4, 6).swapaxes(1, 2),
        "reversed": X1[:, ::-1],
        "strided": integers(2, 12, 4)[:, ::2],
        "broadcast": mx.broadcast_to(X1[:1, :1], (2, 6, 4)),
    }[layout]
    w = integers(4, 3, 2).transpose(2, 1, 0)
    got = polyconv.conv_transpose1d(x, w, 2)
    expected = reference_conv(np.array(x), np.array(w), [1], [2], [2], [1], [2], flip=True)
    assert np.array_equal(np.array(got), expected)


def test_the_repro_of_the_mlx_issue_needs_little_memory():
    """mlx issue 3082: asked for 86.6 GB of unfold buffer for 21 MB of output on Metal."""
    x, w = integers(1, 5158, 1), integers(1, 4096, 1)
    mx.eval(x, w)
    before = counted()
    y = polyconv.conv_transpose1d(x, w, stride=1024)
    mx.eval(y)
    assert y.shape == (1, 5157 * 1024 + 4096, 1)
    assert mx.get_peak_memory() - before < 100e6  # measured: 21.2 MB, all but the output's
    short = x[:, :12]
    native = mx.conv_transpose1d(short, w, stride=1024)
    assert mx.array_equal(polyconv.conv_transpose1d(short, w, stride=1024), native)


@pytest.mark.parametrize("name", NAMED)
def test_named_cases_agree_with_mlx_where_mlx_is_right(name):
    case = NAMED[name]
    x, w = (mx.array(a) for a in case.data())
    if name in ("padding crops whole phases", "3d groups", "3d depthwise"):
        pytest.skip("MLX refuses it or is wrong, see docs/differences.md")
    assert mx.array_equal(case.call(x, w, "auto"), case.call(x, w, "", lib=mx))


SHARED = [
    ("conv_transpose1d", {"stride": 2, "padding": 5}),
    ("conv_transpose1d", {"stride": 3, "padding": -2, "output_padding": 4, "dilation": 2}),
    ("conv_transpose1d", {"stride": 40}),
    ("conv1d", {"stride": 2, "padding": 30, "dilation": 3}),
    ("conv_general", {"stride": 3, "input_dilation": 2, "padding": ([7], [-3]), "flip": True}),
    ("conv_general", {"stride": 4, "input_dilation": 6, "kernel_dilation": 5}),
    ("conv_general", {"stride": 1, "padding": ([-2], [2])}),
]


@pytest.mark.parametrize("length", [9, 40, 133])
@pytest.mark.parametrize(("op", "options"), SHARED)
def test_one_filter_for_all_channels(op, options, length):
    x, h = integers(2, length, 5), integers(1, 7, 1, seed=1)
    each = mx.broadcast_to(h, (5, 7, 1))
    depthwise = getattr(polyconv, op)(x, each, **options, groups=5)
    shared = getattr(polyconv, op)(x, h, **options, groups=5)
    assert mx.array_equal(shared, depthwise)
    assert mx.array_equal(getattr(polyconv, op)(x, polyconv.pack(h), **options, groups=5), shared)
    loss = lambda x, w: (getattr(polyconv, op)(x, w, **options, groups=5) ** 2).sum()  # noqa: E731
    dx, dh = mx.grad(loss, argnums=(0, 1))(x, h)
    expected = mx.grad(lambda x, h: loss(x, mx.broadcast_to(h, (5, 7, 1))), argnums=(0, 1))(x, h)
    assert mx.array_equal(dx, expected[0])
    assert mx.array_equal(dh, expected[1])
    half = getattr(polyconv, op)(x.astype(mx.float16), h.astype(mx.float16), **options, groups=5)
    assert half.dtype == mx.float16
    assert mx.array_equal(half, shared.astype(mx.float16))


def test_one_filter_for_all_channels_is_refused_where_it_makes_no_sense():
    x, h = mx.zeros((1, 9, 4)), mx.zeros((1, 3, 1))
    with pytest.raises(ValueError, match="method must be 'auto'"):
        polyconv.conv_transpose1d(x, h, 2, groups=4, method="taps")
    with pytest.raises(ValueError, match=r"\[conv_transpose1d\]"):
        polyconv.conv_transpose1d(x, h, 2, groups=2)
    with pytest.raises(ValueError, match="stride"):
        polyconv.conv_transpose1d(x, h, 0, groups=4)
    assert polyconv.conv_transpose1d(mx.zeros((0, 9, 4)), h, 2, groups=4).shape == (0, 19, 4)
