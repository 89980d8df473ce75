"""Each primitive as MLX tells it is computed again, and compared with MLX by ==.

A new MLX that changes a name or the order of arguments is told here.
"""

from __future__ import annotations

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

from polyconv.streaming import primitives
from polyconv.streaming.traced import Trace, trace
from tests.support.cases import integers

X = integers(2, 6, 4)
Y = integers(2, 6, 4, seed=1)
POSITIVE = mx.abs(X) + 1
SMALL = X / 8
CODES = mx.array(np.random.default_rng(2).integers(0, 6, (2, 5)))
W = integers(3, 3, 4, seed=3)
KEY = mx.random.key(5)


def _set(a, b):
    a = mx.array(a)
    a[:, 1:5:2] = b[:, :2]
    return a


# Of each primitive's name the functions that are traced as it, and their inputs.
UNARY = {
    "Abs": (mx.abs, X),
    "ArcCos": (mx.arccos, SMALL),
    "ArcCosh": (mx.arccosh, POSITIVE),
    "ArcSin": (mx.arcsin, SMALL),
    "ArcSinh": (mx.arcsinh, X),
    "ArcTan": (mx.arctan, X),
    "ArcTanh": (mx.arctanh, SMALL),
    "AsType": (lambda a: a.astype(mx.int32), X),
    "Ceil": (mx.ceil, X / 2),
    "Conjugate": (mx.conjugate, X + 1j * Y),
    "Cos": (mx.cos, X),
    "Cosh": (mx.cosh, X),
    "Erf": (mx.erf, X),
    "ErfInv": (mx.erfinv, SMALL),
    "Exp": (mx.exp, X),
    "Expm1": (mx.expm1, X),
    "Floor": (mx.floor, X / 2),
    "Imag": (mx.imag, X + 1j * Y),
    "Log1p": (mx.log1p, POSITIVE),
    "LogicalNot": (lambda a: mx.logical_not(a > 0), X),
    "Negative": (mx.negative, X),
    "Real": (mx.real, X + 1j * Y),
    "Round": (mx.round, X / 2),
    "Sigmoid": (mx.sigmoid, X),
    "Sign": (mx.sign, X),
    "Sin": (mx.sin, X),
    "Sinh": (mx.sinh, X),
    "Square": (mx.square, X),
    "Tan": (mx.tan, X),
    "Tanh": (mx.tanh, X),
}
BINARY = {
    "Add": mx.add,
    "ArcTan2": mx.arctan2,
    "Divide": mx.divide,
    "Equal": mx.equal,
    "Greater": mx.greater,
    "GreaterEqual": mx.greater_equal,
    "Less": mx.less,
    "LessEqual": mx.less_equal,
    "LogAddExp": mx.logaddexp,
    "LogicalAnd": lambda a, b: mx.logical_and(a > 0, b > 0),
    "LogicalOr": lambda a, b: mx.logical_or(a > 0, b > 0),
    "Maximum": mx.maximum,
    "Minimum": mx.minimum,
    "Multiply": mx.multiply,
    "NotEqual": mx.not_equal,
    "Power": lambda a, b: mx.power(mx.abs(a) + 1, b),
    "Remainder": lambda a, b: mx.remainder(a, mx.abs(b) + 1),
    "Select": lambda a, b: mx.where(a > b, a, b),
    "Subtract": mx.subtract,
}
OTHERS = [
    ("AddMM", lambda a: mx.addmm(W[0], a, W[1].T @ W[1], 2.0, 3.0), X[:, :3]),
    ("Arange", lambda a: a + mx.arange(1, 9, 2), X),
    ("AsStrided", lambda a: mx.as_strided(a, (3, 4), (4, 2), 5), X),
    ("Broadcast", lambda a: mx.broadcast_to(a[:, :1], (2, 6, 4)) + a, X),
    ("Concatenate", lambda a: mx.concatenate([a, a + 1, a], 1), X),
    ("Convolution", lambda a: mx.conv1d(a, W, 2, 1, 2), X),
    ("Convolution", lambda a: mx.conv1d(a, W[..., :2], 1, 0, 1, 1), X[..., :2]),
    ("Convolution", lambda a: mx.conv_general(a, W, 1, ([2], [3]), 1, 3, flip=True), X),
    ("Convolution", lambda a: mx.conv_transpose1d(a, W, 2, 1), X),
    ("Convolution", lambda a: mx.conv1d(a, mx.concatenate([W, W[:1]])[..., :2], groups=2), X),
    ("Convolution", lambda a: mx.conv2d(a[..., None], W[..., None], (1, 2), (1, 0)), X),
    ("ExpandDims", lambda a: mx.expand_dims(a, (0, 3)), X),
    ("Equal", lambda a: mx.array_equal(a, a + 0, equal_nan=True), X),
    ("FFT", lambda a: mx.fft.fft(a, axis=1), X),
    ("FFT", lambda a: mx.fft.ifft(a, axis=2), X),
    ("FFT", lambda a: mx.fft.rfft2(a, axes=(1, 2)), X),
    ("FFT", lambda a: mx.fft.irfft(a, n=6, axis=2), X),
    ("FFT", lambda a: mx.fft.irfft(a, n=7, axis=1), X[:, :4]),
    ("Flatten", lambda a: mx.flatten(a, 1, 2), X),
    ("Full", lambda a: a + mx.full((6, 4), a[0, 0, 0]), X),
    ("Gather", lambda a: mx.take(a, CODES[0], 1), X),
    ("Gather", lambda a: a[:, CODES], X),
    ("Gather", lambda a: W[1][a.astype(mx.int32) % 3], X[..., 0]),
    ("Gather", lambda a: a[CODES[0] % 2, CODES[1], 2], X),
    ("Gather", lambda a: a[CODES[:, :1] % 2, :, CODES % 4], X),
    ("Log", mx.log, POSITIVE),
    ("Log", mx.log2, POSITIVE),
    ("Log", mx.log10, POSITIVE),
    ("Matmul", lambda a: a @ W.swapaxes(1, 2)[:2], X),
    ("Pad", lambda a: mx.pad(a, [(0, 0), (2, 3), (1, 0)], constant_values=7.0), X),
    ("RandomBits", lambda a: a + mx.random.normal((4,), key=KEY), X),
    ("RandomBits", lambda a: a + mx.random.uniform(shape=(6, 4), key=KEY), X),
    ("Reduce", lambda a: mx.sum(a, (0, 2)), X),
    ("Reduce", lambda a: mx.prod(a, 1, keepdims=True), X),
    ("Reduce", lambda a: mx.min(a, -1), X),
    ("Reduce", lambda a: mx.max(a), X),
    ("Reduce", lambda a: mx.all(a > -3, 1), X),
    ("Reduce", lambda a: mx.any(a > 2, 2), X),
    ("Reshape", lambda a: a.swapaxes(1, 2).reshape(3, -1), X),
    ("Scatter", lambda a: mx.zeros((7, 4)).at[CODES[0]].add(a[0, :5]), X),
    ("Slice", lambda a: a[:, 1:-1:2, -3:], X),
    ("Slice", lambda a: a[:, ::-1], X),
    ("Slice", lambda a: a[:, -2:0:-2], X),
    ("SliceUpdate", lambda a: _set(a, a * 2), X),
    ("SliceUpdate", lambda a: mx.zeros((2, 8, 4)).at[:, 1:7].add(a), X),
    ("ArgPartition", lambda a: mx.sort(mx.argpartition(a, 2, -1)[..., :2], -1), X),
    ("ArgReduce", lambda a: mx.argmin(a, -1, keepdims=True) + mx.argmax(a, 1, keepdims=True), X),
    ("ArgSort", lambda a: mx.argsort(a, -1), X),
    ("Partition", lambda a: mx.sort(mx.partition(a, 2, -1)[..., :2], -1), X),
    ("Scan", lambda a: mx.cumsum(a, 1) + mx.cummax(a, 2, reverse=True), X),
    ("Scan", lambda a: mx.cumprod(a, 1) + mx.cummin(a, 2, inclusive=False), X),
    ("Sort", lambda a: mx.sort(a, 1), X),
    ("Softmax", lambda a: mx.softmax(a, -1), X),
    ("Softmax", lambda a: mx.softmax(a, -1, precise=True), X.astype(mx.float16)),
    ("Split", lambda a: mx.split(a, [1, 3], 1)[1], X),
    ("Split", lambda a: mx.split(a, 2, 2), X),
    ("Sqrt", mx.sqrt, POSITIVE),
    ("Sqrt", mx.rsqrt, POSITIVE),
    ("Squeeze", lambda a: mx.squeeze(a[:, :1], 1), X),
    ("Transpose", lambda a: mx.transpose(a, (2, 0, 1)), X),
    ("Unflatten", lambda a: mx.unflatten(a, 2, (2, 2)), X),
    ("Multiply", nn.LayerNorm(4), X),
    ("Multiply", nn.RMSNorm(4), X),
    ("Sigmoid", nn.silu, X),
]
CASES = [
    *[(name, function, (x,)) for name, (function, x) in UNARY.items()],
    *[(name, function, (X, Y)) for name, function in BINARY.items()],
    *[(name, function, (x,)) for name, function, x in OTHERS],
]


def recomputed(found: Trace, inputs: tuple[mx.array, ...]) -> list[mx.array]:
    """The outputs of a trace, operation by operation."""
    values = dict(enumerate((*inputs, *found.constants)))
    for each in found.operations:
        number = each.outputs[0]
        function = primitives.compute(
            each.name, each.arguments, found.shapes[number], found.dtypes[number]
        )
        assert function is not None, each
        made = function(*[values[i] for i in each.inputs])
        made = made if isinstance(made, (list, tuple)) else [made]
        values |= dict(zip(each.outputs, made, strict=True))
    for number, value in values.items():
        assert value.shape == found.shapes[number]
        assert value.dtype == found.dtypes[number]
    return [values[number] for number in found.outputs]


@pytest.mark.parametrize(
    ("name", "function", "inputs"), CASES, ids=[f"{i}-{case[0]}" for i, case in enumerate(CASES)]
)
def test_a_primitive_computes_what_mlx_computes(name, function, inputs):
    with mx.stream(mx.cpu):
        found = trace(function, *inputs)
        assert name in found.names
        expected = function(*inputs)
        expected = expected if isinstance(expected, (list, tuple)) else [expected]
        for made, right in zip(recomputed(found, inputs), expected, strict=True):
            assert mx.array_equal(made, right, equal_nan=made.dtype == mx.float32)


def test_each_known_primitive_is_among_these():
    known = {
        *primitives._UNARY,
        *primitives._BINARY,
        *primitives._WITH_ARGUMENTS,
        *primitives._BY_ARGUMENTS,
        *primitives.RESHAPES,
        *primitives.RANDOM,
    }
    assert known - {case[0] for case in CASES} <= {
        "Copy",
        "StopGradient",
        "QuantizedMatmul",  # tests/whole/test_empty_operands.py streams one
    }  # which no trace tells today, or not of integers


def test_a_compiled_function_is_told_as_what_it_is_made_of():
    with mx.stream(mx.cpu):
        found = trace(nn.gelu, X)
        (made,) = recomputed(found, (X,))
        assert "Erf" in found.names
        assert mx.allclose(made, nn.gelu(X), 1e-6, 1e-6)


@pytest.mark.parametrize("name", ["Attention", "Hadamard", ""])
def test_an_unknown_primitive_is_not_guessed(name):
    assert primitives.compute(name, (), (), mx.float32) is None
    assert primitives.pointwise(name, ()) is None


def test_random_bits_of_other_widths_are_not_guessed():
    found = trace(lambda a: a + mx.random.uniform(shape=(3,), key=KEY), X[..., :3])
    (drawn,) = [each for each in found.operations if each.name == "RandomBits"]
    assert primitives.compute("RandomBits", drawn.arguments, (3,), mx.uint32) is None
