"""Gradients of every order, compiled, on other streams and in threads."""

import threading
from functools import lru_cache

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

import polyconv
from polyconv.gradients import bilinear
from tests.support.cases import NAMED, integers
from tests.support.reference import conv_general as reference_conv


def inputs(name):
    case = NAMED[name]
    x, w = (mx.array(a) for a in case.data())
    return case, x, w


METHODS = ("per_phase", "stacked", "taps", "auto")
CALLS = [
    (name, method)
    for name in NAMED
    for method in METHODS
    if not (name.startswith("dilated, co") and method == "stacked")
]


@lru_cache
def reference_gradients(name):
    """The convolution is bilinear: its gradients are its values at unit vectors."""
    case, x, w = inputs(name)
    x, w, ct = np.array(x), np.array(w), case.cotangent()

    def along(array, value):
        grad = np.zeros(array.size)
        for i in range(array.size):
            unit = np.zeros(array.size)
            unit[i] = 1
            grad[i] = np.sum(ct * value(unit.reshape(array.shape)))
        return grad.reshape(array.shape)

    return (
        along(x, lambda unit: reference_conv(unit, w, **case.general)),
        along(w, lambda unit: reference_conv(x, unit, **case.general)),
    )


@pytest.mark.parametrize(("name", "method"), CALLS)
def test_gradients_of_both_arguments(name, method):
    case, x, w = inputs(name)
    cotangent = mx.array(case.cotangent()).astype(mx.float32)
    _, (dx, dw) = mx.vjp(lambda x, w: case.call(x, w, method), [x, w], [cotangent])
    expected_dx, expected_dw = reference_gradients(name)
    assert np.array_equal(np.array(dx), expected_dx)
    assert np.array_equal(np.array(dw), expected_dw)


@pytest.mark.parametrize("dtypes", [(mx.float16, mx.float32), (mx.float32, mx.bfloat16)])
def test_gradients_have_the_types_of_their_arguments(dtypes):
    case, x, w = inputs("hifigan")
    x, w = x.astype(dtypes[0]), w.astype(dtypes[1])
    grads = mx.grad(lambda x, w: case.call(x, w, "auto").sum(), argnums=(0, 1))(x, w)
    assert tuple(grad.dtype for grad in grads) == dtypes


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", ["hifigan", "depthwise", "2d groups", "3d 4x4x4 s2 p1"])
def test_second_order(name, method):
    """A gradient penalty: the gradient of |d loss / d x|^2, against MLX's own op."""
    case, x, w = inputs(name)

    def penalty(lib, method):
        def loss(x, w):
            return (case.call(x, w, method, lib) ** 2).sum() / 1e3

        return lambda x, w: (mx.grad(loss)(x, w) ** 2).sum() / 1e3

    ours = mx.grad(penalty(polyconv, method), argnums=(0, 1))(x, w)
    theirs = mx.grad(penalty(mx, ""), argnums=(0, 1))(x, w)
    for a, b in zip(ours, theirs, strict=True):
        assert mx.allclose(a, b, rtol=1e-4, atol=1e-4 * mx.abs(b).max().item())


@pytest.mark.parametrize("name", ["hifigan", "2d groups", "3d groups", "output padding"])
def test_value_and_grad_compiled(name):
    case, x, w = inputs(name)
    step = mx.value_and_grad(lambda x, w: (case.call(x, w, "auto") ** 2).sum(), argnums=(0, 1))
    value, grads = step(x, w)
    compiled_value, compiled_grads = mx.compile(step)(x, w)
    assert mx.array_equal(value, compiled_value)
    for a, b in zip(grads, compiled_grads, strict=True):
        assert mx.array_equal(a, b)


def test_compile_retraces_for_a_new_length():
    w = integers(3, 4, 2)
    convolve = mx.compile(lambda x: polyconv.conv_transpose1d(x, w, 2, 1))
    for length in (5, 9, 5):
        x = integers(1, length, 2)
        assert mx.array_equal(convolve(x), mx.conv_transpose1d(x, w, 2, 1))


def test_checkpoint():
    case, x, w = inputs("hifigan")
    loss = lambda x, w: (case.call(x, w, "auto") ** 2).sum()  # noqa: E731
    plain = mx.grad(loss, argnums=(0, 1))(x, w)
    kept = mx.grad(mx.checkpoint(loss), argnums=(0, 1))(x, w)
    for a, b in zip(plain, kept, strict=True):
        assert mx.array_equal(a, b)


def test_jvp_is_the_same_clear_error_as_mlx_s():
    case, x, w = inputs("hifigan")
    for lib in (mx, polyconv):
        with pytest.raises(ValueError, match="Not implemented for Convolution"):
            mx.jvp(lambda x, lib=lib: case.call(x, w, "auto", lib), [x], [x])


@pytest.mark.parametrize("stride", [2, 3, 4])
def test_second_order_of_a_stride_that_leaves_samples_unread(stride):
    """MLX's own is wrong there; the same input without its unread end says what is right."""
    x, w = integers(1, 10, 1), integers(2, 2, 1)
    unread = (10 - 2) % stride

    def penalty(x, w):
        loss = lambda x, w: (polyconv.conv_general(x, w, stride) ** 2).sum()  # noqa: E731
        return (mx.grad(loss)(x, w) ** 2).sum()

    dx, dw = mx.grad(penalty, argnums=(0, 1))(x, w)
    short_dx, short_dw = mx.grad(penalty, argnums=(0, 1))(x[:, : 10 - unread], w)
    assert mx.array_equal(dw, short_dw)
    assert mx.array_equal(dx[:, : 10 - unread], short_dx)
    assert not mx.any(dx[:, 10 - unread :])


STREAMS = {
    "device": lambda: mx.Device(mx.cpu, 0),
    "device type": lambda: mx.cpu,
    "stream": lambda: mx.default_stream(mx.cpu),
    "new stream": lambda: mx.new_stream(mx.cpu),
}


@pytest.fixture
def used_streams(monkeypatch, worked_out_anew):
    """The default stream at each time that a plan is executed."""
    used = []
    made = bilinear.executor

    def executor(*args, **options):
        execute = made(*args, **options)
        return lambda *arrays: used.append(mx.default_stream(mx.cpu)) or execute(*arrays)

    monkeypatch.setattr(bilinear, "executor", executor)
    return used


@pytest.mark.parametrize("where", STREAMS)
@pytest.mark.parametrize("name", ["hifigan", "2d groups"])
def test_explicit_stream(name, where, used_streams):
    stream = STREAMS[where]()
    before = mx.default_device(), mx.default_stream(mx.cpu)
    case, x, w = inputs(name)
    y = getattr(polyconv, case.op)(x, w, **case.kwargs, stream=stream)
    assert np.array_equal(np.array(y), case.reference())
    assert (mx.default_device(), mx.default_stream(mx.cpu)) == before
    expected = stream if isinstance(stream, mx.Stream) else before[1]
    assert used_streams
    assert all(used == expected for used in used_streams)


def test_a_mapped_convolution_stays_on_its_stream(used_streams):
    case, x, _ = inputs("2d groups")
    stream = mx.new_stream(mx.cpu)
    ws = integers(3, *case.w_shape)
    mx.eval(mx.vmap(lambda w: polyconv.conv_transpose2d(x, w, **case.kwargs, stream=stream))(ws))
    assert len(used_streams) == 2  # once traced, once folded
    assert all(used == stream for used in used_streams)


def test_the_default_stream_comes_back_after_an_error():
    before = mx.default_stream(mx.cpu)
    with pytest.raises(ValueError):
        polyconv.conv_transpose1d(
            mx.ones((1, 2, 2)), mx.ones((1, 2, 3)), stream=mx.new_stream(mx.cpu)
        )
    assert mx.default_stream(mx.cpu) == before


def test_threads():
    names = list(NAMED)
    wrong = []

    def work(offset):
        for i in range(40):
            case = NAMED[names[(i + offset) % len(names)]]
            if not np.array_equal(case.run("auto"), case.reference()):
                wrong.append(case)

    threads = [threading.Thread(target=work, args=(7 * i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_training_moves_the_weights_as_native_does():
    def trained(layer):
        mx.random.seed(0)
        model = layer(3, 2, 4, 2, 1)
        x, target = mx.random.normal((2, 6, 3)), mx.random.normal((2, 12, 2))
        step = nn.value_and_grad(model, lambda x: ((model(x) - target) ** 2).mean())
        for _ in range(5):
            _, grads = step(x)
            model.update(nn.utils.tree_map(lambda p, g: p - 0.1 * g, model.parameters(), grads))
        return model

    ours, theirs = trained(polyconv.PolyConvTranspose1d), trained(nn.ConvTranspose1d)
    assert mx.allclose(ours.weight, theirs.weight, atol=1e-6)
    assert mx.allclose(ours.bias, theirs.bias, atol=1e-6)
