"""What is a legal convolution, and what shape comes out of it?

`arguments` reads the forms that callers write, `shapes` judges shapes, and this file the rest;
nothing else validates. A transposed convolution and the stride-1 convolutions that replace it are
the same kind of thing here: a `ConvSpec`. Everything past this file may assume that its integers
are legal. Standard library only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod

from polyconv.problem.arguments import refuse, shown
from polyconv.problem.shapes import check_positive, check_shapes

INT32_MAX = 2**31 - 1

# Bytes of each dtype that a convolution may have, in the order of promotion.
ITEMSIZE = {"float16": 2, "bfloat16": 2, "float32": 4, "float64": 8}

_FLOATS = tuple(ITEMSIZE)


@dataclass(frozen=True, slots=True)
class Axis:
    """One spatial axis of a convolution, in the terms of `mx.conv_general`.

    With `xd` the input with `input_dilation - 1` zeros between its samples, and the kernel in
    correlation order,

        y[t] = sum_k w[k] * xd[stride * t + kernel_dilation * k - padding_lo]

    Negative padding crops the *dilated* input.

    >>> Axis(size=100, kernel_size=16, input_dilation=8, padding_lo=11, padding_hi=11).output_size
    800
    """

    size: int
    kernel_size: int
    stride: int = 1
    input_dilation: int = 1
    kernel_dilation: int = 1
    padding_lo: int = 0
    padding_hi: int = 0

    @property
    def dilated_size(self) -> int:
        """Samples after zero insertion; `1 - input_dilation` for an empty axis, as MLX counts."""
        return self.input_dilation * (self.size - 1) + 1

    @property
    def window(self) -> int:
        """Samples from the first to the last tap of the dilated kernel, both included."""
        return self.kernel_dilation * (self.kernel_size - 1) + 1

    @property
    def output_size(self) -> int:
        room = self.dilated_size + self.padding_lo + self.padding_hi - self.window
        return room // self.stride + 1


@dataclass(frozen=True, slots=True)
class ConvSpec:
    """One convolution: `x (N, *S, C)` with `w (O, *K, C / groups)` gives `y (N, *output, O)`."""

    batch: int
    in_channels: int
    out_channels: int
    axes: tuple[Axis, ...]
    groups: int = 1
    flip: bool = False
    dtype: str = "float32"

    @property
    def ndim(self) -> int:
        return len(self.axes)

    @property
    def output_sizes(self) -> tuple[int, ...]:
        return tuple(axis.output_size for axis in self.axes)

    @property
    def output_shape(self) -> tuple[int, ...]:
        return (self.batch, *self.output_sizes, self.out_channels)

    @property
    def n_inputs(self) -> int:
        """Elements of the input."""
        return self.batch * self.in_channels * prod(axis.size for axis in self.axes)

    @property
    def n_weights(self) -> int:
        """Elements of the weight."""
        taps = prod(axis.kernel_size for axis in self.axes)
        return self.out_channels * taps * (self.in_channels // self.groups)

    @property
    def n_outputs(self) -> int:
        """Elements of the output."""
        return prod(self.output_shape)

    @property
    def is_empty(self) -> bool:
        """Whether nothing is multiplied, so that the output is empty or all zeros."""
        if not (self.batch and self.in_channels and self.out_channels):
            return True
        return any(not axis.size or not axis.output_size for axis in self.axes)

    @property
    def is_input_dilated(self) -> bool:
        return any(axis.input_dilation > 1 for axis in self.axes)


def transposed(
    op: str,
    x_shape: tuple[int, ...],
    w_shape: tuple[int, ...],
    dtypes: tuple[str, str],
    stride: tuple[int, ...],
    padding: tuple[int, ...],
    dilation: tuple[int, ...],
    output_padding: tuple[int, ...],
    groups: int,
) -> ConvSpec:
    """The `ConvSpec` of a transposed convolution.

    As MLX makes it (mlx/ops.cpp, `conv_transpose_general`): the stride becomes the input dilation,
    the kernel is flipped, and the padding is `transposed_padding`.
    """
    ndim = len(stride)
    check_shapes(op, x_shape, w_shape, ndim, groups)
    check_positive(op, stride=stride, dilation=dilation)
    pair = transposed_padding(w_shape[1:-1], padding, dilation, output_padding)
    axes = _axes(x_shape, w_shape, (1,) * ndim, stride, dilation, *pair)
    for axis in axes:
        if axis.output_size < 1:
            must = "padding must leave at least one output sample on every axis"
            refuse(op, must, str(axis.output_size))
    return _spec(op, x_shape, w_shape, dtypes, axes, groups, flip=True)


def general(
    op: str,
    x_shape: tuple[int, ...],
    w_shape: tuple[int, ...],
    dtypes: tuple[str, str],
    stride: tuple[int, ...],
    padding: tuple[tuple[int, ...], tuple[int, ...]],
    kernel_dilation: tuple[int, ...],
    input_dilation: tuple[int, ...],
    groups: int,
    flip: bool,
) -> ConvSpec:
    """The `ConvSpec` of `mx.conv_general`'s arguments."""
    check_shapes(op, x_shape, w_shape, len(stride), groups)
    dilations = {"kernel_dilation": kernel_dilation, "input_dilation": input_dilation}
    check_positive(op, stride=stride, **dilations)
    axes = _axes(x_shape, w_shape, stride, input_dilation, kernel_dilation, *padding)
    for axis in axes:
        if axis.output_size < 1:
            must = "x with its padding must be at least as long as the dilated kernel on every axis"
            padded = axis.dilated_size + axis.padding_lo + axis.padding_hi
            refuse(op, must, f"{padded} samples for a kernel that spans {axis.window}")
    return _spec(op, x_shape, w_shape, dtypes, axes, groups, flip)


def transposed_padding(
    kernel: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    output_padding: Sequence[int],
) -> tuple[list[int], list[int]]:
    """`conv_general`'s padding of a transposed convolution, in front and behind, per axis.

        padding_lo = dilation * (kernel_size - 1) - padding
        padding_hi = padding_lo + output_padding

    MLX writes the second in a longer form that reduces to this.
    """
    lo = [d * (k - 1) - p for d, k, p in zip(dilation, kernel, padding, strict=True)]
    return lo, [a + b for a, b in zip(lo, output_padding, strict=True)]


def adjoint(spec: ConvSpec) -> ConvSpec:
    """The convolution that maps cotangents of `spec`'s output to cotangents of its input.

    Of `y[t] = sum_k w[k] xd[stride t + d k - padding_lo]` the sample `xd[input_dilation i]` takes

        sum over k, t with stride t + d k - padding_lo = input_dilation i   of   w[k] y[t]

    With y dilated by `stride` and k counted from the other end this is a convolution again. Its
    `stride` and `input_dilation` are exchanged, and `d (kernel_size - 1) - padding_lo` zeros stand
    in front. The padding behind makes its output as long as the input was. (`Convolution::vjp` of
    mlx/primitives.cpp says the same and crops afterwards.)
    """
    axes = []
    for axis in spec.axes:
        lo = axis.window - 1 - axis.padding_lo
        reach = axis.input_dilation * (axis.size - 1) - axis.stride * (axis.output_size - 1)
        axes.append(
            Axis(
                size=axis.output_size,
                kernel_size=axis.kernel_size,
                stride=axis.input_dilation,
                input_dilation=axis.stride,
                kernel_dilation=axis.kernel_dilation,
                padding_lo=lo,
                padding_hi=reach + axis.padding_lo,
            )
        )
    return replace(
        spec,
        in_channels=spec.out_channels,
        out_channels=spec.in_channels,
        axes=tuple(axes),
        flip=not spec.flip,
    )


def promote(x: str, w: str) -> str:
    """The result dtype of float `x` and real `w`, as `mx` promotes (mlx/dtype.cpp).

    >>> promote("float16", "bfloat16"), promote("bfloat16", "int32")
    ('float32', 'bfloat16')
    """
    if w not in _FLOATS or x == w:
        return x
    if {x, w} == {"float16", "bfloat16"}:
        return "float32"
    return max(x, w, key=_FLOATS.index)


def _axes(
    x_shape: tuple[int, ...], w_shape: tuple[int, ...], *options: Sequence[int]
) -> tuple[Axis, ...]:
    per_axis = zip(x_shape[1:-1], w_shape[1:-1], *options, strict=True)
    return tuple(Axis(*numbers) for numbers in per_axis)


def _spec(
    op: str,
    x_shape: tuple[int, ...],
    w_shape: tuple[int, ...],
    dtypes: tuple[str, str],
    axes: tuple[Axis, ...],
    groups: int,
    flip: bool,
) -> ConvSpec:
    dtype = promoted(op, *dtypes)
    spec = ConvSpec(x_shape[0], x_shape[-1], w_shape[0], axes, groups, flip, dtype)
    _check_int32(op, spec)
    return spec


def promoted(op: str, x: str, w: str) -> str:
    """The result dtype. Refuses an input that is not of floats, and a complex weight."""
    if x not in _FLOATS:
        refuse(op, "x must be float16, bfloat16 or float32", x)
    if w == "complex64":
        refuse(op, "weight must be real", w)
    return promote(x, w)


def _check_int32(op: str, spec: ConvSpec) -> None:
    numbers = [spec.groups, *spec.output_shape]
    for a in spec.axes:
        numbers += (a.stride, a.input_dilation, a.kernel_dilation, a.dilated_size, a.window)
        numbers += (abs(a.padding_lo), abs(a.padding_hi))
        numbers.append(a.dilated_size + max(a.padding_lo, 0) + max(a.padding_hi, 0))
    check_int32(op, *numbers)


def check_int32(op: str, *numbers: int) -> None:
    """Refuses sizes that MLX cannot count."""
    if max(numbers) > INT32_MAX:
        refuse(op, "every size must fit in int32, as MLX counts in int32", shown(max(numbers)))
