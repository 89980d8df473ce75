"""The one validator: output sizes, promotion, and every error by its text."""

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import polyconv
from polyconv.problem import spec
from polyconv.problem.spec import Axis


def ones(*shape, dtype=mx.float32):
    return mx.ones(shape, dtype)


X1, W1 = ones(1, 6, 4), ones(2, 3, 4)
X2, W2 = ones(1, 5, 6, 4), ones(2, 3, 3, 4)
X3, W3 = ones(1, 3, 3, 3, 4), ones(2, 2, 2, 2, 4)
T1, T2, T3 = polyconv.conv_transpose1d, polyconv.conv_transpose2d, polyconv.conv_transpose3d
G = polyconv.conv_general
PADDED = "x with its padding must be at least as long as the dilated kernel on every axis; got"

ERRORS = [
    # wrong rank
    (lambda: T1(X2, W1), "[conv_transpose1d] x must have 3 dimensions, (N, L, C); got shape (1, 5, 6, 4)"),
    (lambda: T2(X1, W2), "[conv_transpose2d] x must have 4 dimensions, (N, H, W, C); got shape (1, 6, 4)"),
    (lambda: T3(X2, W3), "[conv_transpose3d] x must have 5 dimensions, (N, D, H, W, C); got shape (1, 5, 6, 4)"),
    (lambda: T1(X1, W2), "[conv_transpose1d] weight must have 3 dimensions, (O, K, C / groups); got shape (2, 3, 3, 4)"),
    (lambda: T2(X2, W1), "[conv_transpose2d] weight must have 4 dimensions, (O, KH, KW, C / groups); got shape (2, 3, 4)"),
    (lambda: T3(X3, W2), "[conv_transpose3d] weight must have 5 dimensions, (O, KD, KH, KW, C / groups); got shape (2, 3, 3, 4)"),
    (lambda: G(ones(2, 4), W1), "[conv_general] x must have 3, 4 or 5 dimensions, (N, *S, C); got shape (2, 4)"),
    (lambda: G(ones(1, 2, 2, 2, 2, 4), W1), "[conv_general] x must have 3, 4 or 5 dimensions, (N, *S, C); got shape (1, 2, 2, 2, 2, 4)"),
    # channels and groups
    (lambda: T1(X1, ones(2, 3, 5)), "[conv_transpose1d] weight's last axis must be 4 input channels / 1 groups = 4, channels last, (O, K, C / groups); got shape (2, 3, 5) with x of shape (1, 6, 4)"),
    (lambda: T1(X1, W1, groups=2), "[conv_transpose1d] weight's last axis must be 4 input channels / 2 groups = 2, channels last, (O, K, C / groups); got shape (2, 3, 4) with x of shape (1, 6, 4)"),
    (lambda: T1(X1, W1, groups=3), "[conv_transpose1d] channels of x must be divisible by groups=3; got 4"),
    (lambda: T1(X1, ones(3, 3, 2), groups=2), "[conv_transpose1d] output channels of weight must be divisible by groups=2; got 3"),
    (lambda: T1(X1, W1, groups=0), "[conv_transpose1d] groups must be at least 1; got 0"),
    (lambda: T1(X1, W1, groups=-1), "[conv_transpose1d] groups must be at least 1; got -1"),
    (lambda: T1(X1, W1, groups=1.5), "[conv_transpose1d] groups must be an int; got 1.5"),
    (lambda: T1(X1, ones(2, 0, 4)), "[conv_transpose1d] weight must have at least one tap on every axis; got shape (2, 0, 4)"),
    # stride and dilation
    (lambda: T1(X1, W1, stride=0), "[conv_transpose1d] stride must be at least 1; got 0"),
    (lambda: T2(X2, W2, stride=(2, -1)), "[conv_transpose2d] stride must be at least 1; got -1"),
    (lambda: T1(X1, W1, dilation=0), "[conv_transpose1d] dilation must be at least 1; got 0"),
    (lambda: G(X1, W1, stride=0), "[conv_general] stride must be at least 1; got 0"),
    (lambda: G(X1, W1, kernel_dilation=-2), "[conv_general] kernel_dilation must be at least 1; got -2"),
    (lambda: G(X1, W1, input_dilation=0), "[conv_general] input_dilation must be at least 1; got 0"),
    # form
    (lambda: T3(X3, W3, stride=(2, 2)), "[conv_transpose3d] stride must be an int or 3 ints, one per spatial axis; got (2, 2)"),
    (lambda: T2(X2, W2, padding=1.0), "[conv_transpose2d] padding must be an int or 2 ints, one per spatial axis; got 1.0"),
    (lambda: T1(X1, W1, output_padding="1"), "[conv_transpose1d] output_padding must be an int or 1 int; got '1'"),
    (lambda: T1(X1, W1, stride=None), "[conv_transpose1d] stride must be an int or 1 int; got None"),
    (lambda: G(X2, W2, stride=[1, 2, 3]), "[conv_general] stride must be an int or 2 ints, one per spatial axis; got [1, 2, 3]"),
    (lambda: G(X2, W2, padding=([1, 2, 3], [1])), "[conv_general] padding_lo must be an int or 2 ints, one per spatial axis; got [1, 2, 3]"),
    (lambda: G(X1, W1, padding=(1, 2)), "[conv_general] padding must be an int or 1 int; got (1, 2)"),
    (lambda: G(X2, W2, stride=[[2]]), "[conv_general] stride must be an int or 2 ints, one per spatial axis; got [[2]]"),
    (lambda: T2(X2, W2, stride=b"ab"), "[conv_transpose2d] stride must be an int or 2 ints, one per spatial axis; got b'ab'"),
    (lambda: T2(X2, W2, stride=np.ones((3, 3), int)), "[conv_transpose2d] stride must be an int or 2 ints, one per spatial axis; got array([[1, 1, 1], [1, 1, 1], [1, 1, 1]])"),
    (lambda: T1(X1, W1, stride=list(range(99))), "[conv_transpose1d] stride must be an int or 1 int; got [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21..."),
    (lambda: T1(X1, W1, groups=True), "[conv_transpose1d] groups must be an int; got True"),
    (lambda: T1(X1, W1, method=["auto"]), "[conv_transpose1d] method must be a str; got ['auto']"),
    (lambda: T1(X1, W1, stream="cpu"), "[conv_transpose1d] stream must be a stream or device of MLX; got 'cpu'"),
    (lambda: G(X1, W1, flip=1), "[conv_general] flip must be True or False; got 1"),
    (lambda: T1(X1, W1, method="fast"), "[conv_transpose1d] method must be one of auto, per_phase, stacked, taps, native; got 'fast'"),
    (lambda: T1(np.ones((1, 6, 4)), W1), "[conv_transpose1d] x must be an mlx.core.array; got ndarray"),
    (lambda: T1(X1, [1.0]), "[conv_transpose1d] weight must be an mlx.core.array; got list"),
    # an output size below 1
    (lambda: T1(X1, W1, 2, padding=7), "[conv_transpose1d] padding must leave at least one output sample on every axis; got -1"),
    (lambda: T1(X1, W1, 2, -1, 1, -16), "[conv_transpose1d] padding must leave at least one output sample on every axis; got -1"),
    (lambda: G(ones(1, 2, 4), W1, stride=2), f"[conv_general] {PADDED} 2 samples for a kernel that spans 3"),
    # dtypes
    (lambda: T1(ones(1, 6, 4, dtype=mx.int32), W1), "[conv_transpose1d] x must be float16, bfloat16 or float32; got int32"),
    (lambda: T1(ones(1, 6, 4, dtype=mx.complex64), W1), "[conv_transpose1d] x must be float16, bfloat16 or float32; got complex64"),
    (lambda: T1(ones(1, 6, 4, dtype=mx.bool_), W1), "[conv_transpose1d] x must be float16, bfloat16 or float32; got bool"),
    (lambda: T1(X1, ones(2, 3, 4, dtype=mx.complex64)), "[conv_transpose1d] weight must be real; got complex64"),
    # int32
    (lambda: T1(ones(1, 2, 1), ones(1, 1, 1), 2**31 - 1), "[conv_transpose1d] every size must fit in int32, as MLX counts in int32; got 2147483648"),
    (lambda: T1(ones(1, 3, 1), ones(1, 1, 1), 2**30), "[conv_transpose1d] every size must fit in int32, as MLX counts in int32; got 2147483649"),
    (lambda: G(X1, W1, padding=2**31), "[conv_general] every size must fit in int32, as MLX counts in int32; got 4294967302"),
    # a method that cannot apply says why
    (lambda: T1(X1, W1, 3, dilation=2, method="stacked"), "[conv_transpose1d] method must suit the arguments; got 'stacked': phases read inputs that differ modulo their kernel dilation of 2, so no one dilated window holds them"),
    (lambda: T3(X3, ones(2, 2, 2, 2, 2), groups=2, method="native"), "[conv_transpose3d] method must suit the arguments; got 'native': MLX has no groups in 3D"),
    (lambda: T1(X1, W1, 2, padding=3, method="native"), "[conv_transpose1d] method must suit the arguments; got 'native': MLX crops before it dilates where padding is negative"),
    (lambda: T1(ones(0, 6, 4), W1, 2, method="native"), "[conv_transpose1d] method must suit the arguments; got 'native': MLX fails on arrays without elements"),
    (lambda: G(X1, W1, padding=([-6], [9]), method="native"), "[conv_general] method must suit the arguments; got 'native': MLX miscounts where negative padding crops a whole axis"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "text"), ERRORS, ids=[text for _, text in ERRORS])
def test_bad_input_is_one_sentence(call, text):
    with pytest.raises(ValueError) as error:
        call()
    assert str(error.value) == text


def test_float64_is_refused_where_mlx_has_no_kernel():
    """On a GPU; a CPU has products."""
    x, w = X1.astype(mx.float64, stream=mx.cpu), W1.astype(mx.float64, stream=mx.cpu)
    assert T1(x, w, 2, stream=mx.cpu).dtype == mx.float64
    with polyconv.planning_for("m4-max"), pytest.raises(ValueError) as error:
        T1(x, w, 2, stream=mx.cpu)
    assert str(error.value) == (
        "[conv_transpose1d] x must be float16, bfloat16 or float32 here, as for MLX; got float64"
    )


def test_a_method_is_checked_before_the_plan_is_taken_from_the_cache():
    assert T1(X1, W1, 2, method="stacked").shape == (1, 13, 2)
    with pytest.raises(ValueError, match="method must be one of"):
        T1(X1, W1, 2, method="Stacked")


def test_a_float_that_equals_a_cached_int_is_still_refused():
    assert T1(X1, W1, 2).shape == (1, 13, 2)
    with pytest.raises(ValueError, match="stride must be an int"):
        T1(X1, W1, 2.0)


@given(st.integers(1, 9), *[st.integers(1, 5)] * 4, st.integers(-4, 9), st.integers(-4, 9))
def test_output_size_counts_the_windows_that_fit(size, kernel, stride, dilation, s, lo, hi):
    axis = Axis(size, kernel, stride, s, dilation, lo, hi)
    padded = lo + (s * (size - 1) + 1) + hi
    starts = [t for t in range(0, padded, stride) if t + dilation * (kernel - 1) < padded]
    assert max(axis.output_size, 0) == len(starts)


REAL = [
    mx.float16,
    mx.bfloat16,
    mx.float32,
    mx.bool_,
    mx.int8,
    mx.int32,
    mx.int64,
    mx.uint8,
    mx.uint32,
]


@pytest.mark.parametrize("w", REAL, ids=str)
@pytest.mark.parametrize("x", REAL[:3], ids=str)
def test_dtypes_promote_as_in_mlx(x, w):
    a, b = X1.astype(x), W1.astype(w)
    assert T1(a, b, 2).dtype == mx.conv_transpose1d(a, b, 2).dtype
    names = [str(d).removeprefix("mlx.core.") for d in (x, w)]
    assert spec.promote(*names) == str(mx.conv1d(a, b).dtype).removeprefix("mlx.core.")


@pytest.mark.parametrize("groups", [1, 2])
def test_elements_are_those_of_the_arrays(groups):
    x, w = mx.zeros((2, 5, 6, 4)), mx.zeros((6, 3, 2, 4 // groups))
    y = mx.conv_general(x, w, stride=(2, 1), groups=groups)
    options = ((2, 1), ((0, 0), (0, 0)), (1, 1), (1, 1), groups, False)
    problem = spec.general("test", x.shape, w.shape, ("float32", "float32"), *options)
    assert (problem.n_inputs, problem.n_weights, problem.n_outputs) == (x.size, w.size, y.size)
