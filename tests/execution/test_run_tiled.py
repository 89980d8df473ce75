"""Calls in tiles: the same numbers, and no more memory than was allowed."""

import json
import os
import random
import subprocess
import sys
from contextlib import nullcontext
from itertools import pairwise
from math import prod
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

import polyconv
from polyconv.execution import device, memory, run_tiled
from polyconv.planning.devices import CPU
from polyconv.planning.plan import plan
from polyconv.planning.tiling import Room, Tiling, arranged, fits, tiled, whole, workspace
from polyconv.problem.arguments import NoRoomError
from tests.campaigns import peak, sweep
from tests.support.cases import draw_case, integers
from tests.support.problems import transposed

ROOT = Path(__file__).parents[2]
MANY = 2**60


def same(a: mx.array, b: mx.array) -> bool:
    return a.dtype == b.dtype and a.shape == b.shape and mx.array_equal(a, b).item()


@pytest.mark.parametrize("cases", [50, pytest.param(200, marks=pytest.mark.slow)])
@pytest.mark.parametrize("planned_for", [None, "m4-max", "cuda"])
def test_tiles_make_what_the_whole_makes(planned_for, cases):
    counts = sweep.sweep_tiled(cases, 0, planned_for)
    assert counts["agreed"] == cases
    assert counts["maps in tiles"] > cases / 2
    assert counts["tiles"] > 3 * counts["maps in tiles"]


# Measured: 0.83, 0.66 and 0.25 of the limit, in large calls 0.88, 0.84 and 0.72. What is counted is
# an upper bound, 1; but what MLX has freed by when differs, so each has a half more than measured.
@pytest.mark.usefixtures("on_cpu")  # what Metal allocates is bounded in tests/on_metal
@pytest.mark.parametrize(
    ("size", "bounds"),
    [
        (0.005, {"y": 1.25, "x": 1.0, "w": 0.38}),
        pytest.param(1, {"y": 1.32, "x": 1.26, "w": 1.1}, marks=pytest.mark.slow),
    ],
    ids=["small", "large"],
)
def test_what_a_call_allocates_is_near_what_is_counted(size, bounds):
    for kind, (found, words) in peak.measure(60, 3, size).items():
        assert 0.05 < found <= bounds[kind], f"{kind}: {words}"


# Frames read samples m - 1 and m (K4 s2 P1): by hand, outputs 2m - 1 and 2m for frame m.
def test_a_tile_by_hand():
    chosen = plan(transposed((1, 8, 3), (5, 4, 3), stride=2, padding=1), "per_phase")
    (along,) = chosen.axes
    assert (along.n_frames, along.axis.output_size) == (8, 16)
    x = np.zeros((1, 8, 3), np.float32)
    for start, stop in [(0, 3), (2, 5), (5, 8)]:
        first, behind = along.read_by(start, stop)
        assert (first, behind) == (max(0, start - 1), min(8, stop + 1))
        part = along.part((start, stop), (first, behind))
        assert part.axis.output_size == 2 * (stop - start)
        assert part.axis.size == x[:, first:behind].shape[1]
    assert along.outputs_of((2, 5)) == (4, 10)
    assert along.reading(4, 5) == (3, 6)


def test_the_batch_is_cut_first_and_then_the_longest_axis():
    chosen = plan(transposed((6, 5, 40, 3), (5, 4, 4, 3), (2, 2)), "per_phase")
    most = whole(chosen, "y")
    assert (most.axis, most.n_items, most.n_steps, most.n_tiles) == (1, 6, 41, 1)
    by_items = tiled(chosen, "y", most.bytes // 2)
    assert isinstance(by_items, Tiling)
    assert 1 < by_items.n_items < 6
    assert by_items.n_steps == 41
    by_frames = tiled(chosen, "y", most.bytes // 20)
    assert isinstance(by_frames, Tiling)
    assert by_frames.n_items == 1
    assert by_frames.n_steps < 41
    assert by_frames.bytes <= most.bytes // 20
    covered = sorted((t.items, t.outputs) for t in by_frames)
    for item in range(6):
        ends = [outputs for items, outputs in covered if items == (item, item + 1)]
        assert ends[0][0] == 0
        assert ends[-1][1] == 82
        assert all(a[1] == b[0] for a, b in pairwise(ends))


def test_tiles_hold_no_more_elements_than_int32_counts():
    huge = plan(transposed((1, 2**20, 4), (4096, 4, 4), stride=2, dtype="float16"))
    assert not fits(huge, "y", MANY)
    chosen, tiling = arranged("op", huge, "y", MANY)
    assert tiling is not None
    for tile in tiling:
        outputs = prod(tile.plan.problem.output_shape)
        assert outputs < 2**31
    assert chosen.problem.output_shape[1] * 4096 > 2**31


def test_a_limit_of_one_tile_is_told_and_is_enough():
    x, w = integers(2, 300, 4), integers(6, 4, 4, seed=1)
    with pytest.raises(NoRoomError, match=r"^\[conv_transpose1d\] max_workspace must be") as told:
        polyconv.conv_transpose1d(x, w, 2, max_workspace=1)
    least = int(str(told.value).split("at least ")[1].split(" bytes")[0])
    y = polyconv.conv_transpose1d(x, w, 2, max_workspace=least)
    assert same(y, polyconv.conv_transpose1d(x, w, 2))
    with pytest.raises(NoRoomError):
        polyconv.conv_transpose1d(x, w, 2, max_workspace=least - 1)


def drawn_limited(rng):
    """A function of a limit: a call, or the gradients of one, or one with one filter for all."""
    kind = rng.choice(("call", "call", "gradients", "packed", "one filter"))
    if kind == "one filter":
        channels = rng.randint(2, 9)
        x, h = integers(rng.randint(1, 3), rng.randint(20, 300), channels), integers(1, 12, 1)
        stride = rng.randint(1, 4)
        return lambda n: polyconv.conv_transpose1d(x, h, stride, groups=channels, max_workspace=n)
    case = draw_case(rng.choice)
    while not case.has_output:
        case = draw_case(rng.choice)
    x, w = (mx.array(a).astype(getattr(mx, case.dtype)) for a in case.data())
    method = rng.choice(("auto", "auto", "auto", "per_phase", "taps"))
    call = lambda x, w, n=None: case.call(x, w, method, max_workspace=n)  # noqa: E731
    if kind == "call":
        return lambda n: call(x, w, n)
    if kind == "packed":
        return lambda n: call(x, polyconv.pack(w), n)
    y = call(x, w)
    return lambda n: mx.vjp(lambda x, w: call(x, w, n), [x, w], [y])


@pytest.mark.parametrize("cases", [40, pytest.param(3000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("planned_for", [None, "m4-max"])
def test_the_limit_that_is_told_is_the_least_that_is_accepted(planned_for, cases, monkeypatch):
    """Accepted is what is planned: nothing is computed here."""

    def planned(tiling, *_):
        spec = tiling.plan.problem
        x = (spec.batch, *[axis.size for axis in spec.axes], spec.in_channels)
        kernel = [axis.kernel_size for axis in spec.axes]
        w = (spec.out_channels, *kernel, spec.in_channels // spec.groups)
        return mx.zeros({"x": x, "w": w, "y": spec.output_shape}[tiling.result])

    monkeypatch.setattr("polyconv.gradients.bilinear.assembled", planned)
    rng, told = random.Random(str(planned_for)), 0
    while told < cases:
        call = drawn_limited(rng)
        with polyconv.planning_for(planned_for) if planned_for else nullcontext():
            least, known = 1, []
            while least:  # that of a gradient is told once the call itself is accepted
                try:
                    call(least)
                    break
                except NoRoomError as error:
                    least = int(str(error).split("at least ")[1].split(" bytes")[0])
                    known.append(least)
            for each in known:
                with pytest.raises(NoRoomError, match=f"least {each} bytes here; got {each - 1}"):
                    call(each - 1)
            assert len(known) <= 2  # of the call, and of both gradients
            told += bool(known)


def test_the_memory_that_can_be_had_is_told_where_no_limit_would_do(monkeypatch):
    x, w = integers(2, 300, 4), integers(6, 4, 4, seed=1)
    result = 602 * 2 * 6 * 4
    monkeypatch.setattr("polyconv.ops.call.room_on", lambda _: Room(MANY, result + 400))
    for most in (None, 100, MANY):
        with pytest.raises(NoRoomError, match=r"^\[conv_transpose1d\] the memory that can be had"):
            polyconv.conv_transpose1d(x, w, 2, max_workspace=most)


@pytest.mark.parametrize("wrong", [0, -1, True, 1.5, "1"])
def test_what_is_no_limit_is_refused(wrong):
    x, w = integers(2, 30, 4), integers(6, 4, 4)
    calls = {
        "conv_transpose1d": lambda: polyconv.conv_transpose1d(x, w, max_workspace=wrong),
        "conv1d": lambda: polyconv.conv1d(x, w, max_workspace=wrong),
        "conv_general": lambda: polyconv.conv_general(x, w, max_workspace=wrong),
        "PolyConvTranspose1d": lambda: polyconv.PolyConvTranspose1d(4, 6, 4, max_workspace=wrong),
        "patch": lambda: polyconv.patch(max_workspace=wrong),
        "patched": lambda: polyconv.patched(max_workspace=wrong).__enter__(),
        "explain": lambda: polyconv.explain(
            "conv_transpose1d", (1, 9, 4), (6, 4, 4), max_workspace=wrong
        ),
    }
    for op, call in calls.items():
        with pytest.raises(ValueError, match=rf"^\[{op}\] max_workspace must be") as told:
            call()
        assert "\n" not in str(told.value)


def test_what_cannot_exist_is_refused_before_anything_is_allocated():
    x, w = mx.broadcast_to(mx.zeros(1), (1, 2**25, 2**10)), mx.zeros((2**15, 4, 2**10))
    before = counted()
    with pytest.raises(NoRoomError, match="largest buffer"):
        polyconv.conv_transpose1d(x, w, 2)  # 2^26 * 2^15 * 4 bytes
    assert mx.get_peak_memory() <= before + 2**20  # measured: not a byte


def counted():
    """Bytes that MLX holds, before its peak is counted anew."""
    mx.synchronize()  # or what was computed before may be freed later
    before = mx.get_active_memory()
    mx.reset_peak_memory()
    return before


def limited(**more):
    x, w = integers(3, 500, 4), integers(6, 5, 4, seed=1)
    return x, w, lambda x, w: polyconv.conv_transpose1d(x, w, 3, 2, **more)


LIMIT = 30_000


def test_tiles_under_compile_vmap_and_gradients_of_gradients():
    x, w, whole_call = limited()
    _, _, call = limited(max_workspace=LIMIT)
    y = whole_call(x, w)
    assert same(call(x, w), y)
    assert same(mx.compile(call)(x, w), y)
    many = mx.stack([x, x + 1])
    assert same(mx.vmap(call, (0, None))(many, w), mx.vmap(whole_call, (0, None))(many, w))
    for f, g in [(call, whole_call), (mx.compile(call), whole_call)]:
        loss = lambda x, w, f: (f(x, w) ** 2).sum()  # noqa: E731
        ours = mx.grad(loss, (0, 1))(x, w, f)
        for a, b in zip(ours, mx.grad(loss, (0, 1))(x, w, g), strict=True):
            assert same(a, b)
    second = lambda f: mx.grad(lambda x: mx.grad(lambda w: (f(x, w) ** 2).sum())(w).sum())(x)  # noqa: E731
    assert same(second(call), second(whole_call))
    step = mx.compile(lambda x, w: mx.grad(lambda w: (call(x, w) ** 2).sum())(w))
    assert same(step(x, w), mx.grad(lambda w: (whole_call(x, w) ** 2).sum())(w))


def test_tiles_leave_the_graph_before_them_to_mlx():
    """Evaluated where MLX does not trace, arrays forget what they were computed from."""
    x, w, _ = limited()
    a = mx.random.normal((4, 4), key=mx.random.key(0))

    def loss(a, w, **more):
        h = mx.tanh(x @ a)
        return (mx.tanh(polyconv.conv_transpose1d(h, w, 3, 2, **more)) ** 2).sum()

    whole_call = mx.grad(loss, (0, 1))(a, w)
    in_tiles = mx.grad(lambda a, w: loss(a, w, max_workspace=LIMIT), (0, 1))(a, w)
    for ours, expected in zip(in_tiles, whole_call, strict=True):
        assert mx.abs(expected).max() > 0.1
        # Sums over tiles are rounded in another order.
        assert mx.allclose(ours, expected, 1e-4, 1e-4 * mx.abs(expected).max().item())


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


def test_packed_weights_layers_and_patches_take_a_limit():
    x, w, whole_call = limited()
    y = whole_call(x, w)
    assert same(polyconv.conv_transpose1d(x, polyconv.pack(w), 3, 2, max_workspace=LIMIT), y)
    layer = polyconv.PolyConvTranspose1d(4, 6, 5, 3, 2, bias=False, max_workspace=LIMIT)
    layer.weight = w
    assert same(layer(x), y)
    assert same(layer.to_packed()(x), y)
    layer.max_workspace = 1
    for each in (layer, layer.to_packed()):
        with pytest.raises(NoRoomError):
            each(x)
    model = nn.ConvTranspose1d(4, 6, 5, 3, 2)
    polyconv.convert(model)
    model.max_workspace = 1
    with pytest.raises(NoRoomError):
        model(x)
    with polyconv.patched(max_workspace=LIMIT):
        assert same(mx.conv_transpose1d(x, w, 3, 2), y)
        with polyconv.patched(max_workspace=1), pytest.raises(NoRoomError):
            mx.conv_transpose1d(x, w, 3, 2)
        assert same(mx.conv_transpose1d(x, w, 3, 2), y)


@pytest.mark.usefixtures("on_cpu")  # as tiles are by what a CPU allocates
def test_a_packed_weight_in_tiles_has_the_gradient_of_the_input_alone(monkeypatch):
    x, w, call = limited(max_workspace=LIMIT)
    computed = []
    assembled = run_tiled.assembled
    noted = lambda tiling, *more: computed.append(tiling.result) or assembled(tiling, *more)  # noqa: E731
    monkeypatch.setattr("polyconv.gradients.bilinear.assembled", noted)
    mx.eval(mx.grad(lambda x: call(x, w).sum())(x))
    assert sorted(computed) == ["w", "x", "y"]  # though nobody asked for that of the weight
    computed.clear()
    packed = polyconv.pack(w)
    mx.eval(mx.grad(lambda x: call(x, packed).sum())(x))
    assert sorted(computed) == ["x", "y"]


@pytest.mark.usefixtures("on_cpu")  # what Metal allocates is bounded in tests/on_metal
def test_one_filter_for_all_channels_keeps_a_limit():
    x, h = integers(2, 4000, 8), integers(1, 12, 1, seed=1)
    call = lambda **more: polyconv.conv_transpose1d(x, h, 2, groups=8, **more)  # noqa: E731
    assert same(call(), call(max_workspace=200_000))
    mx.eval(x, h)
    cache = mx.set_cache_limit(0)
    before = counted()
    y = call(max_workspace=200_000)
    mx.eval(y)
    taken = mx.get_peak_memory() - before - y.nbytes
    mx.set_cache_limit(cache)
    assert taken <= 300_000  # measured: 155,000, and 1,100,000 without a limit


def test_explain_tells_of_tiles_and_of_what_cannot_be():
    given = ("conv_transpose2d", (1, 1000, 1000, 64), (64, 4, 4, 64))
    told = str(polyconv.explain(*given, stride=2, device="m4-max", max_workspace=20_000_000))
    assert "Computed in" in told
    assert "of 2002 outputs along axis 1" in told
    assert "Computed in" not in str(polyconv.explain(*given, stride=2, device="m4-max"))
    told = str(polyconv.explain(*given, stride=2, device="m4-max", max_workspace=1))
    assert "no room" in told
    large = ("conv_transpose1d", (1, 2**22, 4096), (4096, 4, 4096))
    assert "Computed in" in str(polyconv.explain(*large, stride=1, device="m4-max"))


def test_what_a_workspace_may_be():
    problem = transposed((1, 10, 4), (6, 4, 4), stride=2)
    result = 22 * 6 * 4
    assert workspace("op", problem, "y", Room(MANY, result + 400), None) == 300
    assert workspace("op", problem, "y", Room(MANY, result + 400), 20) == 20
    assert workspace("op", problem, "y", Room(result, MANY), None) == result
    with pytest.raises(NoRoomError, match=r"^\[op\] the result must fit into the largest buffer"):
        workspace("op", problem, "y", Room(result - 1, MANY), None)
    assert problem.dtype == "float32"
    assert plan(problem).device == CPU


@pytest.mark.skipif(sys.platform != "linux", reason="limits of the address space are Linux's")
def test_what_is_left_of_a_hard_limit_takes_few_values(monkeypatch):
    """Plans are kept by it."""
    most = 2**36
    monkeypatch.setattr(memory.resource, "getrlimit", lambda _: (most, most))
    page = memory.resource.getpagesize()
    found = set()
    for used in range(0, most, 2**25):
        statm = f"{used // page} 0 0 0 0 0 0"
        monkeypatch.setattr(memory.Path, "read_text", lambda _, text=statm: text)
        left = memory._left()
        assert max(0, (most - used) * 7 // 8 - 2**24) <= left <= most - used
        found.add(left)
    assert len(found) < 100


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


_CHILD = """
import json, resource, sys
import mlx.core as mx, polyconv
x, w = mx.ones((1, 20_000, 32)), mx.ones((32, 16, 32))
mx.eval(polyconv.conv_transpose1d(x[:, :9], w, 8))  # threads and buffers that come with the first
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + int(sys.argv[1]) * 2**20,) * 2)
told = []
for length in json.loads(sys.argv[2]):
    x = mx.ones((1, length, 32))
    try:
        y = polyconv.conv_transpose1d(x, w, 8)
        mx.eval(y)
        told.append([list(y.shape), y[0, 8:-8].min().item(), y[0, 8:-8].max().item()])
    except ValueError as error:
        told.append(str(error))
    x = y = None
    mx.clear_cache()
print(json.dumps(told))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits of the address space are Linux's")
def test_under_a_hard_memory_limit_a_call_succeeds_or_is_refused():
    """MLX ends the process where the CPU's memory cannot be had."""
    lengths = [20_000, 4_000_000, 100_000, 4_000_000, 200_000, 9]
    command = [sys.executable, "-c", _CHILD, "700", json.dumps(lengths)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    ran = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    assert ran.returncode == 0, (ran.returncode, ran.stderr[-500:])
    told = json.loads(ran.stdout)
    assert len(told) == len(lengths)
    for length, each in zip(lengths, told, strict=True):
        if length == 4_000_000:
            assert "must fit into the largest buffer" in each
        else:
            assert each == [[1, 8 * length + 8, 32], 64.0, 64.0]
