"""No product and no convolution of MLX gets an array without elements, on which its CUDA dies."""

from __future__ import annotations

import random
from itertools import pairwise

import mlx.core as mx
import mlx.nn as nn
import pytest

import polyconv
from polyconv.execution import unpatched
from polyconv.planning.methods import METHODS
from tests.campaigns.partitions import draw as draw_stream
from tests.support.cases import draw_case, integers

DEVICES = ("cpu", "m4-max", "cuda")
PRODUCTS = ("matmul", "addmm", "quantized_matmul", "inner", "outer", "tensordot", "einsum")


@pytest.fixture
def operands(monkeypatch):
    """The shapes that products and convolutions are called with; one without elements fails."""
    seen = []

    def spied(name, function):
        def call(*args, **kwargs):
            arrays = [each for each in (*args, *kwargs.values()) if isinstance(each, mx.array)]
            seen.append((name, [each.shape for each in arrays]))
            assert all(each.size for each in arrays), seen[-1]
            return function(*args, **kwargs)

        return call

    for name in PRODUCTS:
        monkeypatch.setattr(mx, name, spied(name, getattr(mx, name)))
    for name in ("__matmul__", "__imatmul__"):
        monkeypatch.setattr(mx.array, name, spied(name, getattr(mx.array, name)))
    for name in unpatched.ORIGINALS:
        monkeypatch.setattr(mx, name, spied(name, unpatched.ORIGINALS[name]))
        monkeypatch.setitem(unpatched.ORIGINALS, name, getattr(mx, name))
    monkeypatch.setattr(unpatched, "conv_general", mx.conv_general)
    for name in ("layer_norm", "rms_norm"):
        monkeypatch.setattr(mx.fast, name, spied(name, getattr(mx.fast, name)))
    return seen


def is_dying(call):
    with pytest.raises(AssertionError):
        call()


def test_the_spy_sees_every_way_to_hand_over_nothing(operands):
    nothing = mx.zeros((0, 3))
    is_dying(lambda: nothing @ mx.ones((3, 3)))
    is_dying(lambda: mx.addmm(mx.ones(3), nothing, mx.ones((3, 3))))
    is_dying(lambda: nn.Linear(3, 3)(nothing))
    is_dying(lambda: nn.LayerNorm(3)(nothing))
    is_dying(lambda: nn.Conv1d(3, 3, 1)(nothing[None]))
    is_dying(lambda: unpatched.conv_general(nothing[None], mx.ones((3, 1, 3))))
    assert len(operands) == 6


def call_and_differentiate(case, method):
    x, w = (mx.array(a).astype(getattr(mx, case.dtype)) for a in case.data())
    call = lambda x, w: case.call(x, w, method)  # noqa: E731
    packed = lambda x, w: case.call(x, polyconv.pack(w), method)  # noqa: E731
    for each in (call, packed):
        loss = lambda x, w, each=each: (each(x, w).astype(mx.float32) ** 2).sum()  # noqa: E731
        mx.eval(each(x, w), mx.grad(loss, (0, 1))(x, w))
        twice = mx.grad(lambda x, loss=loss: (mx.grad(loss)(x, w).astype(mx.float32) ** 2).sum())
        mx.eval(twice(x))
    mx.eval(mx.vmap(call, (0, None))(mx.stack([x, x]), w))
    mx.eval(mx.vmap(call, (None, 0))(x, mx.stack([w, w])))


def calls(n, seed, device):
    rng, empty = random.Random(seed), 0
    with polyconv.planning_for(device):
        for _ in range(n):
            case = draw_case(rng.choice)
            method = rng.choice(("auto", "auto", *METHODS))
            try:
                call_and_differentiate(case, method)
            except ValueError as error:  # what has no output, or not by this method, is refused
                assert not case.has_output or "method must suit" in str(error), error
                continue
            empty += 0 in case.x_shape
    return empty


@pytest.mark.parametrize("device", DEVICES)
def test_calls_and_gradients_hand_over_no_empty_operand(device, operands):
    assert calls(40, 1, device) > 3
    assert len(operands) > 100


@pytest.mark.slow
@pytest.mark.parametrize("device", DEVICES)
def test_many_calls_and_gradients_hand_over_no_empty_operand(device, operands):
    assert calls(600, 2, device) > 60


def streams(n, seed, device):
    rng = random.Random(seed)
    with polyconv.planning_for(device):
        for _ in range(n):
            op, options, _, x_shape, w_shape, sizes = draw_stream(rng.choice)
            x, w = integers(*x_shape), integers(*w_shape, seed=1)

            def run(x, w, op=op, options=options, sizes=sizes):
                state = polyconv.stream_init(op, w, batch=x.shape[0], **options)
                found, at = [], 0
                for size in sizes:
                    y, state = polyconv.stream_step(state, x[:, at : at + size], w)
                    found.append(y)
                    at += size
                return mx.concatenate([*found, polyconv.stream_flush(state, w)[0]], 1).sum()

            mx.eval(run(x, polyconv.pack(w)), mx.grad(run, (0, 1))(x, w))


@pytest.mark.parametrize("device", DEVICES)
def test_streams_hand_over_no_empty_operand(device, operands):
    streams(30, 1, device)
    assert len(operands) > 100


class Blocks(nn.Module):
    """All that `stream` takes, behind convolutions whose first chunks give nothing."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Conv1d(4, 4, 9), nn.ConvTranspose1d(4, 4, 4, 2, 1)
        self.mixed = nn.Sequential(nn.Linear(4, 6), nn.LayerNorm(6), nn.RMSNorm(6), nn.GELU())
        self.out = nn.QuantizedLinear.from_linear(nn.Linear(32, 4, bias=False), 32, 4)
        self.wide = nn.Linear(6, 32)

    def __call__(self, x):
        y = self.first(x)
        return self.last(self.out(self.wide(self.mixed(y))) + y)


def test_streamed_models_and_layers_hand_over_no_empty_operand(operands):
    model, x = Blocks(), integers(2, 30, 4)
    whole = model(x)
    for dtype in (mx.float32, mx.float16):
        model.set_dtype(dtype)
        streamed = polyconv.stream(model)
        for sizes in ((1, 0, 2, 20), (0, 0), (30,)):
            ends = [sum(sizes[:i]) for i in range(len(sizes) + 1)] + [30]
            found = [streamed.step(x[:, a:b].astype(dtype)) for a, b in pairwise(ends)]
            found.append(streamed.flush())
            assert {each.dtype for each in found} == {dtype}
            y = mx.concatenate(found, 1)
            assert mx.allclose(y, whole, 1e-4, 1e-4 if dtype == mx.float32 else 2e-2)
    for layer in (polyconv.StreamingConv1d(4, 4, 9), polyconv.StreamingConvTranspose1d(4, 4, 9)):
        mx.eval(layer.step(x[:, :0]), layer.step(x[:, :1]), layer.flush())
    resampler = polyconv.ResampleStream(3, 2)
    mx.eval(resampler.resample_chunk(mx.zeros(0)), resampler.resample_chunk(mx.zeros(0), True))
    assert operands
