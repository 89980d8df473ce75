"""Gradients reach every weight that is cut up, or are refused: MLX's own of the whole, by `==`."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import mlx.core as mx
import mlx.nn as nn
import pytest
from mlx.utils import tree_flatten

import polyconv
from polyconv.planning.methods import METHODS
from tests.support.cases import NAMED, integers

W, X = integers(3, 4, 4), integers(2, 7, 4, seed=1)


def pieces(x, *ends):
    return [x[:, a:b] for a, b in zip((0, *ends), (*ends, x.shape[1]))]


def in_chunks(step, flush, x):
    return mx.concatenate([*[step(piece) for piece in pieces(x, 1, 1, 4)], flush()], 1)


def functional(w, x, op, **options):
    state = polyconv.stream_init(op, w, batch=x.shape[0], **options)
    outputs = []
    for piece in pieces(x, 1, 1, 4):
        y, state = polyconv.stream_step(state, piece, w)
        outputs.append(y)
    return mx.concatenate([*outputs, polyconv.stream_flush(state, w)[0]], 1)


def packed_layer(w, x):
    layer = polyconv.PolyConvTranspose1d(4, 3, 4, stride=2, bias=False)
    layer.weight = w
    return layer.to_packed()(x)


def resampled(w, x):
    stream = polyconv.ResampleStream(2, 3, 4, window=w[0, :3, 0])
    return mx.concatenate(
        [stream.resample_chunk(x[0, :2]), stream.resample_chunk(x[0, 2:], last=True)]
    )


TRANSPOSED = lambda w, x: mx.conv_transpose1d(x, w, 2)  # noqa: E731
PACKS = {
    "pack": (lambda w, x: polyconv.conv_transpose1d(x, polyconv.pack(w), 2), TRANSPOSED),
    "to_packed": (packed_layer, TRANSPOSED),
    "a stream": (
        lambda w, x: functional(polyconv.pack(w), x, "conv_transpose1d", stride=2),
        TRANSPOSED,
    ),
    "a stream, not packed": (
        lambda w, x: functional(w, x, "conv_transpose1d", stride=2),
        TRANSPOSED,
    ),
    "a plain stream": (
        lambda w, x: functional(polyconv.pack(w), x, "conv1d", stride=2, padding=1),
        # Not MLX's, whose gradient of a gradient is wrong in 0.31.2.
        lambda w, x: polyconv.conv1d(x, w, 2, 1),
    ),
    "one filter for all channels": (
        lambda w, x: polyconv.conv_general(x, polyconv.pack(w[:1, :, :1]), padding=3, groups=4),
        lambda w, x: mx.conv1d(x, mx.repeat(w[:1, :, :1], 4, 0), padding=3, groups=4),
    ),
    "resampling": (
        resampled,
        lambda w, x: polyconv.resample_poly(x[0], 3, 2, window=w[0, :3, 0]),
    ),
}


def loss_of(call):
    def loss(w, x):
        y = call(w, x)
        return (y * integers(*y.shape, seed=5)).sum()

    return loss


@pytest.mark.parametrize("name", PACKS)
def test_a_weight_packed_under_a_gradient_has_that_of_the_whole(name):
    ours, whole = map(loss_of, PACKS[name])
    expected = mx.value_and_grad(whole, (0, 1))(W, X)
    assert mx.any(expected[1][0]).item()
    for transform in (lambda f: f, mx.compile, mx.checkpoint):
        value, found = mx.value_and_grad(transform(ours), (0, 1))(W, X)
        assert value.item() == expected[0].item()
        assert all(map(mx.array_equal, found, expected[1]))
    # Of each of three weights, and of the gradient once more.
    many = mx.stack([W, 2 * W, W - 1])
    mapped = mx.vmap(mx.grad(ours), (0, None))(many, X)
    assert mx.array_equal(mapped, mx.stack([mx.grad(whole)(w, X) for w in many]))
    twice = [
        mx.grad(lambda x, loss=loss: (mx.grad(loss)(W, x) * W).sum())(X) for loss in (ours, whole)
    ]
    assert mx.array_equal(*twice)


@pytest.mark.parametrize("method", ["auto", *METHODS])
@pytest.mark.parametrize("name", ["hifigan", "groups", "depthwise", "2d 3x3 s2", "3d groups"])
def test_by_every_method(name, method):
    if (method, name) == ("native", "3d groups"):
        pytest.skip("MLX has no groups in 3D")
    case = NAMED[name]
    x, w = (mx.array(a) for a in case.data())
    packed = lambda w, x: case.call(x, polyconv.pack(w), method)  # noqa: E731
    plain = lambda w, x: case.call(x, w, "auto")  # noqa: E731
    found, expected = (mx.grad(loss_of(call), (0, 1))(w, x) for call in (packed, plain))
    assert mx.any(found[0]).item()
    assert all(map(mx.array_equal, found, expected))


LAYERS = (
    lambda: polyconv.StreamingConvTranspose1d(4, 3, 4, stride=2),
    lambda: polyconv.StreamingConv1d(4, 3, 4, stride=2, padding=2),
    lambda: polyconv.StreamingConv1d(4, 4, 3, groups=2, causal=True),
)


def whole_numbers(model):
    model.update(
        nn.utils.tree_map(lambda each: integers(*each.shape, seed=each.ndim), model.parameters())
    )
    return model


def both_gradients(model, streamed):
    """Of the loss in chunks and of the whole signal."""
    weigh = lambda y: (y * integers(*y.shape, seed=5)).sum()  # noqa: E731
    found, whole = (
        nn.value_and_grad(model, lambda x, call=call: weigh(call(x)))(X)
        for call in (streamed, model)
    )
    return found, whole


def assert_equal(found, whole):
    assert found[0].item() == whole[0].item()
    found, whole = dict(tree_flatten(found[1])), dict(tree_flatten(whole[1]))
    assert found.keys() == whole.keys()
    for name in found:
        assert mx.any(whole[name]).item(), name
        assert mx.array_equal(found[name], whole[name]), name


@pytest.mark.parametrize("make", LAYERS)
@pytest.mark.parametrize("warm", [False, True])
def test_layers_are_trained_in_chunks(make, warm):
    layer = whole_numbers(make())
    if warm:  # the weight has been cut up before
        in_chunks(layer.step, layer.flush, X)
    for _ in range(2):
        assert_equal(*both_gradients(layer, lambda x: in_chunks(layer.step, layer.flush, x)))
        layer.update(nn.utils.tree_map(lambda each: each + 1, layer.parameters()))
    assert mx.array_equal(in_chunks(layer.step, layer.flush, X), layer(X))


def test_a_stream_of_a_model_made_under_the_gradient_reaches_its_weights():
    model = whole_numbers(
        nn.Sequential(nn.Conv1d(4, 4, 3), nn.Linear(4, 4), nn.ConvTranspose1d(4, 3, 4, 2))
    )

    def streamed(x):
        stream = polyconv.stream(model)
        return in_chunks(stream.step, stream.flush, x)

    assert_equal(*both_gradients(model, streamed))


def test_a_stream_of_a_model_made_before_refuses_to_give_no_gradient():
    model = whole_numbers(nn.Sequential(nn.Conv1d(4, 4, 3), nn.ConvTranspose1d(4, 3, 4, 2)))
    stream = polyconv.stream(model)
    call = lambda x: in_chunks(stream.step, stream.flush, x)  # noqa: E731
    with pytest.raises(ValueError, match=r"\[stream\] the stream must be made inside the function"):
        both_gradients(model, call)
    stream.reset_state()
    # A gradient of the input alone is right, also when the model has learned meanwhile.
    loss = loss_of(lambda w, x: call(x))
    expected = mx.grad(loss_of(lambda w, x: model(x)), 1)(W, X)
    assert mx.array_equal(mx.grad(loss, 1)(W, X), expected)
    model.update(nn.utils.tree_map(lambda each: each + 1, model.parameters()))
    assert mx.array_equal(mx.grad(loss, 1)(W, X), expected)


def test_weights_that_another_thread_has_not_computed_yet_are_not_taken_for_trained():
    model = whole_numbers(nn.Sequential(nn.Conv1d(4, 4, 3), nn.ConvTranspose1d(4, 3, 4, 2)))
    stream = polyconv.stream(model)
    expected = stream.step(X)
    stream.reset_state()
    model.update(nn.utils.tree_map(lambda each: each + 1, model.parameters()))
    with ThreadPoolExecutor(1) as pool:
        assert mx.array_equal(pool.submit(stepped, stream).result(), expected)


def stepped(stream):
    y = stream.step(X)
    mx.eval(y)
    return y


def test_a_block_diagonal_weight_has_the_gradient_of_a_dense_one():
    layer = nn.ConvTranspose1d(4, 4, 4, 2)
    layer.weight = integers(4, 4, 4) * mx.eye(4)[:, None]
    polyconv.convert(layer, exploit_sparsity=True)
    dense = lambda x: mx.conv_transpose1d(x, layer.weight, 2) + layer.bias  # noqa: E731
    with pytest.warns(UserWarning, match="computed densely"):
        whole, found = both_gradients(layer, dense)
    assert_equal(found, whole)
    assert mx.any(found[1]["weight"] * (1 - mx.eye(4)[:, None])).item()


def test_a_weight_packed_before_costs_no_gradient_of_its_own(monkeypatch, worked_out_anew):
    asked = []
    bilinear = polyconv.gradients.bilinear
    kept = bilinear.COMPUTE
    spied = lambda kind: lambda problem: asked.append(kind) or kept[kind](problem)  # noqa: E731
    monkeypatch.setattr(bilinear, "COMPUTE", {kind: spied(kind) for kind in kept})
    packed = polyconv.pack(W)
    mx.grad(loss_of(lambda w, x: polyconv.conv_transpose1d(x, packed, 2)), 1)(W, X)
    assert "x" in asked
    assert "w" not in asked
