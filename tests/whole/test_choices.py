"""The same choice of a method again (docs/threads.md)."""

import contextlib
import json
import sys
from dataclasses import astuple

import mlx.core as mx
import pytest

import polyconv
from polyconv.execution.device import device_for
from polyconv.execution.memory import room_on
from polyconv.planning.devices import CPU
from polyconv.planning.request import KINDS, Request, Way
from tests.support.bits import bits, normal
from tests.support.choices import PROBLEMS, all_choices, choice
from tests.support.threading_tools import forget, in_threads, run_script

# What docs/threads.md says of the same bits is of a CPU, as nothing was measured on a GPU.
pytestmark = pytest.mark.usefixtures("on_cpu")


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
            Way("y", Request("op", p, "auto", asked)).arranged(room_on(asked))[0] for p in PROBLEMS
        ]
        changed = [plan.method != was[KINDS.index("y")][0] for plan, was in zip(plans, first)]
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
from polyconv.planning.request import Request, Way
from tests.support.threading_tools import ints

X, W = ints((1, 60000, 64)), ints((16, 16, 64), 1)
first = np.array(polyconv.conv_transpose1d(X, W, 8, 4))
mx.clear_cache()
problem = spec.transposed("op", X.shape, W.shape, ("float32",) * 2, (8,), (4,), (1,), (0,), 1)

def planned(most=None):
    return Way("y", Request("op", problem, "auto", CPU, most)).arranged(room_on(CPU))

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
@pytest.mark.usefixtures("needs_memory_of_the_cpu")
def test_under_a_limit_tiles_change_and_values_do_not(tmp_path):
    told = json.loads(run_script(LIMITED, tmp_path, OMP_NUM_THREADS="1"))
    assert len({method for method, _ in told}) == 1
    assert [n_tiles for _, n_tiles in told[:2]] == [1, 1]
    assert 1 < told[2][1] < told[3][1] - 1  # measured: 2 and 5
