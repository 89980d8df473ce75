"""Gradients in tiles: the numbers of the whole, and no more memory than was allowed."""

import os
import random
import subprocess
import sys
from pathlib import Path

import mlx.core as mx
import pytest

import polyconv
from polyconv.execution import device, run_tiled
from polyconv.gradients.unfolded import unfolded
from polyconv.problem.arguments import NoRoomError
from tests.support.cases import integers
from tests.support.tiled import LIMIT, counted, limited, same

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16])
def test_gradients_in_tiles_of_views(dtype):
    """Reversed, transposed and broadcast: what is read where it lies, backwards too."""
    a, w = integers(4, 4, 500).astype(dtype), integers(6, 5, 4, seed=1).astype(dtype)
    views = [
        lambda a: a[:, :, ::-1].transpose(0, 2, 1),
        lambda a: a.transpose(1, 2, 0)[::-1, ::-2],
        lambda a: mx.broadcast_to(a[:1, :1, :4], (3, 500, 4)),
    ]
    for view in views:
        loss = lambda a, w, v=view, **more: polyconv.conv_transpose1d(v(a), w, 3, 2, **more).sum()  # noqa: E731
        found = mx.grad(lambda a, w, f=loss: f(a, w, max_workspace=LIMIT), (0, 1))(a, w)
        for ours, expected in zip(found, mx.grad(loss, (0, 1))(a, w), strict=True):
            assert same(ours, expected)


def drawn_view(rng, shape):
    """An array and a view of it, of this shape: axes reversed, strided, broadcast, exchanged."""
    sizes, index = [], []
    order = rng.sample(range(len(shape)), len(shape))
    for size in [shape[axis] for axis in order]:
        step = rng.choice((1, 2, 3)) * rng.choice((1, -1))
        kinds = ((size, slice(None)), (1, slice(None)), (size + 2, slice(size, 0, -1)))
        have, taken = rng.choice((*kinds, (abs(step) * size, slice(None, None, step))))
        sizes.append(have)
        index.append(taken)
    back = [order.index(axis) for axis in range(len(shape))]
    view = lambda a: mx.broadcast_to(a[tuple(index)].transpose(back), shape)  # noqa: E731
    return integers(*sizes, seed=rng.randrange(2**30)), view


def drawn_call(rng):
    """A function of two arrays, a convolution of views of them, and the arrays."""
    ndim, groups = rng.choice((1, 1, 2)), rng.choice((1, 1, 2))
    size = [rng.randint(1, 30 if ndim == 1 else 8) for _ in range(ndim)]
    kernel = [rng.randint(1, 3) for _ in range(ndim)]
    stride = tuple(rng.randint(1, 4) for _ in range(ndim))
    reads, makes = rng.choice((1, 2, 5)), rng.choice((1, 3, 6))
    x, as_x = drawn_view(rng, (rng.randint(1, 3), *size, groups * reads))
    w, as_w = drawn_view(rng, (groups * makes, *kernel, reads))
    op = getattr(polyconv, f"conv_transpose{ndim}d")
    return (lambda x, w, **more: op(as_x(x), as_w(w), stride, groups=groups, **more)), x, w


def tiled_gradients(rng, call, x, w, y):
    """By the least that is told to be enough, or somewhat more."""
    limit = 1
    while True:
        loss = lambda x, w, n=limit: (call(x, w, max_workspace=n) * y).sum()  # noqa: E731
        try:
            return mx.grad(loss, (0, 1))(x, w)
        except NoRoomError as error:
            least = int(str(error).split("at least ")[1].split()[0])
            assert least > limit
            limit = int(least * rng.choice((1, 1.5)))


@pytest.mark.parametrize("cases", [20, pytest.param(1000, marks=pytest.mark.slow)])
def test_tiled_gradients_of_random_views(cases):
    """By `==` with those of the whole, of integers, which `sweep.py` compares with NumPy's."""
    rng = random.Random(5)
    for case in range(cases):
        call, x, w = drawn_call(rng)
        y = integers(*call(x, w).shape, seed=case)
        dtype = rng.choice((mx.float32, mx.float32, mx.float16, mx.bfloat16))
        x, w, y = (mx.clip(a, -1, 1).astype(dtype) for a in (x, w, y))
        expected = mx.vjp(call, [x, w], [y])[1]
        for ours, right in zip(tiled_gradients(rng, call, x, w, y), expected, strict=True):
            assert same(ours, right), case


def test_gradients_in_tiles_of_one_backward_sample():
    """NumPy calls a view contiguous whose axis of one sample has a negative stride."""
    x, w = integers(1, 28, 5), integers(6, 2, 5, seed=1)
    loss = lambda x, w, **more: polyconv.conv_transpose1d(x[:, ::-1], w, 4, **more).sum()  # noqa: E731
    tiled_loss = lambda x, w: loss(x, w, max_workspace=15_386)  # noqa: E731
    for ours, right in zip(mx.grad(tiled_loss, (0, 1))(x, w), mx.grad(loss, (0, 1))(x, w)):
        assert same(ours, right)


@pytest.mark.parametrize("dtype", [mx.float16, mx.bfloat16])
def test_gradients_of_half_weights_are_summed_in_float32(dtype):
    x, w = mx.ones((4, 3000, 2), dtype), mx.ones((3, 4, 2), dtype)
    call = lambda w, **more: polyconv.conv_transpose1d(x, w, 2, 1, **more).sum()  # noqa: E731
    expected = mx.grad(call)(w)
    for f in (mx.grad(call), mx.compile(mx.grad(lambda w: call(w, max_workspace=5000)))):
        assert same(f(w), expected)
    assert same(mx.grad(lambda w: call(w, max_workspace=5000))(w), expected)


@pytest.mark.skipif(device.version() < (0, 32), reason="its traces are of all threads")
@pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16])
@pytest.mark.usefixtures("on_cpu")  # what Metal allocates is bounded in tests/on_metal
def test_gradients_in_tiles_keep_the_limit(dtype):
    """What MLX keeps of a variable's past would be every tile.

    Measured: 0.53 of the bound, and 36 of it if tiles are computed in the thread that traces.
    """
    x, w = integers(8, 20_000, 4).astype(dtype), integers(6, 8, 4, seed=1).astype(dtype)
    limit = 1_000_000
    call = lambda x, w: polyconv.conv_transpose1d(x, w, 4, max_workspace=limit)  # noqa: E731
    mx.eval(x, w)
    result = 8 * 80_004 * 6 * dtype.size
    cache = mx.set_cache_limit(0)
    before = counted()
    mx.eval(mx.grad(lambda x, w: call(x, w).sum(), (0, 1))(x, w))
    taken = mx.get_peak_memory() - before
    mx.set_cache_limit(cache)
    # The output, its cotangent, the gradients, and a workspace at a time.
    assert taken < 2 * result + x.nbytes + w.nbytes + limit


@pytest.mark.usefixtures("on_cpu")  # as tiles are by what a CPU allocates
def test_the_product_of_equal_tiles_is_worked_out_once(monkeypatch):
    x, w = integers(4, 4000, 4), integers(6, 5, 4, seed=1)
    worked_out, ran = [], []

    def counting(plan, exchanged):
        worked_out.append(plan)
        gradient = unfolded(plan, exchanged)
        return lambda x, y: ran.append(plan) or gradient(x, y)

    monkeypatch.setattr("polyconv.gradients.maps.unfolded", counting)
    with polyconv.planning_for("cuda"):
        loss = lambda w, **more: polyconv.conv1d(x, w, **more).sum()  # noqa: E731
        found = mx.grad(lambda w: loss(w, max_workspace=60_000))(w)
        assert same(found, mx.grad(loss)(w))
    assert len(ran) > 10
    assert len(worked_out) < 6  # measured: 5


@pytest.mark.usefixtures("on_cpu")  # as tiles are by what a CPU allocates
def test_a_packed_weight_in_tiles_has_the_gradient_of_the_input_alone(monkeypatch):
    x, w, call = limited(max_workspace=LIMIT)
    computed = []
    assembled = run_tiled.assembled
    noted = lambda tiling, *more: computed.append(tiling.result) or assembled(tiling, *more)  # noqa: E731
    monkeypatch.setattr("polyconv.gradients.maps.assembled", noted)
    mx.eval(mx.grad(lambda x: call(x, w).sum())(x))
    assert sorted(computed) == ["w", "x", "y"]  # though nobody asked for that of the weight
    computed.clear()
    packed = polyconv.pack(w)
    mx.eval(mx.grad(lambda x: call(x, packed).sum())(x))
    assert sorted(computed) == ["x", "y"]


_AFTER_MAIN = """
import threading, time
import mlx.core as mx, polyconv
x, w = mx.ones((2, 3000, 4)), mx.ones((6, 5, 4))
mx.eval(x, w)
f = lambda x: polyconv.conv_transpose1d(x, w, 3, 2, max_workspace=60_000).sum()

def train():
    threading.main_thread().join()
    print(mx.grad(f)(x)[0, 9, 0].item())

mx.eval(mx.grad(f)(x))
threading.Thread(target=train).start()
"""


def test_gradients_in_tiles_after_the_main_thread_has_ended():
    """As in a program that leaves its work to threads: a pool would take no more tasks."""
    command, environment = (
        [sys.executable, "-c", _AFTER_MAIN],
        {**os.environ, "PYTHONPATH": str(ROOT)},
    )
    ran = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    assert (ran.returncode, ran.stdout) == (0, "30.0\n"), ran.stderr[-500:]
