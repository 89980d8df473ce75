"""Problems, as calls make them."""

from __future__ import annotations

from polyconv.problem import spec
from tests.support.cases import Case

PerAxis = int | tuple[int, ...]


def transposed(
    x: tuple[int, ...],
    w: tuple[int, ...],
    stride: PerAxis = 1,
    padding: PerAxis = 0,
    dilation: PerAxis = 1,
    output_padding: PerAxis = 0,
    groups: int = 1,
    dtype: str = "float32",
) -> spec.ConvSpec:
    ndim = len(x) - 2
    given = (stride, padding, dilation, output_padding)
    s, p, d, more = (v if isinstance(v, tuple) else (v,) * ndim for v in given)
    return spec.transposed("test", x, w, (dtype, dtype), s, p, d, more, groups)


def general_spec(case: Case) -> spec.ConvSpec:
    g = case.general
    ndim = len(case.x_shape) - 2
    names = ("stride", "kernel_dilation", "input_dilation")
    stride, kernel_dilation, input_dilation = (g[name][:ndim] for name in names)
    padding = (g["lo"], g["hi"])
    dtypes = (case.dtype, case.dtype)
    rest = (stride, padding, kernel_dilation, input_dilation, g["groups"], g["flip"])
    return spec.general("test", case.x_shape, case.w_shape, dtypes, *rest)
