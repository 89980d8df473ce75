"""On a GPU functions of the same samples are compiled together; here as well, for the test."""

import shutil
from unittest import mock

import mlx.core as mx
import mlx.nn as nn
import pytest

import polyconv
from polyconv.streaming.fused import Fused, Local
from tests.streaming.test_graph import Residual, Sums
from tests.support.cases import integers
from tests.support.streams import chunks, whole_numbers


def streamed_as_on_a_gpu(model, x):
    with mock.patch("polyconv.streaming.record.is_on_cpu", return_value=False):
        return polyconv.stream(model, x)


# On a CPU MLX compiles by a compiler of the system.
needs_compiler = pytest.mark.skipif(
    mx.default_device() == mx.cpu and shutil.which("g++") is None,
    reason="MLX needs a C++ compiler to compile on a CPU",
)


@needs_compiler
@pytest.mark.parametrize("kind", [Residual, pytest.param(Sums, marks=pytest.mark.slow)])
def test_what_is_compiled_together_gives_the_same(kind):
    model = whole_numbers(kind())
    x = integers(1, 40, 4)
    stream = streamed_as_on_a_gpu(model, x)
    together = [
        each.function
        for each in stream._built.program._instructions
        if isinstance(each, Local) and isinstance(each.function, Fused)
    ]
    assert together
    for sizes in ((8, 8, 8, 8), (1, 0, 3, 8, 8), (8,) * 5):
        got = mx.concatenate(list(chunks(stream, x, sizes)), 1)
        assert mx.array_equal(got, model(x))
    assert any(len(each._seen) for each in together)


@needs_compiler
def test_pieces_and_signals_of_other_moments_are_not_waited_for():
    class Conditioned(nn.Module):
        def __call__(self, x):
            first = mx.tanh(x[:, 1:3]).sum(1, keepdims=True)
            late = mx.pad(x, [(0, 0), (5, 0), (0, 0)])[:, :-5]
            return mx.abs(x * 2 + first) - mx.abs(late + 1)

    model, x = Conditioned(), mx.random.normal((1, 60, 3), key=mx.random.key(1))
    stream = streamed_as_on_a_gpu(model, x)
    got = mx.concatenate(list(chunks(stream, x, (1, 1, 4, 4, 20, 4))), 1)
    assert mx.allclose(got, model(x), atol=1e-6)


def test_on_a_cpu_nothing_is_compiled():
    with mock.patch("polyconv.streaming.record.is_on_cpu", return_value=True):  # on a Mac, too
        stream = polyconv.stream(whole_numbers(Sums()), integers(1, 40, 4))
    program = stream._built.program
    assert not any(
        isinstance(each, Local) and isinstance(each.function, Fused)
        for each in program._instructions
    )
