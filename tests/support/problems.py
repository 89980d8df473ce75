"""Problems, as calls make them."""

from polyconv.problem import spec


def transposed(x, w, stride=1, padding=0, dilation=1, output_padding=0, groups=1, dtype="float32"):
    ndim = len(x) - 2
    options = [stride, padding, dilation, output_padding]
    options = [v if isinstance(v, tuple) else (v,) * ndim for v in options]
    return spec.transposed("test", x, w, (dtype, dtype), *options, groups)


def general_spec(case):
    g = case.general
    ndim = len(case.x_shape) - 2
    names = ("stride", "kernel_dilation", "input_dilation")
    stride, kernel_dilation, input_dilation = (g[name][:ndim] for name in names)
    padding = (g["lo"], g["hi"])
    dtypes = ("float32", "float32")
    rest = (stride, padding, kernel_dilation, input_dilation, g["groups"], g["flip"])
    return spec.general("test", case.x_shape, case.w_shape, dtypes, *rest)
