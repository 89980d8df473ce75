"""polyconv in processes that were spawned, pickled, and compiled in threads (docs/threads.md)."""

import copy
import pickle
import sys

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

import polyconv
from tests.support.threading_tools import in_threads, ints, run_script

X1, W1 = ints((2, 9, 4)), ints((6, 5, 4), 1)


cannot_on_cuda = pytest.mark.skipif(
    mx.cuda.is_available(),
    reason="on CUDA MLX 0.32.4 may end a process whose threads compile at once: docs/threads.md",
)
needs_fork = pytest.mark.skipif(
    sys.platform == "darwin", reason="Metal does not survive a fork: docs/threads.md says spawn"
)


# Spawned processes, and what goes to them.

SPAWN = """
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
import mlx.core as mx, mlx.nn as nn, numpy as np
import polyconv
from tests.support.threading_tools import ints

X1, W1 = ints((2, 9, 4)), ints((6, 5, 4), 1)

def call(given):
    packed, layer, converted, state, streaming, cache, resampling = given
    y, state = polyconv.stream_step(state, X1[:, 4:], packed)
    rest, _ = polyconv.stream_flush(state, packed)
    chunk = np.arange(100, dtype=np.float32)
    found = [polyconv.conv_transpose1d(X1, packed, 3), layer(X1), converted(X1), y, rest]
    found += [streaming.step(X1[:, 4:], cache), streaming.flush(cache)]
    found += [resampling.resample_chunk(chunk, last=True)]
    assert type(converted.layers[0]).__name__ == "PolyConvTranspose1d"
    return [np.array(each) for each in found]

def made():
    layer = polyconv.PolyConvTranspose1d(4, 6, 5, 3)
    layer.weight, layer.bias = W1, ints((6,), 4)
    converted = nn.Sequential(nn.ConvTranspose1d(4, 6, 5, 3))
    converted.layers[0].weight, converted.layers[0].bias = W1, ints((6,), 4)
    polyconv.convert(converted)
    packed = polyconv.pack(W1)
    polyconv.conv_transpose1d(X1, packed, 3)
    state = polyconv.stream_init("conv_transpose1d", packed, stride=3, batch=2)
    y, state = polyconv.stream_step(state, X1[:, :4], packed)
    streaming = polyconv.StreamingConvTranspose1d(4, 6, 5, 3)
    streaming.weight, streaming.bias = W1, ints((6,), 4)
    cache = streaming.make_cache()
    streaming.step(X1[:, :4], cache)
    mx.eval(state, cache.state)  # the pool pickles in another thread
    resampling = polyconv.ResampleStream(2, 3)
    resampling.resample_chunk(np.arange(50, dtype=np.float32))
    return packed, layer.to_packed(), converted, state, streaming, cache, resampling

if __name__ == "__main__":
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(2, mp_context=context) as pool:
        several = list(pool.map(call, [made() for _ in range(3)], timeout=100))
    here = call(made())
    for found in several:
        for got, expected in zip(found, here, strict=True):
            assert got.shape == expected.shape and (got == expected).all()
    print("the same", len(here))
"""


def test_spawned_processes_take_what_was_made_here(tmp_path):
    assert run_script(SPAWN, tmp_path, 240) == "the same 8\n"


@needs_fork
def test_a_fork_server_too(tmp_path):
    assert run_script(SPAWN.replace('"spawn"', '"forkserver"'), tmp_path, 240) == "the same 8\n"


def test_what_is_pickled_of_a_packed_weight_is_the_weight():
    packed = polyconv.pack(W1)
    before = len(pickle.dumps(packed))
    expected = np.array(polyconv.conv_transpose1d(X1, packed, 3))
    assert len(pickle.dumps(packed)) == before
    for other in (pickle.loads(pickle.dumps(packed)), copy.deepcopy(packed)):
        assert (np.array(polyconv.conv_transpose1d(X1, other, 3)) == expected).all()
        assert other.shape == packed.shape


def test_what_another_thread_packed_can_be_pickled():
    layer = polyconv.PolyConvTranspose1d(4, 6, 5, 3)
    layer.weight, layer.bias = W1, ints((6,), 4)
    packed = layer.to_packed()
    expected = np.array(layer(X1))
    in_threads(lambda i: packed(X1), 1)  # made there, and not computed
    assert (np.array(pickle.loads(pickle.dumps(packed))(X1)) == expected).all()


class Halves(nn.Module):
    def __init__(self):
        super().__init__()
        self.up = nn.ConvTranspose1d(4, 6, 5, 3)
        self.up.weight, self.up.bias = W1, ints((6,), 4)

    def __call__(self, x):
        y = self.up(x)
        return mx.maximum(y, 0) + y[:, :]


def test_a_streamed_model_is_copied_but_not_pickled():
    model = Halves()
    streamed = polyconv.stream(model)
    first = streamed.step(X1[:, :4])
    twin = copy.deepcopy(streamed)
    for each in (streamed, twin):
        y = mx.concatenate([first, each.step(X1[:, 4:]), each.flush()], 1)
        assert (y == model(X1)).all().item()
    for stolen in (pickle.dumps, copy.copy):
        with pytest.raises(TypeError) as error:
            stolen(streamed)
        assert str(error.value) == (
            "[StreamedModel] cannot be pickled, as it holds the model's functions; "
            "pickle the model, and stream that"
        )


# `mx.compile`: in MLX each thread has compiled functions of its own.

COMPILED = """
import sys
import mlx.core as mx, numpy as np
import polyconv
from tests.support.threading_tools import in_threads, ints

X, W = [ints((1, n, 4), n) for n in (5, 9, 14)], ints((6, 5, 4), 1)
packed = polyconv.pack(W)

def g(x, w):
    return polyconv.conv_transpose1d(x, w, 3, 1) + polyconv.conv_transpose1d(x, packed, 3, 1)

def f(x, w):
    return g(x, w) + polyconv.conv_transpose1d(x, w, 3, 1, max_workspace=20_000)

expected = [3 * np.array(polyconv.conv_transpose1d(x, W, 3, 1)) for x in X]
gradients = [np.array(mx.grad(lambda x: (g(x, W) ** 2).sum())(x)) for x in X]
shared, shared_grad = mx.compile(f), mx.compile(mx.grad(lambda x: (g(x, W) ** 2).sum()))

def work(i):
    own = mx.compile(f)
    call = own if OWN else shared
    for n in range(30):
        at = (n + i) % 3
        assert (np.array(call(X[at], W)) == expected[at]).all()
        if not OWN:
            assert (np.array(shared_grad(X[at])) == gradients[at]).all()

in_threads(work)
print("the same")
sys.stdout.flush()
END
"""


@cannot_on_cuda
def test_threads_compile_each_for_itself(tmp_path):
    text = COMPILED.replace("OWN", "True").replace("END", "")
    assert run_script(text, tmp_path) == "the same\n"


@cannot_on_cuda
def test_threads_call_one_compiled_function(tmp_path):
    """It ends before MLX tears down what its threads compiled, in which it may abort."""
    text = COMPILED.replace("OWN", "False").replace("END", "import os; os._exit(0)")
    assert run_script(text, tmp_path) == "the same\n"
