"""The same bits again (docs/threads.md). That the same method is taken is in `test_choices.py`.

Data are normal random numbers, compared bit by bit, where a group of ways is to agree to the bit;
small integers, compared with `==`, where only values are.
"""

import json

import mlx.core as mx
import mlx.nn as nn
import pytest

import polyconv
from tests.support.bits import CASES, METHODS, bits, call_of, digest, normal
from tests.support.choices import all_choices
from tests.support.threading_tools import forget, in_threads, ints, run_script

# What docs/threads.md says of the same bits is of a CPU, as nothing was measured on a GPU.
pytestmark = pytest.mark.usefixtures("on_cpu")
cases = pytest.mark.parametrize("case", CASES.values(), ids=CASES)
dtypes = pytest.mark.parametrize("dtype", [mx.float32, mx.float16, mx.bfloat16], ids=str)


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
from tests.support.bits import digest, digest_of_bits
from tests.support.choices import all_choices
print(json.dumps([digest_of_bits(), digest(all_choices())]))
"""


def test_other_processes_find_the_same_bits_and_choices(tmp_path):
    told = [
        run_script(DIGEST, tmp_path, PYTHONHASHSEED=seed, OMP_NUM_THREADS=threads)
        for seed, threads in (("0", "1"), ("1", "1"), ("random", "2"), ("4", "2"))
    ]
    assert told[0] == told[1]  # with as many threads of the BLAS
    assert told[2] == told[3]
    choices = {json.loads(each)[1] for each in told}
    assert choices == {digest(all_choices())}
