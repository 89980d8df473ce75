"""What does each of MLX's primitives compute, and may it be computed sample by sample?

In come the name and arguments of a primitive as a trace tells them; out goes a function of arrays.
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any, TypeAlias

import mlx.core as mx

from polyconv.execution.arrays import plus_product
from polyconv.execution.identity import handle_of

Compute: TypeAlias = "Callable[..., Any]"

_UNARY = {
    "Abs": mx.abs,
    "ArcCos": mx.arccos,
    "ArcCosh": mx.arccosh,
    "ArcSin": mx.arcsin,
    "ArcSinh": mx.arcsinh,
    "ArcTan": mx.arctan,
    "ArcTanh": mx.arctanh,
    "Ceil": mx.ceil,
    "Conjugate": mx.conjugate,
    "Copy": lambda a: a,
    "Cos": mx.cos,
    "Cosh": mx.cosh,
    "Erf": mx.erf,
    "ErfInv": mx.erfinv,
    "Exp": mx.exp,
    "Expm1": mx.expm1,
    "Floor": mx.floor,
    "Imag": mx.imag,
    "Log1p": mx.log1p,
    "LogicalNot": mx.logical_not,
    "Negative": mx.negative,
    "Real": mx.real,
    "Round": mx.round,
    "Sigmoid": mx.sigmoid,
    "Sign": mx.sign,
    "Sin": mx.sin,
    "Sinh": mx.sinh,
    "Square": mx.square,
    "StopGradient": mx.stop_gradient,
    "Tan": mx.tan,
    "Tanh": mx.tanh,
}
_BINARY = {
    "Add": mx.add,
    "ArcTan2": mx.arctan2,
    "Divide": mx.divide,
    "Greater": mx.greater,
    "GreaterEqual": mx.greater_equal,
    "Less": mx.less,
    "LessEqual": mx.less_equal,
    "LogAddExp": mx.logaddexp,
    "LogicalAnd": mx.logical_and,
    "LogicalOr": mx.logical_or,
    "Maximum": mx.maximum,
    "Minimum": mx.minimum,
    "Multiply": mx.multiply,
    "NotEqual": mx.not_equal,
    "Power": mx.power,
    "Remainder": mx.remainder,
    "Select": mx.where,
    "Subtract": mx.subtract,
}
# By the first argument of the primitive.
_REDUCTIONS = {0: mx.all, 1: mx.any, 2: mx.sum, 3: mx.prod, 4: mx.min, 5: mx.max}
_LOGARITHMS = {0: mx.log2, 1: mx.log10, 2: mx.log}

# Of each number by itself, with arguments.
_WITH_ARGUMENTS: dict[str, Callable[..., Compute]] = {
    "AsType": lambda dtype: lambda a: a.astype(dtype),
    "Equal": lambda nan: _equal_nan if nan else mx.equal,
    "Log": lambda base: _LOGARITHMS[base],
    "Sqrt": lambda reciprocal: mx.rsqrt if reciprocal else mx.sqrt,
}

# What gives the same numbers in another shape: read from the shapes alone.
RESHAPES = ("ExpandDims", "Flatten", "Reshape", "Squeeze", "Unflatten")
# What is drawn anew in each call.
RANDOM = ("RandomBits",)


def _equal_nan(a: mx.array, b: mx.array) -> mx.array:
    return mx.logical_or(a == b, mx.logical_and(a != a, b != b))


def pointwise(name: str, arguments: tuple[Any, ...]) -> Compute | None:
    """The function of each number by itself, if a primitive is one."""
    if name in _WITH_ARGUMENTS:
        return _WITH_ARGUMENTS[name](*arguments)
    return _UNARY.get(name) or _BINARY.get(name)


def compute(
    name: str, arguments: tuple[Any, ...], shape: tuple[int, ...], dtype: mx.Dtype
) -> Compute | None:
    """The function of a primitive, whose first output has been traced with this shape and type.

    None if it is not known here.
    """
    if name in RESHAPES:
        return lambda a: a.reshape(shape)
    found = pointwise(name, arguments)
    if found is not None:
        return found
    if name in _BY_ARGUMENTS:
        return _BY_ARGUMENTS[name](*arguments)
    if name == "Arange":
        return lambda: mx.arange(*arguments, dtype=dtype)
    if name == "FFT":
        transform = _fft(*arguments)
        sizes = tuple([shape[axis] for axis in arguments[0]])
        return lambda a: transform(a, sizes)
    if name == "RandomBits":
        return _random_bits(arguments, shape)
    if name == "Scatter":
        return _scatter(*arguments)
    if name == "Broadcast":
        return lambda a: mx.broadcast_to(a, shape)
    if name == "Full":
        return lambda a: mx.broadcast_to(a, shape)
    return None


def _reduce(code: int, axes: tuple[int, ...]) -> Compute:
    return lambda a: _REDUCTIONS[code](a, axes, keepdims=True)


def _slice(start: Any, stop: Any, strides: Any) -> Compute:
    return lambda a: a[tuple(slices((start, stop, strides), a.shape))]


def slices(arguments: tuple[Any, ...], shape: tuple[int, ...]) -> list[slice]:
    """Of each axis the samples that a Slice takes, as Python says it.

    `arguments` are where it starts, where it stops, and its strides.
    """
    start, stop, strides = arguments
    found = []
    for a, b, step, size in zip(start, stop, strides, shape, strict=True):
        if step > 0:
            found.append(slice(a, b if b >= 0 else size + b, step))
        else:
            end = b if b >= 0 else size + b
            found.append(slice(a if a >= 0 else size + a, end if end >= 0 else None, step))
    return found


def updated(a: mx.array, at: tuple[Any, ...], new: mx.array, mode: int) -> mx.array:
    """The array with `new` at some places, or added to what is there where the mode is 2."""
    if mode == 2:
        return a.at[at].add(new)
    out = handle_of(a)
    out[at] = new
    return out


def _slice_update(mode: int, start: Any, stop: Any, strides: Any) -> Compute:
    def update(a: mx.array, b: mx.array) -> mx.array:
        return updated(a, tuple(slices((start, stop, strides), a.shape)), b, mode)

    return update


def _pad(axes: tuple[int, ...], lo: tuple[int, ...], hi: tuple[int, ...]) -> Compute:
    def pad(a: mx.array, value: mx.array) -> mx.array:
        widths = [(0, 0)] * a.ndim
        for axis, before, behind in zip(axes, lo, hi, strict=True):
            widths[axis] = (before, behind)
        return mx.pad(a, widths, constant_values=value)

    return pad


def _addmm(alpha: float, beta: float) -> Compute:
    return lambda a, b, c: plus_product(c, a, b, alpha, beta)


def _split(indices: tuple[int, ...], axis: int) -> Compute:
    return lambda a: mx.split(a, list(indices), axis)


def _gather(axes: tuple[int, ...], _: tuple[int, ...]) -> Compute:
    """`(*I, *S)` with 1 in the axes that the indices, each of shape `I`, are of."""

    def gather(a: mx.array, *indices: mx.array) -> mx.array:
        others = [axis for axis in range(a.ndim) if axis not in axes]
        taken = mx.transpose(a, [*axes, *others])[indices]
        return mx.expand_dims(taken, [indices[0].ndim + axis for axis in axes])

    return gather


def _scatter(mode: int, axes: tuple[int, ...]) -> Compute | None:
    """Into one axis: the updates are `(*I, *S)` with 1 in that axis."""
    if len(axes) != 1 or mode not in (2, 4):
        return None
    (axis,) = axes

    def scatter(a: mx.array, indices: mx.array, updates: mx.array) -> mx.array:
        rows = updates.reshape(-1, *updates.shape[indices.ndim :]).squeeze(axis + 1)
        rows = mx.moveaxis(rows, 0, axis)
        return updated(a, (*[slice(None)] * axis, indices.reshape(-1)), rows, mode)

    return scatter


def _random_bits(arguments: tuple[Any, ...], shape: tuple[int, ...]) -> Compute | None:
    """Of 32 bits, an even number of them: MLX tells these by name as keys alone."""
    n = prod(shape)
    if arguments[-1] != 4 or n % 2:
        return None
    return lambda key: mx.random.split(key, n // 2).reshape(shape)


def _fft(axes: tuple[int, ...], inverse: bool, real: bool, *_: Any) -> Compute:
    def transform(a: mx.array, sizes: tuple[int, ...]) -> mx.array:
        if inverse:
            return mx.fft.irfftn(a, sizes, axes) if real else mx.fft.ifftn(a, axes=axes)
        return (mx.fft.rfftn if real else mx.fft.fftn)(a, axes=axes)

    return transform


_SCANS = {0: mx.cummax, 1: mx.cummin, 2: mx.cumsum, 3: mx.cumprod}


def _scan(code: int, axis: int, reverse: bool, inclusive: bool) -> Compute:
    return lambda a: _SCANS[code](a, axis, reverse=reverse, inclusive=inclusive)


def _arg_reduce(code: int, axis: int) -> Compute:
    return lambda a: (mx.argmax if code else mx.argmin)(a, axis, keepdims=True)


def _quantized(group_size: int, bits: int, mode: int, transpose: bool) -> Compute | None:
    if mode:
        return None
    return lambda x, *w: mx.quantized_matmul(
        x, *w, transpose=transpose, group_size=group_size, bits=bits
    )


# Which of the arguments of a primitive is the only axis that it works along.
AXIS = {
    "ArgPartition": 1,
    "ArgReduce": 1,
    "ArgSort": 0,
    "Partition": 1,
    "Scan": 1,
    "Sort": 0,
}

_BY_ARGUMENTS: dict[str, Callable[..., Compute | None]] = {
    "AddMM": _addmm,
    "AsStrided": lambda shape, strides, offset: lambda a: mx.as_strided(a, shape, strides, offset),
    "ArgPartition": lambda k, axis: lambda a: mx.argpartition(a, k, axis),
    "ArgReduce": _arg_reduce,
    "ArgSort": lambda axis: lambda a: mx.argsort(a, axis),
    "Concatenate": lambda axis: lambda *arrays: mx.concatenate(list(arrays), axis),
    "Convolution": lambda stride, lo, hi, kernel, dilation, groups, flip: (
        lambda x, w: mx.conv_general(x, w, stride, (lo, hi), kernel, dilation, groups, flip)
    ),
    "Gather": _gather,
    "Matmul": lambda: mx.matmul,
    "Pad": _pad,
    "Partition": lambda k, axis: lambda a: mx.partition(a, k, axis),
    "QuantizedMatmul": _quantized,
    "Reduce": _reduce,
    "Scan": _scan,
    "Slice": _slice,
    "SliceUpdate": _slice_update,
    "Sort": lambda axis: lambda a: mx.sort(a, axis),
    "Softmax": lambda precise: lambda a: mx.softmax(a, -1, precise=precise),
    "Split": _split,
    "Transpose": lambda order: lambda a: mx.transpose(a, order),
}
