"""Sums of halves are made in float32 in every gradient, on every device that is planned for.

On Metal a reduction accumulates in the type of its result, which cannot be run here. So what is
looked at is the graph: which operations it has, and in which types.
"""

from dataclasses import replace

import mlx.core as mx
import mlx.nn as nn
import pytest

import polyconv
from polyconv.execution import run_tiled
from polyconv.execution.device import device_for
from polyconv.gradients.bias import add_bias
from polyconv.gradients.bilinear import Compiled
from polyconv.gradients.maps import COMPUTE
from polyconv.planning.devices import DEVICES
from polyconv.planning.request import Request
from polyconv.problem.signatures import problem_of
from tests.support.cases import NAMED
from tests.support.forms import CASES
from tests.support.problems import general_spec
from tests.support.threading_tools import forget
from tests.support.trace import issued

HALVES = (mx.float16, mx.bfloat16)
SHORT = ("cpu", "cuda", "m2-16gb", "m4-max")
PLANNED = [*SHORT, *[pytest.param(n, marks=pytest.mark.slow) for n in DEVICES if n not in SHORT]]
PROBLEMS = {name: general_spec(case) for name, case in NAMED.items()}
PROBLEMS |= {name: general_spec(case) for name, (case, _, _) in CASES.items()}

# What may read or make halves: operations that move numbers, and a convolution, whose products are
# summed in float32 by each of MLX's backends.
MAY = {"AsType", "Broadcast", "Concatenate", "ExpandDims", "Flatten", "Full", "Pad", "Reshape"}
MAY |= {"Slice", "SliceUpdate", "Squeeze", "Transpose", "Unflatten", "Convolution"}
MAY |= {"Equal", "LogicalAnd", "NotEqual", "Select"}  # which put tiles behind each other


def computing(call, *arrays):
    """The operations that compute with halves."""
    found = issued(call, *arrays)
    return {op.name for op in found if {*op.reads, *op.makes} & {*HALVES}} - MAY


def shapes_of(spec):
    size = [axis.size for axis in spec.axes]
    kernel = [axis.kernel_size for axis in spec.axes]
    return {
        "x": (spec.batch, *size, spec.in_channels),
        "w": (spec.out_channels, *kernel, spec.in_channels // spec.groups),
        "y": spec.output_shape,
    }


def maps(spec, method, max_workspace=None):
    """The three maps that gradients of every order are made of, each with arrays to call it with.

    For the device that is planned for.
    """
    device = device_for(None)
    asked = Compiled(Request("op", spec, method, device, max_workspace), None)
    shapes = shapes_of(spec)
    for result, made in COMPUTE.items():
        arrays = [mx.zeros(shapes[k], getattr(mx, spec.dtype)) for k in "xwy" if k != result]
        yield result, made(asked), arrays


def alone(spec, result, max_workspace=None):
    """The products of halves that may be: of a lone tap, on Metal, which sums them in float32."""
    asked = Compiled(Request("op", spec, "auto", device_for(None), max_workspace), None)
    made = asked.way(result).plan
    if result == "w" or not made.products or made.computing_dtype not in ("float16", "bfloat16"):
        return set()
    assert made.device.backend.rounds_halves_once
    assert made.n_taps == len(made.subconvs)
    return {"Matmul"}


@pytest.mark.parametrize("device", PLANNED)
def test_gradients_of_halves_are_summed_in_float32(device):
    with polyconv.planning_for(device):
        for name, spec in PROBLEMS.items():
            halves = replace(spec, dtype="float16")
            for result, call, arrays in maps(halves, "auto"):
                assert computing(call, *arrays) == alone(halves, result), (name, result)


@pytest.mark.parametrize("device", ["cpu", "cuda", "m2-16gb"])
def test_whichever_half_and_method_it_is(device):
    with polyconv.planning_for(device):
        for name, spec in PROBLEMS.items():
            for result, call, arrays in maps(replace(spec, dtype="bfloat16"), "per_phase"):
                assert computing(call, *arrays) == set(), (name, result)


TILED = {
    "1D": ((4, 300, 4), (4, 6, 4), {"stride": 2}),
    "depthwise": ((4, 300, 4), (4, 6, 1), {"stride": 2, "groups": 4}),
    "2D": ((4, 30, 30, 4), (4, 4, 4, 4), {"stride": 2}),
    "2D groups": ((4, 30, 30, 4), (4, 4, 4, 2), {"stride": 2, "groups": 2}),
    "3D": ((4, 4, 5, 5, 2), (2, 2, 2, 2, 2), {"stride": 2}),
}


@pytest.mark.parametrize("name", TILED)
@pytest.mark.parametrize("device", ["cpu", "cuda", "m2-16gb"])
def test_so_are_gradients_in_tiles(device, name, monkeypatch):
    """That of the weight is cut up on each device."""
    x, w, options = TILED[name]
    spec = problem_of(f"conv_transpose{len(x) - 2}d", x, w, "float16", options)
    cut_up = []
    own = run_tiled._joined
    noted = lambda tiling, *more: cut_up.append(tiling.result) or own(tiling, *more)  # noqa: E731
    monkeypatch.setattr(run_tiled, "_joined", noted)
    with polyconv.planning_for(device):
        for result, call, arrays in maps(spec, "auto", 150_000):
            assert computing(call, *arrays) == alone(spec, result, 150_000), result
    assert "w" in cut_up


def of_one_filter(x, w):
    return polyconv.conv_transpose1d(x, w[:1, :, :1], 2, groups=4)


def of_one_filter_in_tiles(x, w):
    return polyconv.conv_transpose1d(x, w[:1, :, :1], 2, groups=4, max_workspace=30_000)


def of_several_filters(x, w):
    each = lambda w: polyconv.conv_transpose1d(x, w[..., None], 2, groups=4)  # noqa: E731
    return mx.vmap(each, -1)(w)


@pytest.mark.parametrize("call", [of_one_filter, of_one_filter_in_tiles, of_several_filters])
@pytest.mark.parametrize("device", ["cpu", "cuda", "m2-16gb"])
def test_so_are_those_of_what_many_channels_or_maps_share(device, call):
    x, w = mx.zeros((2, 300, 4), mx.float16), mx.zeros((4, 6, 4), mx.float16)
    with polyconv.planning_for(device):
        cotangent = mx.zeros_like(call(x, w))
        forget()  # what was made before the trace begins
        gradients = lambda x, w: mx.vjp(call, [x, w], [cotangent])[1]  # noqa: E731
        try:
            assert computing(gradients, x, w) == set()
        finally:
            forget()


def test_a_sum_of_halves_is_seen():
    """Or the tests above could not fail."""
    x = mx.zeros((4, 4), mx.float16)
    assert computing(lambda x: x.sum(0), x) == {"Reduce"}
    assert computing(lambda x: x[:2] + x[2:], x) == {"Add"}
    assert computing(lambda x: x @ x, x) == {"Matmul"}
    assert computing(lambda x: x.astype(mx.float32).sum(0).astype(mx.float16), x) == set()


def bias_gradient(layer, dtype):
    """The gradient of a layer's bias over 5,000 outputs of ones, and the operations with halves."""
    layer.set_dtype(dtype)
    x = mx.zeros((5, 500, 1), dtype)

    def loss(bias):
        layer.bias = bias
        return layer(x).sum()

    bias = layer.bias
    return mx.grad(loss)(bias), computing(mx.grad(loss), bias)


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("name", ["PolyConvTranspose1d", "StreamingConvTranspose1d"])
def test_the_gradient_of_a_bias_is_summed_in_float32(name, dtype):
    gradient, in_halves = bias_gradient(getattr(polyconv, name)(1, 2, 2, 2), dtype)
    assert gradient.dtype == dtype
    assert gradient.tolist() == mx.array([5000, 5000]).astype(dtype).tolist()
    assert "Reduce" not in in_halves


@pytest.mark.parametrize("dtype", HALVES)
def test_the_gradient_of_a_streamed_model_s_bias_is_summed_in_float32(dtype):
    model = nn.Sequential(nn.ConvTranspose1d(1, 2, 2, 2), nn.Conv1d(2, 2, 1))
    model.set_dtype(dtype)
    x = mx.zeros((5, 500, 1), dtype)

    def loss(bias):
        model.layers[0].bias = bias
        return polyconv.stream(model).step(x).sum()

    bias = model.layers[0].bias
    assert mx.grad(loss)(bias).tolist() != [0, 0]
    assert "Reduce" not in computing(mx.grad(loss), bias)


@pytest.mark.parametrize("dtype", HALVES)
def test_a_bias_is_added_as_in_mlx(dtype):
    y, bias = mx.random.normal((2, 3, 4, 5)).astype(dtype), mx.arange(5.0).astype(dtype)
    assert mx.array_equal(add_bias(y, bias), y + bias)
    assert mx.array_equal(mx.vmap(add_bias, (0, None))(y, bias), y + bias)
    assert mx.array_equal(mx.compile(add_bias)(y, bias), y + bias)
    for shape in ((1,), (1, 1, 5), (4, 5)):  # not a layer's
        other = mx.ones(shape, dtype)
        assert mx.grad(lambda b: add_bias(y, b).sum())(other).shape == shape
    wide = add_bias(y, bias.astype(mx.float32))
    assert wide.dtype == mx.float32
    of_both = mx.grad(lambda y, b: (add_bias(y, b) * y).sum(), argnums=(0, 1))(y, bias)
    native = mx.grad(lambda y, b: ((y + b) * y).sum(), argnums=(0, 1))(y, bias)
    for a, b in zip(of_both, native, strict=True):
        assert mx.allclose(a.astype(mx.float32), b.astype(mx.float32), rtol=0.02, atol=0.1)
