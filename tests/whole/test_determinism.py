"""The same bits again, and the same choice of a method again (docs/threads.md).

Data are normal random numbers, compared bit by bit, where a group of ways is to agree to the bit;
small integers, compared with `==`, where only values are.
"""

import contextlib
import hashlib
import json
import sys
from dataclasses import astuple

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

import polyconv
from polyconv.execution.device import device_for
from polyconv.execution.memory import room_on
from polyconv.gradients.bilinear import Problem, _prepared
from polyconv.planning.devices import CPU
from polyconv.problem import spec
from tests.support.threading_tools import forget, in_threads, ints, run_script

# What docs/threads.md says of the same bits is of a CPU, as nothing was measured on a GPU.
pytestmark = pytest.mark.usefixtures("on_cpu")


def normal(shape, dtype=mx.float32, seed=0):
    a = mx.array(np.random.default_rng(seed).standard_normal(shape), dtype)
    mx.eval(a)
    return a


# op, shapes of input and weight, options.
CASES = {
    "1D": ("conv_transpose1d", (3, 64, 32), (16, 16, 32), {"stride": 8, "padding": 4}),
    "1D, K7 s3": ("conv_transpose1d", (3, 50, 24), (10, 7, 24), {"stride": 3}),
    "depthwise": ("conv_transpose1d", (3, 90, 24), (24, 12, 1), {"stride": 2, "groups": 24}),
    "one channel": ("conv_transpose1d", (3, 80, 1), (1, 200, 1), {"stride": 50}),
    "groups": ("conv_transpose1d", (3, 60, 16), (8, 5, 8), {"stride": 2, "groups": 2}),
    "2D": ("conv_transpose2d", (3, 12, 13, 16), (8, 4, 4, 16), {"stride": 2, "padding": 1}),
    "2D groups": ("conv_transpose2d", (3, 9, 9, 8), (8, 3, 3, 2), {"stride": 2, "groups": 4}),
    "3D": ("conv_transpose3d", (2, 5, 6, 5, 8), (4, 2, 2, 2, 8), {"stride": 2}),
    "dilated": ("conv1d", (3, 90, 16), (8, 5, 16), {"padding": 2, "dilation": 3}),
    "plain 2D": ("conv2d", (3, 14, 15, 8), (6, 3, 3, 8), {"padding": 1}),
    "resampling": ("conv_general", (3, 80, 8), (6, 9, 8), {"stride": 2, "input_dilation": 3}),
}
METHODS = ("auto", "per_phase", "stacked", "taps")
cases = pytest.mark.parametrize("case", CASES.values(), ids=CASES)
dtypes = pytest.mark.parametrize("dtype", [mx.float32, mx.float16, mx.bfloat16], ids=str)


def call_of(case, x=None, w=None, lib=polyconv, **named):
    op, _, _, options = case
    return getattr(lib, op)(x, w, **options, **named)


def bits(a):
    mx.eval(a)
    return a.shape, bytes(memoryview(mx.contiguous(a).view(mx.uint8)))


def turned(a):
    """Equal, but with its last axis outermost in memory."""
    return mx.contiguous(mx.moveaxis(a, -1, 0)).moveaxis(0, -1)


def strided(a):
    """Equal, but every second row of an array."""
    return mx.repeat(a, 2, 1)[:, ::2]


def in_another_thread(x, w, call):
    (found,) = in_threads(lambda i: bits(call(x, w)), 1)
    return found


@dtypes
@cases
def test_ways_that_agree_to_the_bit(case, dtype):
    _, x_shape, w_shape, _ = case
    x, w = normal(x_shape, dtype), normal(w_shape, dtype, 1)
    for method in METHODS:
        named = {"method": method}
        call = lambda x, w: call_of(case, x, w, **named)  # noqa: B023, E731
        try:
            first = bits(call(x, w))
        except ValueError:  # `stacked` cannot
            assert method == "stacked"
            continue
        packed = polyconv.pack(w)
        ways = {
            "again": bits(call(x, w)),
            "packed": bits(call(x, packed)),
            "packed, again": bits(call(x, packed)),
            "compiled": bits(mx.compile(call)(x, w)),
            "compiled with the weight": bits(mx.compile(lambda x: call(x, w))(x)),  # noqa: B023
            "turned input": bits(call(turned(x), w)),
            "strided input": bits(call(strided(x), w)),
            "turned weight": bits(call(x, turned(w))),
            "in another thread": in_another_thread(x, w, call),
            "on another stream": bits(call_of(case, x, w, stream=mx.new_stream(mx.cpu), **named)),
        }
        forget()
        ways["planned anew"] = bits(call(x, w))
        for n in range(1, 20):
            others = normal((1, n + 20, *x_shape[2:]), dtype)
            mx.eval(call(others, w), call(others, packed))
        ways["after other shapes"] = bits(call(x, w))
        ways["packed, after other shapes"] = bits(call(x, packed))
        assert [name for name, found in ways.items() if found != first] == []


@cases
def test_gradients_agree_to_the_bit(case):
    _, x_shape, w_shape, _ = case
    x, w = normal(x_shape), normal(w_shape, seed=1)
    for method in METHODS[:2]:
        loss = lambda x, w: (call_of(case, x, w, method=method) ** 2).sum()  # noqa: B023, E731
        grad = mx.grad(loss, (0, 1))
        first = [bits(each) for each in grad(x, w)]
        assert [bits(each) for each in grad(x, w)] == first
        assert [bits(each) for each in mx.compile(grad)(x, w)] == first
        assert [bits(each) for each in grad(turned(x), turned(w))] == first
        forget()
        assert [bits(each) for each in grad(x, w)] == first
        (found,) = in_threads(lambda i: [bits(each) for each in grad(x, w)], 1)  # noqa: B023
        assert found == first


def test_functions_layers_and_models_agree_to_the_bit():
    native = nn.ConvTranspose1d(32, 16, 16, 8, 4)
    native.weight, native.bias = normal((16, 16, 32)), normal((16,), seed=1)
    x = normal((3, 64, 32), seed=2)
    layer = polyconv.PolyConvTranspose1d(32, 16, 16, 8, 4)
    layer.update(native.parameters())
    streaming = polyconv.StreamingConvTranspose1d(32, 16, 16, 8, 4)
    streaming.update(native.parameters())
    first = bits(polyconv.conv_transpose1d(x, native.weight, 8, 4) + native.bias)
    assert bits(layer(x)) == first
    assert bits(streaming(x)) == first
    assert bits(layer.to_packed()(x)) == first
    assert bits(mx.compile(layer)(x)) == first
    with polyconv.patched():
        assert bits(native(x)) == first
    polyconv.convert(native)
    assert bits(native(x)) == first


def test_a_mapped_batch_is_the_batch_to_the_bit():
    x, w = normal((3, 64, 32)), normal((16, 16, 32), seed=1)
    whole = polyconv.conv_transpose1d(x, w, 8, 4)
    mapped = mx.vmap(lambda item: polyconv.conv_transpose1d(item[None], w, 8, 4)[0])(x)
    assert bits(mapped) == bits(whole)


@cases
def test_ways_that_agree_in_value(case):
    """To the bit only as far as the BLAS sums alike at other sizes: see docs/threads.md."""
    _, x_shape, w_shape, _ = case
    x, w = ints(x_shape), ints(w_shape, 1)
    real, weight = normal(x_shape), normal(w_shape, seed=1)
    whole, real_whole = call_of(case, x, w), call_of(case, real, weight)
    limit = 4 * whole.nbytes + 4 * w.nbytes + x.nbytes
    ways = {
        "items": lambda x, w: mx.concatenate(
            [call_of(case, x[i : i + 1], w) for i in range(len(x))]
        ),
        "tiled": lambda x, w: call_of(case, x, w, max_workspace=limit // 2),
        **{m: lambda x, w, m=m: call_of(case, x, w, method=m) for m in METHODS},
    }
    for name, way in ways.items():
        try:
            found = way(x, w)
        except ValueError:
            assert name == "stacked"
            continue
        assert (found == whole).all().item(), name
        assert mx.allclose(way(real, weight), real_whole, 1e-5, 1e-4).item(), name


DIGEST = """
import json, sys
import mlx.core as mx
from tests.whole.test_determinism import CASES, METHODS, all_choices, digest, digest_of_bits
print(json.dumps([digest_of_bits(), digest(all_choices())]))
"""


def digest(value):
    return hashlib.sha256(repr(value).encode()).hexdigest()


def digest_of_bits():
    found = []
    for case in CASES.values():
        x, w = normal(case[1]), normal(case[2], seed=1)
        grad = mx.grad(lambda x, w: (call_of(case, x, w) ** 2).sum(), (0, 1))  # noqa: B023
        found.append([bits(each) for each in (call_of(case, x, w), *grad(x, w))])
    return digest(found)


def test_other_processes_find_the_same_bits_and_choices(tmp_path):
    told = [
        run_script(DIGEST, tmp_path, PYTHONHASHSEED=seed, OMP_NUM_THREADS=threads)
        for seed, threads in (("0", "1"), ("1", "1"), ("random", "2"), ("4", "2"))
    ]
    assert told[0] == told[1]  # with as many threads of the BLAS
    assert told[2] == told[3]
    choices = {json.loads(each)[1] for each in told}
    assert choices == {digest(all_choices())}


# What `auto` takes.


def problems(n=300):
    """Random convolutions of all kinds."""
    rng = np.random.default_rng(7)
    while n:
        ndim = int(rng.integers(1, 4))
        groups = int(rng.choice([1, 1, 1, 2, 8]))
        c, o = groups * int(rng.choice([1, 4, 16])), groups * int(rng.choice([1, 3, 16]))
        size = tuple(int(s) for s in rng.integers(2, (0, 500, 20, 8)[ndim], ndim))
        kernel = tuple(int(k) for k in rng.integers(1, (0, 20, 5, 4)[ndim], ndim))
        stride, padding, dilation = (
            tuple(int(s) for s in rng.integers(a, b, ndim)) for a, b in ((1, 6), (0, 3), (1, 3))
        )
        dtypes = (str(rng.choice(["float32", "float16"])),) * 2
        shapes = (int(rng.integers(1, 5)), *size, c), (o, *kernel, c // groups)
        try:
            if rng.integers(2):
                found = spec.transposed(
                    "op", *shapes, dtypes, stride, padding, dilation, (0,) * ndim, groups
                )
            else:
                pads = (padding, padding)
                up = (1,) * ndim if rng.integers(2) else dilation
                found = spec.general(
                    "op", *shapes, dtypes, stride, pads, dilation, up, groups, False
                )
        except ValueError:  # the kernel does not fit
            continue
        n -= 1
        yield found


PROBLEMS = list(problems())


def choice(problem, max_workspace=None, results="yxw"):
    """Of all three maps."""
    asked = Problem("op", problem, "auto", CPU, None, room_on(CPU), max_workspace)
    plans = [_prepared(result, asked)[0] for result in results]
    return [
        (plan.method, plan.products, [axis.block_sizes for axis in plan.axes]) for plan in plans
    ]


def all_choices():
    return [choice(problem) for problem in PROBLEMS]


def test_auto_takes_the_same_again():
    first = all_choices()
    assert len({each[0][:2] for each in first}) >= 4  # or nothing could change
    assert all_choices() == first
    forget()
    assert [choice(problem) for problem in reversed(PROBLEMS)] == first[::-1]
    for _ in range(3):  # out of the caches, and in again
        assert [choice(PROBLEMS[i]) for i in (0, 299, 150)] == [first[i] for i in (0, 299, 150)]
    forget()
    assert in_threads(lambda i: all_choices()) == [first] * 4


def test_auto_takes_the_same_whatever_memory_is_left(monkeypatch):
    """Without a limit on the process it is not asked what is free."""
    first, room = all_choices(), room_on(CPU)
    ballast = mx.zeros((64 << 20,))
    mx.eval(ballast)
    limit = mx.set_cache_limit(0)
    try:
        forget()
        assert room_on(CPU) == room
        assert all_choices() == first
    finally:
        mx.set_cache_limit(limit)


def test_a_limit_to_a_call_is_none_to_the_next():
    """Where the smallest tile of a method needs more, another is taken, the same each time."""
    first = all_choices()
    bounded = [bounded_choice(problem) for problem in PROBLEMS]
    methods = [(a and a[0][0], b[0][0]) for a, b in zip(bounded, first)]
    assert any(a and a != b for a, b in methods)
    assert all_choices() == first
    forget()
    assert [bounded_choice(problem) for problem in reversed(PROBLEMS)] == bounded[::-1]


def bounded_choice(problem):
    """None where nothing fits."""
    with contextlib.suppress(ValueError):
        return choice(problem, 50_000, "y")


def test_auto_changes_when_it_is_calibrated_and_back(tmp_path):
    first = all_choices()
    rates = dict(zip(CPU.rates.__dataclass_fields__, astuple(CPU.rates)))
    rates |= {"per_product": 0.1, "per_conv": 0.0}
    path = tmp_path / "rates.json"
    path.write_text(json.dumps({"rates": {"cpu": rates}}))
    x, w = normal((1, 64, 32)), normal((16, 16, 32))
    before = bits(polyconv.conv_transpose1d(x, w, 8, 4))
    polyconv.use_rates(path)
    try:
        asked = device_for(mx.cpu)
        assert asked.rates.per_product == 0.1
        plans = [
            _prepared("y", Problem("op", p, "auto", asked, None, room_on(asked)))[0]
            for p in PROBLEMS
        ]
        changed = [plan.method != was[0][0] for plan, was in zip(plans, first)]
        assert any(changed)
    finally:
        polyconv.use_rates(None)
    assert device_for(mx.cpu) == CPU
    assert all_choices() == first
    assert bits(polyconv.conv_transpose1d(x, w, 8, 4)) == before


def test_no_rates_are_those_that_polyconv_brings(tmp_path):
    """Also where the environment names others."""
    rates = dict(zip(CPU.rates.__dataclass_fields__, astuple(CPU.rates))) | {"per_product": 0.1}
    path = tmp_path / "rates.json"
    path.write_text(json.dumps({"rates": {"cpu": rates}}))
    text = """
import mlx.core as mx, polyconv
from polyconv.execution.device import device_for
told = [device_for(mx.cpu).rates.per_product]
polyconv.use_rates(None)
told.append(device_for(mx.cpu).rates.per_product)
print(told)
"""
    told = run_script(text, tmp_path, POLYCONV_RATES=str(path))
    assert json.loads(told) == [0.1, CPU.rates.per_product]


LIMITED = """
import json, resource
import mlx.core as mx, numpy as np
import polyconv
from polyconv.problem import spec
from polyconv.planning.devices import CPU
from polyconv.planning.workspace import temporaries
from polyconv.execution.memory import room_on
from polyconv.gradients.bilinear import Problem, _prepared
from tests.support.threading_tools import ints

X, W = ints((1, 60000, 64)), ints((16, 16, 64), 1)
first = np.array(polyconv.conv_transpose1d(X, W, 8, 4))
mx.clear_cache()
problem = spec.transposed("op", X.shape, W.shape, ("float32",) * 2, (8,), (4,), (1,), (0,), 1)

def planned(most=None):
    return _prepared("y", Problem("op", problem, "auto", CPU, None, room_on(CPU), most))

plan, tiling = planned()
told = [(plan.method, 1 if tiling is None else tiling.n_tiles)]
needed = temporaries(plan)
bounded = planned(needed // 8)
assert bounded[1].n_tiles > 8
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + first.nbytes + 3 * needed,) * 2)
kept = []
for ballast in (0, int(1.6 * needed), int(0.9 * needed)):
    kept.append(np.empty(ballast, np.uint8))
    plan, tiling = planned()
    told.append((plan.method, 1 if tiling is None else tiling.n_tiles))
    y = polyconv.conv_transpose1d(X, W, 8, 4)
    assert (np.array(y) == first).all()
    del y
    mx.clear_cache()
    assert planned(needed // 8) == bounded
print(json.dumps(told))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="a process's size is read from /proc")
def test_under_a_limit_tiles_change_and_values_do_not(tmp_path):
    told = json.loads(run_script(LIMITED, tmp_path, OMP_NUM_THREADS="1"))
    assert len({method for method, _ in told}) == 1
    assert [n_tiles for _, n_tiles in told[:2]] == [1, 1]
    assert 1 < told[2][1] < told[3][1] - 1  # measured: 2 and 5
