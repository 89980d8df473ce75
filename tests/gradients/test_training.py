"""Training: gradients over the whole space, and what they allocate."""

from itertools import islice

import mlx.core as mx
import numpy as np
import pytest

import polyconv
from polyconv import conv_transpose1d
from tests.campaigns.sweep import sweep_gradients
from tests.support.cases import with_output
from tests.support.reference import conv_general
from tests.support.tiled import counted


@pytest.mark.parametrize("cases", [60, pytest.param(300, marks=pytest.mark.slow)])
@pytest.mark.parametrize("device", [None, "m4-max"])
def test_gradients_of_random_cases(device, cases):
    assert sweep_gradients(cases, seed=0, device=device)["agreed"] == cases


def test_the_reference_is_the_derivative():
    """Of the sum over y times the convolution, along each axis of x and w; it is linear in both."""
    small = (c for c in with_output() if np.prod(c.x_shape) * np.prod(c.w_shape) <= 40000)
    for case in islice(small, 20):
        (x, w), y = case.data(), case.cotangent()
        dx, dw = case.gradients()
        other_x, other_w = case.data(seed=1)
        assert np.sum(dx * other_x) == np.sum(y * conv_general(other_x, w, **case.general))
        assert np.sum(dw * other_w) == np.sum(y * conv_general(x, other_w, **case.general))


def peak(run):
    """Bytes that MLX allocates at most at a time beside what is there already.

    Not the same each time: this thread allocates for what comes next while MLX's thread computes
    and frees. Repeated 40 times the peaks below differed by up to a fifth.
    """
    mx.eval(run())
    before = counted()
    mx.eval(run())
    return mx.get_peak_memory() - before


# The op, options, shapes, and how many taps each sample meets: what unfolding would copy of x.
LONG = {
    "conv1d": ("conv1d", {"padding": 32}, (1, 20000, 8), (8, 65, 8), 65),
    "transposed": ("conv_transpose1d", {"stride": 2}, (1, 2500, 8), (8, 128, 8), 64),
    "2d": ("conv_transpose2d", {"stride": 2}, (1, 60, 60, 8), (2, 24, 24, 8), 144),
}


@pytest.mark.parametrize("name", LONG)
@pytest.mark.usefixtures("on_cpu")  # what Metal allocates is bounded in tests/on_metal
def test_nothing_of_the_size_of_taps_times_input_is_allocated(name):
    """Measured: 0.13, 0.24 and 0.17 of the bound by polyconv, 4.1, 4.2 and 2.1 by MLX."""
    op, options, x_shape, w_shape, taps = LONG[name]
    x, w = mx.random.normal(x_shape), mx.random.normal(w_shape)
    bound = taps * x.nbytes / 2

    def step(lib):
        call = lambda x, w: getattr(lib, op)(x, w, **options)  # noqa: E731
        return mx.vjp(call, [x, w], [mx.ones_like(call(x, w))])[1]

    assert peak(lambda: step(polyconv)) < bound
    assert peak(lambda: step(mx)) > bound  # or the test could not fail


@pytest.mark.usefixtures("on_cpu")  # what Metal allocates is bounded in tests/on_metal
def test_an_argument_that_needs_no_gradient_costs_none():
    """Measured: 16.8 MB less where 8.4 are asked for, then 9.6 less where 3.2 are."""
    x, w = mx.random.normal((1, 4, 512)), mx.random.normal((256, 16, 512))
    y = mx.ones_like(conv_transpose1d(x, w, 8))
    both = lambda: mx.vjp(lambda x, w: conv_transpose1d(x, w, 8), [x, w], [y])  # noqa: E731
    of_x = lambda: mx.vjp(lambda x: conv_transpose1d(x, w, 8), [x], [y])  # noqa: E731
    assert peak(of_x) <= peak(both) - w.nbytes
    x, w = mx.random.normal((1, 200000, 4)), mx.random.normal((4, 4, 4))
    y = mx.ones_like(conv_transpose1d(x, w, 2))
    both = lambda: mx.vjp(lambda x, w: conv_transpose1d(x, w, 2), [x, w], [y])  # noqa: E731
    of_w = lambda: mx.vjp(lambda w: conv_transpose1d(x, w, 2), [w], [y])  # noqa: E731
    assert peak(of_w) <= peak(both) - x.nbytes


@pytest.mark.parametrize("dtype", [mx.float16, mx.bfloat16])
def test_sums_of_halves_are_summed_in_float32(dtype):
    """Scaled losses: partial sums of 80,000 overflow float16, the whole is 3."""
    parts = [200.0] * 2 + [-200.0] * 2 + [1.0] * 3
    x = mx.array(parts).reshape(1, 7, 1).astype(dtype)
    y = mx.array([200.0] * 4 + [1.0] * 3).reshape(1, 7, 1).astype(dtype)
    _, (dw,) = mx.vjp(lambda w: conv_transpose1d(x, w), [mx.ones((1, 1, 1), dtype)], [y])
    assert dw.item() == 3
    wide = mx.array(parts).reshape(1, 1, 7).astype(dtype)
    out = mx.array([200.0] * 4 + [1.0] * 3).reshape(1, 1, 7).astype(dtype)
    call = lambda x: conv_transpose1d(x, wide.swapaxes(0, 2))  # noqa: E731
    _, (dx,) = mx.vjp(call, [mx.ones((1, 1, 1), dtype)], [out])
    assert dx.item() == 3


def test_a_step_compiled_whole_is_the_step():
    layer = polyconv.PolyConvTranspose1d(4, 3, 8, 4, padding=2)
    x = mx.random.normal((2, 9, 4))

    def step(weight):
        return mx.value_and_grad(lambda w: (conv_transpose1d(x, w, 4, 2) ** 2).mean())(weight)

    plain, compiled = step(layer.weight), mx.compile(step)(layer.weight)
    for a, b in zip(plain, compiled, strict=True):
        assert mx.allclose(a, b, rtol=1e-5)
