"""No function returns its argument, nor what it keeps: `+=` changes an array object in place."""

import mlx.core as mx
import mlx.nn as nn
import pytest

import polyconv
from polyconv import distributed
from tests.support.cases import integers

# Whose output is the input, and whose weight is its own only tap.
X, ONE, EACH = integers(1, 5, 3), mx.eye(3).reshape(3, 1, 3), mx.ones((3, 1, 1))
PIECES = distributed.Sharding.of_sizes([5])


class Same(nn.Module):
    def __call__(self, x):
        return x


def streamed(x, flush=False):
    made = polyconv.stream(Same(), x)
    y = made.step(x)
    return made.flush() if flush else y


def of_layer(kind):
    layer = kind(3, 3, 1, bias=False)
    layer.weight = mx.array(ONE)
    return layer


CALLS = {
    **{
        f"conv1d {method}": lambda x, w, m=method: polyconv.conv1d(x, w, method=m)
        for method in ("auto", "per_phase", "stacked", "taps", "native")
    },
    "conv_transpose1d": lambda x, w: polyconv.conv_transpose1d(x, w),
    "conv_general": lambda x, w: polyconv.conv_general(x, w, flip=True),
    "in tiles": lambda x, w: polyconv.conv1d(x, w, max_workspace=2000),
    "packed": lambda x, w: polyconv.conv1d(x, polyconv.pack(w)),
    "depthwise": lambda x, w: polyconv.conv1d(x, EACH, groups=3),
    "one filter": lambda x, w: polyconv.conv1d(x, EACH[:1], groups=3),
    "pack": lambda x, w: polyconv.pack(w).array,
    "layer": lambda x, w: of_layer(polyconv.PolyConvTranspose1d)(x),
    "packed layer": lambda x, w: of_layer(polyconv.PolyConvTranspose1d).to_packed()(x),
    "streaming layer": lambda x, w: of_layer(polyconv.StreamingConv1d).step(x),
    "stream_step": lambda x, w: polyconv.stream_step(polyconv.stream_init("conv1d", w), x, w)[0],
    "stream": lambda x, w: streamed(x),
    "flush": lambda x, w: streamed(x, flush=True),
    "resample_poly": lambda x, w: polyconv.resample_poly(x, 2, 2, 1),
    "resample_poly by 1": lambda x, w: polyconv.resample_poly(x, 1, 1, window=[1.0]),
    "upfirdn": lambda x, w: polyconv.upfirdn([1.0], x),
    "resample_chunk": lambda x, w: polyconv.ResampleStream(1, 1, window=[1.0]).resample_chunk(
        x[0, :, 0], last=True
    ),
    "reshard": lambda x, w: distributed.reshard(x, PIECES, PIECES),
    "with_halo": lambda x, w: distributed.with_halo(x, PIECES, 1, 1),
    "conv1d of pieces": lambda x, w: distributed.conv1d(x, w)[0],
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_what_is_returned_may_be_changed_in_place(call):
    x, w = mx.array(X), mx.array(ONE)
    y = call(x, w)
    assert y is not x
    assert y is not w
    y *= 0
    y += 7
    assert mx.array_equal(x, X)
    assert mx.array_equal(w, ONE)


def test_what_is_shown_of_a_state_may_be_changed_in_place():
    packed = polyconv.pack(ONE)
    shown = packed.array
    shown *= 0
    assert mx.array_equal(packed.array, ONE)
    assert mx.array_equal(polyconv.conv1d(X, packed), X)

    whole = polyconv.resample_poly(X[0, :, 0], 2, 1)
    stream = polyconv.ResampleStream(1, 2)
    made = [stream.resample_chunk(X[0, :3, 0])]
    for each in stream.state:
        each *= 0
    made.append(stream.resample_chunk(X[0, 3:, 0], last=True))
    assert mx.allclose(mx.concatenate(made), whole, atol=1e-5)

    layer = nn.Conv1d(3, 3, 3, bias=False)
    model = polyconv.stream(layer)
    made = [model.step(X[:, :3])]
    for each in model.state:
        each *= 0
    made += [model.step(X[:, 3:]), model.flush()]
    assert mx.allclose(mx.concatenate(made, 1), layer(X), atol=1e-5)


def test_what_is_given_may_be_changed_in_place_afterwards():
    layer = polyconv.PolyConvTranspose1d(3, 3, 1)
    layer.weight = mx.array(ONE)
    packed = layer.to_packed()
    kinds = ("all-to-sharded", "sharded-to-all")
    parts = [distributed.shard_conv_transpose(layer, kind) for kind in kinds]
    layer.bias += 1
    layer.weight *= 2
    assert mx.array_equal(layer(X), 2 * X + 1)
    for each in (packed, *parts):
        assert mx.array_equal(each(X), X)
