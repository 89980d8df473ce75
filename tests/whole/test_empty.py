"""Every public function of arrays with an empty axis: a right shape and zeros, or one sentence."""

import re
from itertools import product

import mlx.core as mx
import pytest

import polyconv
from polyconv import distributed
from polyconv.planning.methods import METHODS

SENTENCE = re.compile(r"\[[\w.]+\] .+; got .+")


def result(call):
    """What a call gives, evaluated, or None if it was refused in one sentence."""
    try:
        y = call()
    except ValueError as error:
        assert SENTENCE.fullmatch(str(error)), error
        return None
    mx.eval(y)
    return y


def emptied(ndim):
    """Shapes of input and weight with each axis empty, the channels of both together too."""
    x, w = (2, *[4] * ndim, 2), (4, *[2] * ndim, 2)
    for axis in range(ndim + 2):
        yield (*x[:axis], 0, *x[axis + 1 :]), w
        yield x, (*w[:axis], 0, *w[axis + 1 :])
    yield (*x[:-1], 0), (*w[:-1], 0)
    yield (0, 0, *x[2:]), w


@pytest.mark.parametrize("ndim", [1, 2, 3])
def test_convolutions_of_nothing_are_zeros(ndim):
    n_right = 0
    for (x, w), groups, method in product(emptied(ndim), (1, 2), ("auto", *METHODS)):
        w = (*w[:-1], w[-1] // groups)
        for op, options in (
            (f"conv_transpose{ndim}d", {"stride": 2}),
            (f"conv{ndim}d", {"padding": 3}),
            ("conv_general", {"padding": 3, "input_dilation": 2}),
        ):
            call = lambda x, w, op=op, o=options, g=groups, m=method: getattr(polyconv, op)(  # noqa: E731
                x, w, groups=g, method=m, **o
            )
            given = mx.ones(x), mx.ones(w)
            y = result(lambda c=call, a=given: c(*a))
            packed = result(lambda c=call, a=given: c(a[0], polyconv.pack(a[1])))
            assert (y is None) == (packed is None), (op, x, w)
            if y is None:
                continue
            n_right += 1
            # 4 samples are 8 outputs by the transposed one, 9 by the others, and none are a few.
            assert (y.shape[0], y.shape[-1]) == (x[0], w[0])
            assert packed.shape == y.shape
            assert not mx.any(y).item()
            grads = result(lambda c=call, a=given, y=y: mx.vjp(c, list(a), [mx.ones(y.shape)])[1])
            assert [each.shape for each in grads] == [x, w]
            assert not any(mx.any(each).item() for each in grads)
    assert n_right > 50


def test_streams_layers_and_pieces_of_nothing():
    w = mx.ones((4, 3, 2))
    layer = polyconv.PolyConvTranspose1d(2, 4, 3, stride=2)
    layer.bias += 1
    assert layer(mx.zeros((0, 5, 2))).shape == (0, 11, 4)
    assert mx.array_equal(layer(mx.zeros((1, 2, 2))), mx.ones((1, 5, 4)))
    streaming = polyconv.StreamingConv1d(2, 4, 3)
    assert result(lambda: streaming.step(mx.zeros((1, 0, 2)))).shape == (1, 0, 4)
    state = polyconv.stream_init("conv_transpose1d", w, stride=2)
    y, state = polyconv.stream_step(state, mx.zeros((1, 0, 2)), w)
    assert y.shape == (1, 0, 4)
    chunk = polyconv.ResampleStream(3, 2, 2).resample_chunk(mx.zeros((0, 2)))
    assert chunk.shape == (0, 2)
    pieces = distributed.Sharding.of_sizes([0])
    assert distributed.reshard(mx.zeros((2, 0, 3)), pieces, pieces).shape == (2, 0, 3)
    for call in (
        lambda: polyconv.stream_init("conv1d", w, batch=0),
        lambda: polyconv.stream_init("conv1d", mx.ones((4, 0, 2))),
        lambda: polyconv.PolyConvTranspose1d(0, 4, 3),
        lambda: polyconv.ResampleStream(3, 2).resample_chunk(mx.zeros((3, 0))),
        lambda: distributed.Sharding.of_sizes([]),
        lambda: polyconv.upfirdn(mx.zeros((0,)), mx.ones((3,))),
        lambda: polyconv.resample_poly(mx.zeros((0, 2)), 3, 2),
    ):
        assert result(call) is None


def test_one_filter_for_all_channels_of_nothing():
    h = mx.ones((1, 3, 1))
    call = lambda x, h: polyconv.conv_transpose1d(x, h, 2, groups=4)  # noqa: E731
    for x, shape in (((0, 5, 4), (0, 11, 4)), ((2, 0, 4), (2, 1, 4))):
        y = call(mx.ones(x), h)
        assert y.shape == shape
        assert not mx.any(y).item()
        grads = mx.vjp(call, [mx.ones(x), h], [y])[1]
        assert [each.shape for each in grads] == [x, h.shape]
        assert not any(mx.any(each).item() for each in grads)
