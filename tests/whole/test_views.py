"""However an array lies in memory, what is computed of it is that of a contiguous copy, by `==`."""

import random

import mlx.core as mx
import numpy as np
import pytest

import polyconv
from tests.campaigns import fuzz_inputs

METHODS = ("auto", "per_phase", "stacked", "taps", "native")
VIEWS = sorted({view.__name__: view for view in fuzz_inputs.VIEWS}.items())
CALLS = {
    "conv_transpose1d": ((2, 9, 4), (6, 8, 4), {"stride": 4, "padding": 2}),
    "conv_transpose2d": ((2, 5, 4, 4), (6, 3, 3, 2), {"stride": 2, "groups": 2}),
    "conv_general": ((2, 12, 3), (3, 4, 1), {"stride": 2, "input_dilation": 3, "groups": 3}),
    "conv1d": ((2, 12, 4), (6, 3, 4), {"dilation": 2, "padding": 1}),
    "conv3d": ((1, 4, 3, 4, 2), (3, 2, 2, 2, 2), {}),
}


def copied(a):
    return mx.array(np.array(a))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("op", CALLS)
@pytest.mark.parametrize(("name", "view"), VIEWS, ids=[name for name, _ in VIEWS])
def test_a_view_is_computed_as_its_copy(name, view, op, method):
    x_shape, w_shape, options = CALLS[op]
    rng = random.Random(f"{name} {op}")
    x, w = view(rng, x_shape, False), view(rng, w_shape, False)
    call = lambda x, w: getattr(polyconv, op)(x, w, method=method, **options)  # noqa: E731
    try:
        y = call(copied(x), copied(w))
    except ValueError as error:
        if method == "native" and "MLX on CUDA may overlook" in str(error):
            pytest.skip("MLX's own op may be another one on CUDA, and is refused")
        raise
    assert mx.array_equal(call(x, w), y).item()
    if method == "native":  # whose gradients are MLX's
        return
    cotangent = view(rng, y.shape, False)
    _, found = mx.vjp(call, [x, w], [cotangent])
    _, right = mx.vjp(call, [copied(x), copied(w)], [copied(cotangent)])
    for ours, exact in zip(found, right):
        assert mx.array_equal(ours, exact).item()


def test_packed_weights_and_streams_take_views():
    rng = random.Random(0)
    for _, view in VIEWS:
        x, w = view(rng, (1, 9, 4), False), view(rng, (6, 8, 4), False)
        y = polyconv.conv_transpose1d(copied(x), copied(w), 4, 2)
        assert mx.array_equal(polyconv.conv_transpose1d(x, polyconv.pack(w), 4, 2), y).item()
        state = polyconv.stream_init("conv_transpose1d", w, stride=4, padding=2)
        first, state = polyconv.stream_step(state, x, w)
        rest, _ = polyconv.stream_flush(state, w)
        assert mx.array_equal(mx.concatenate([first, rest], 1), y).item()


def test_what_numpy_holds_may_change_or_be_read_only_afterwards():
    source = np.ones((1, 5, 2), np.float32)
    x, w = mx.array(source), np.ones((3, 4, 2), np.float32)
    y = polyconv.conv_transpose1d(x, mx.array(w), 2)
    packed = polyconv.pack(mx.array(w))
    source[...], w[...] = 7, 7
    expected = polyconv.conv_transpose1d(mx.ones((1, 5, 2)), mx.ones((3, 4, 2)), 2)
    assert mx.array_equal(y, expected).item()
    assert mx.array_equal(polyconv.conv_transpose1d(x, packed, 2), expected).item()
    fixed = np.ones((1, 5, 2), np.float32)
    fixed.flags.writeable = False
    y = polyconv.conv_transpose1d(mx.array(fixed), mx.ones((3, 4, 2)), 2)
    assert mx.array_equal(y, expected).item()
    assert fixed.min() == fixed.max() == 1
