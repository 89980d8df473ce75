"""A stream that is wrong is not given: here at short lengths, which no trace sees."""

from __future__ import annotations

import mlx.core as mx
import pytest

import polyconv
from polyconv.streaming.end_nodes import Late
from polyconv.streaming.nodes import EndError
from tests.support.cases import integers

X = integers(1, 40, 4)


def short(x):
    return x.shape[1] < 35


WRONG = {
    "a number": lambda x: x + (0.1 if short(x) else 0.0),
    "the imaginary part": lambda x: x * mx.array(1 + 1j if short(x) else 1 + 0j),
    "NaN": lambda x: x + (float("nan") if short(x) else 0.0),
    "a constant of many numbers": lambda x: (x[:, :, :1] * _many(x))[:, :, :4],
}


def _many(x):
    return mx.full((1, 5000), 2.0 if short(x) else 1.0)


@pytest.mark.parametrize("name", WRONG)
def test_a_stream_that_differs_is_refused(name):
    with pytest.raises(ValueError, match="chunks must give what the model gives at once; got num"):
        polyconv.stream(WRONG[name], X)
    assert polyconv.stream(WRONG[name], X, check=False)


def test_a_stream_that_fails_is_refused(monkeypatch):
    def run(self, chunks, ended):
        raise EndError("it cannot end here")

    monkeypatch.setattr(Late, "run", run)
    with pytest.raises(ValueError, match="got EndError: it cannot end here"):
        polyconv.stream(lambda x: mx.concatenate([x, x[:, -2:]], 1), X)


def test_integers_must_be_equal():
    """Of the example's numbers: 2^25 + 1 is no float32."""
    x = mx.full((1, 40, 4), 2**25, mx.int32)

    def model(x):
        return x + (1 if short(x) else 0)

    with pytest.raises(ValueError, match="got other numbers"):
        polyconv.stream(model, x)


@pytest.mark.parametrize(
    "model",
    [
        lambda x: x / (x - x),  # NaN and infinity are what they are
        lambda x: x + 1j * x[:, ::1],
        lambda x: x > 0,
        lambda x: (x * 100).astype(mx.int32),
        lambda x: mx.exp(x.astype(mx.float16)),
        lambda x: mx.exp(x.astype(mx.bfloat16)),
    ],
)
def test_a_stream_that_is_right_is_given(model):
    streamed = polyconv.stream(model, X)
    found = mx.concatenate([streamed.step(X[:, :3]), streamed.step(X[:, 3:]), streamed.flush()], 1)
    equal = mx.array_equal(found, model(X), equal_nan=mx.issubdtype(found.dtype, mx.inexact))
    assert equal.item()
