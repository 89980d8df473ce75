"""polyconv in several threads: the same results, `==`, as in one (docs/threads.md).

Data are small integers, so every way of computing gives the same numbers. Before the threads begin
all plans are forgotten, so that these are made in several threads at once too.
"""

import asyncio

import mlx.core as mx
import numpy as np
import pytest

import polyconv
from polyconv.execution.device import device_for
from tests.support import reference
from tests.support.threading_tools import assert_right, forget, in_threads, ints

X1, X2, X3 = ints((2, 9, 4)), ints((2, 5, 6, 4)), ints((1, 3, 4, 3, 4))
W1, W2, W3 = ints((6, 5, 4), 1), ints((6, 3, 4, 4), 1), ints((6, 3, 3, 3, 4), 1)
D1, G2 = ints((4, 5, 1), 2), ints((6, 3, 3, 2), 2)
ONE = ints((1, 6, 1), 3)
TAPS = np.array([1.0, 2.0, 3.0, 2.0, 1.0], np.float32)

# Each is given `stream=` and others.
CALLS = {
    "conv_transpose1d": lambda **k: polyconv.conv_transpose1d(X1, W1, 3, 1, **k),
    "conv_transpose2d": lambda **k: polyconv.conv_transpose2d(X2, W2, (2, 3), 1, **k),
    "conv_transpose3d": lambda **k: polyconv.conv_transpose3d(X3, W3, 2, 1, **k),
    "depthwise": lambda **k: polyconv.conv_transpose1d(X1, D1, 2, groups=4, **k),
    "groups in 2D": lambda **k: polyconv.conv_transpose2d(X2, G2, 2, groups=2, **k),
    "conv1d": lambda **k: polyconv.conv1d(X1, W1, dilation=2, **k),
    "conv2d": lambda **k: polyconv.conv2d(X2, W2, padding=1, **k),
    "conv3d": lambda **k: polyconv.conv3d(X3, W3, padding=1, **k),
    "resampling": lambda **k: polyconv.conv_general(X1, W1, 2, 3, 1, 3, **k),
    "flipped": lambda **k: polyconv.conv_general(X2, W2, 1, 2, 1, 2, flip=True, **k),
}
PLAIN = {
    "one filter": lambda **k: polyconv.conv_transpose1d(X1, ONE, 2, groups=4, **k),
    "upfirdn": lambda **k: polyconv.upfirdn(mx.array(TAPS), X1, 3, 2, axis=1),
}


def every_call(**named):
    """What all of them give, as lists."""
    methods = ("auto", "per_phase", "taps")
    calls = [lambda call=c, m=m: call(method=m, **named) for c in CALLS.values() for m in methods]
    calls += [lambda call=c: call(**named) for c in PLAIN.values()]
    return calls


def every_result(first=0, **named):
    """Begun with another one by each thread."""
    calls = every_call(**named)
    found = [None] * len(calls)
    for i in range(len(calls)):
        at = (i + first) % len(calls)
        found[at] = np.array(calls[at]())
    return found


@pytest.fixture(scope="module")
def right():
    """In one thread; the first by the definition too."""
    found = every_result()
    expected = reference.conv_general(X1, W1, [1], [3], [3], [1], [3], flip=True)
    assert (found[0] == expected).all()
    return found


def _own_stream(i):
    return every_result(5 * i, stream=mx.new_stream(mx.cpu))


def _device(i):
    return every_result(5 * i, stream=mx.cpu)


def _default(i):
    return every_result(5 * i)


def _block(i):
    with mx.stream(mx.new_stream(mx.cpu)):
        return every_result(5 * i)


def _planned_for_a_mac(i):
    """In one thread of two: it is of the thread that asks for it."""
    if i % 2:
        return every_result(5 * i)
    with polyconv.planning_for("m4-max"):
        return every_result(5 * i)


WAYS = [_default, _device, _own_stream, _block, _planned_for_a_mac]


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__.strip("_"))
def test_every_call_in_threads(way, right):
    forget()
    assert_right(in_threads(way), right)


@pytest.mark.skipif(not hasattr(mx, "new_thread_local_stream"), reason="of MLX 0.31.2 and later")
def test_a_thread_local_stream_is_for_all_threads(right):
    stream = mx.new_thread_local_stream(mx.cpu)
    forget()
    assert_right(in_threads(lambda i: every_result(5 * i, stream=stream)), right)


def outcome(call):
    """Its values, or the error."""
    try:  # `np.array` of what cannot be evaluated ends the process in MLX 0.32.0
        return call().tolist()
    except (RuntimeError, ValueError) as error:
        return f"{type(error).__name__}: {error}"


def test_a_stream_of_another_thread_is_answered_as_by_mlx():
    stream = mx.new_stream(mx.cpu)
    x, w = ints((1, 3, 1)), ints((1, 2, 1))
    ours, native = [
        in_threads(
            lambda i, lib=lib: outcome(lambda: lib.conv_transpose1d(x, w, 2, stream=stream)), 1
        )
        for lib in (polyconv, mx)
    ]
    assert ours == native


def test_what_another_thread_has_not_computed_is_answered_as_by_mlx():
    x, w = ints((1, 3, 1)), ints((1, 2, 1))
    for lib in (polyconv, mx):
        lazy = lib.conv_transpose1d(x, w, 2)
        (found,) = in_threads(lambda i, lazy=lazy: outcome(lambda: lazy), 1)
        if lib is polyconv:
            ours = found
    kind = lambda told: told if isinstance(told, list) else told.partition("(")[0]  # noqa: E731
    assert kind(ours) == kind(found)
    done = polyconv.conv_transpose1d(x, w, 2)
    mx.eval(done)
    (found,) = in_threads(lambda i: outcome(lambda: done), 1)
    assert found == np.array(done).tolist()


# Packed weights.


def test_a_packed_weight_that_nothing_has_computed_yet(right):
    w = mx.array(np.array(W1))
    packed = polyconv.pack(w + 0)
    assert_right(
        in_threads(lambda i: [np.array(polyconv.conv_transpose1d(X1, packed, 3, 1))]), right[:1]
    )


def test_a_packed_weight_that_another_thread_has_cut_up(right):
    packed = polyconv.pack(W1)
    kept = polyconv.conv_transpose1d(X1, packed, 3, 1)  # by this thread, and not computed
    assert_right(
        in_threads(lambda i: [np.array(polyconv.conv_transpose1d(X1, packed, 3, 1))]), right[:1]
    )
    assert (np.array(kept) == right[0]).all()


def test_threads_fill_one_packed_weight():
    ways = [(s, p, d) for s in (1, 2, 3, 4) for p in (0, 1) for d in (1, 2)]
    expected = [np.array(polyconv.conv_transpose1d(X1, W1, *way)) for way in ways]
    for _ in range(3):
        packed = polyconv.pack(W1)
        forget()

        def work(i, packed=packed):
            found = [None] * len(ways)
            for at in [*range(4 * i, len(ways)), *range(4 * i)]:
                y = polyconv.conv_transpose1d(X1, packed, *ways[at])
                found[at] = np.array(y)
            return found

        assert_right(in_threads(work), expected)


def test_what_one_thread_traced_is_no_part_of_what_another_computes():
    """A graph that was never evaluated is bound to the thread that made it."""
    packed = polyconv.pack(W1)
    loss = lambda x: (polyconv.conv_transpose1d(x, packed, 3, 1) ** 2).sum()  # noqa: E731
    in_threads(lambda i: [mx.grad(loss)(X1), None][1], n=1)
    plain = lambda x: (polyconv.conv_transpose1d(x, W1, 3, 1) ** 2).sum()  # noqa: E731
    assert mx.array_equal(mx.grad(loss)(X1), mx.grad(plain)(X1))


def test_a_packed_layer_and_its_bias():
    layer = polyconv.PolyConvTranspose1d(4, 6, 5, 3)
    layer.weight, layer.bias = W1, ints((6,), 4)
    packed, expected = layer.to_packed(), np.array(layer(X1))
    assert_right(in_threads(lambda i: [np.array(packed(X1))]), [expected])


def test_a_weight_packed_inside_a_trace():
    def f(x, w):
        return polyconv.conv_transpose1d(x, polyconv.pack(w), 3, 1).sum()

    expected = np.array(polyconv.conv_transpose1d(X1, W1, 3, 1)).sum()
    assert mx.compile(f)(X1, W1).item() == expected
    value, grad = mx.value_and_grad(f)(X1, W1)
    assert value.item() == expected
    assert grad.shape == X1.shape
    twice = mx.stack([W1, 2 * W1])
    assert mx.vmap(f, (None, 0))(X1, twice).tolist() == [expected, 2 * expected]
    assert mx.vmap(f)(mx.stack([X1, X1]), twice).tolist() == [expected, 2 * expected]
    plain = lambda x, w: polyconv.conv_transpose1d(x, w, 3, 1).sum()  # noqa: E731
    assert mx.array_equal(mx.grad(f, 1)(X1, W1), mx.grad(plain, 1)(X1, W1))


# Gradients and tiles.


def _gradients(**named):
    def loss(x, w):
        y = polyconv.conv_transpose1d(x, w, 3, 1, **named)
        return (y * y).sum()

    second = mx.grad(lambda x: (mx.grad(loss, 1)(x, W1) * W1).sum())
    return [np.array(g) for g in (*mx.grad(loss, (0, 1))(X1, W1), second(X1))]


@pytest.mark.parametrize("packed", [False, True])
def test_gradients_in_threads(packed):
    weight = polyconv.pack(W1) if packed else W1
    loss = lambda x: (polyconv.conv_transpose1d(x, weight, 3, 1) ** 2).sum()  # noqa: E731
    expected = [*_gradients(), np.array(mx.grad(loss)(X1))]
    forget()
    assert_right(in_threads(lambda i: [*_gradients(), np.array(mx.grad(loss)(X1))]), expected)


LONG, BACK = ints((1, 4000, 8), 5), ints((1, 8002, 8), 6)
WIDE = ints((8, 4, 8), 7)
SMALL = 300_000  # bytes: some tiles


def _tiled(**named):
    call = lambda x, w: polyconv.conv_transpose1d(x, w, 2, **named)  # noqa: E731
    _, grads = mx.vjp(call, [LONG, WIDE], [BACK])
    return [np.array(each) for each in (call(LONG, WIDE), *grads)]


def test_tiles_in_threads():
    expected = _tiled()
    forget()
    for stream in (None, mx.cpu):
        tiled = lambda i, s=stream: _tiled(max_workspace=SMALL, stream=s)  # noqa: E731
        assert_right(in_threads(tiled), expected)
    own = lambda i: _tiled(max_workspace=SMALL, stream=mx.new_stream(mx.cpu))  # noqa: E731
    assert_right(in_threads(own), expected)


def test_tiles_in_threads_that_trace():
    """While one differentiates, others compute the same, and evaluate."""
    plain = np.array(polyconv.conv_transpose1d(LONG, WIDE, 2))

    def loss(x):
        return (polyconv.conv_transpose1d(x, WIDE, 2, max_workspace=SMALL) * BACK).sum()

    expected = np.array(mx.grad(loss)(LONG))

    def work(i):
        if i % 2:
            return np.array(mx.grad(loss)(LONG))
        return np.array(polyconv.conv_transpose1d(LONG, WIDE, 2, max_workspace=SMALL))

    for i, found in enumerate(in_threads(work)):
        assert (found == (expected if i % 2 else plain)).all()


def test_what_is_asked_in_a_task_is_of_that_task():
    """Of threads `test_every_call_in_threads` shows it, `planned_for_a_mac`."""

    async def asked(device, met):
        with polyconv.planning_for(device):
            await met.wait()
            return device_for(None).name, (await asyncio.to_thread(device_for, None)).name

    async def all_of_them():
        met = asyncio.Event()
        tasks = [asyncio.create_task(asked(name, met)) for name in ("m4-max", "cuda", "cpu")]
        await asyncio.sleep(0)
        met.set()
        return await asyncio.gather(*tasks)

    assert [a for a, _ in asyncio.run(all_of_them())][1:] == ["cuda", "cpu"]
    assert all(a == b for a, b in asyncio.run(all_of_them()))
    assert len({a for a, _ in asyncio.run(all_of_them())}) == 3
