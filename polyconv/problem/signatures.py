"""Which arguments has a call of each op, and which convolution does it ask for? No MLX."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from polyconv.problem import arguments, spec
from polyconv.problem.spec import ConvSpec

TRANSPOSED = {f"conv_transpose{ndim}d": ndim for ndim in (1, 2, 3)}
OPS = (*TRANSPOSED, "conv_general")

# By whether the op is a transposed one.
_OPTIONS = {
    True: ("stride", "padding", "dilation", "output_padding", "groups"),
    False: ("stride", "padding", "kernel_dilation", "input_dilation", "groups", "flip"),
}


def problem_of(
    op: str, x: tuple[int, ...], w: tuple[int, ...], dtype: str, options: Mapping[str, Any]
) -> ConvSpec:
    """The convolution of a call of one of `OPS`."""
    for name in options:
        if name not in _OPTIONS[op in TRANSPOSED]:
            must = f"options must be among {', '.join(_OPTIONS[op in TRANSPOSED])}"
            arguments.refuse(op, must, name)
    x, w = arguments.sizes(op, "x", x), arguments.sizes(op, "weight", w)
    ndim = TRANSPOSED.get(op) or spec.spatial_ndim(op, x)
    return read_call(op, ndim, x, w, (dtype, dtype), **options)


def read_call(
    op: str,
    ndim: int,
    x: tuple[int, ...],
    w: tuple[int, ...],
    dtypes: tuple[str, str],
    *args: Any,
    **options: Any,
) -> ConvSpec:
    """The convolution of one of `OPS`, called with these arguments after input and weight."""
    if op in TRANSPOSED:
        read = arguments.transposed_options(op, ndim, *args, **options)
        return spec.transposed(op, x, w, dtypes, *read)
    return spec.general(op, x, w, dtypes, *arguments.general_options(op, ndim, *args, **options))
