"""Which arguments has a call of each op, and which convolution does it ask for? No MLX."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, TypeAlias

from polyconv.problem import arguments, shapes, spec
from polyconv.problem.arguments import broadcast_axes, per_axis
from polyconv.problem.spec import ConvSpec

Shape: TypeAlias = "tuple[int, ...]"


class Transposed(NamedTuple):
    """The options of `conv_transpose1d/2d/3d`, in their order, as given or as `read`."""

    stride: Any = 1
    padding: Any = 0
    dilation: Any = 1
    output_padding: Any = 0
    groups: Any = 1

    def read(self, op: str, ndim: int) -> Transposed:
        """One int for each spatial axis."""
        return Transposed(
            per_axis(op, "stride", self.stride, ndim),
            per_axis(op, "padding", self.padding, ndim),
            per_axis(op, "dilation", self.dilation, ndim),
            per_axis(op, "output_padding", self.output_padding, ndim),
            arguments.groups(op, self.groups),
        )

    def spec(self, op: str, x: Shape, w: Shape, dtypes: tuple[str, str]) -> ConvSpec:
        """The convolution of options that were read."""
        return spec.transposed(op, x, w, dtypes, *self)


class Plain(NamedTuple):
    """The options of `conv1d/2d/3d`."""

    stride: Any = 1
    padding: Any = 0
    dilation: Any = 1
    groups: Any = 1

    def read(self, op: str, ndim: int) -> Plain:
        """One int for each spatial axis. As in MLX only `conv_general` takes pairs of padding."""
        found = Plain(
            per_axis(op, "stride", self.stride, ndim),
            per_axis(op, "padding", self.padding, ndim),
            per_axis(op, "dilation", self.dilation, ndim),
            arguments.groups(op, self.groups),
        )
        arguments.positive(op, "dilation", min(found.dilation))  # not as `spec` names it
        return found

    def spec(self, op: str, x: Shape, w: Shape, dtypes: tuple[str, str]) -> ConvSpec:
        """The convolution of options that were read."""
        general = General(
            stride=self.stride,
            padding=(self.padding, self.padding),
            kernel_dilation=self.dilation,
            input_dilation=(1,) * len(self.stride),
            groups=self.groups,
        )
        return general.spec(op, x, w, dtypes)


class General(NamedTuple):
    """The options of `conv_general`."""

    stride: Any = 1
    padding: Any = 0
    kernel_dilation: Any = 1
    input_dilation: Any = 1
    groups: Any = 1
    flip: Any = False

    def read(self, op: str, ndim: int) -> General:
        """One int for each spatial axis, of the padding one in front and one behind."""
        return General(
            broadcast_axes(op, "stride", self.stride, ndim, 1),
            arguments.padding_pair(op, self.padding, ndim),
            broadcast_axes(op, "kernel_dilation", self.kernel_dilation, ndim, 1),
            broadcast_axes(op, "input_dilation", self.input_dilation, ndim, 1),
            arguments.groups(op, self.groups),
            arguments.switch(op, "flip", self.flip),
        )

    def spec(self, op: str, x: Shape, w: Shape, dtypes: tuple[str, str]) -> ConvSpec:
        """The convolution of options that were read."""
        return spec.general(op, x, w, dtypes, *self)


Signature: TypeAlias = "Transposed | Plain | General"

TRANSPOSED = {f"conv_transpose{ndim}d": ndim for ndim in (1, 2, 3)}
PLAIN = {f"conv{ndim}d": ndim for ndim in (1, 2, 3)}

# The ops that `explain` and `bench` know.
OPS = (*TRANSPOSED, "conv_general")

SIGNATURES: dict[str, type[Transposed] | type[Plain] | type[General]] = {
    **dict.fromkeys(TRANSPOSED, Transposed),
    **dict.fromkeys(PLAIN, Plain),
    "conv_general": General,
}


def spatial_ndim(op: str, x: Shape) -> int:
    """The number of spatial axes: the op's, or for `conv_general` the input's."""
    return TRANSPOSED.get(op) or PLAIN.get(op) or shapes.spatial_ndim(op, x)


def problem_of(op: str, x: Shape, w: Shape, dtype: str, options: Mapping[str, Any]) -> ConvSpec:
    """The convolution of a call of one of `OPS`."""
    known = SIGNATURES[op]._fields
    for name in options:
        if name not in known:
            arguments.refuse(op, f"options must be among {', '.join(known)}", name)
    x, w = arguments.sizes(op, "x", x), arguments.sizes(op, "weight", w)
    return read_call(op, x, w, (dtype, dtype), **options)


def read_call(
    op: str, x: Shape, w: Shape, dtypes: tuple[str, str], *args: Any, **options: Any
) -> ConvSpec:
    """The convolution of an op that is called with these arguments after input and weight."""
    signature: Signature = SIGNATURES[op](*args, **options)
    return signature.read(op, spatial_ndim(op, x)).spec(op, x, w, dtypes)
