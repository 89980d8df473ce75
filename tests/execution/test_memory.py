"""What memory can be had; under a hard limit on the process a call is computed or refused."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from polyconv.execution import memory
from polyconv.planning.devices import CPU, CUDA, DEVICES, Metal
from polyconv.planning.tiling import Room

M2 = Metal("Apple M2", DEVICES["m2-16gb"])

ROOT = Path(__file__).parents[2]


@pytest.mark.skipif(sys.platform != "linux", reason="limits of the address space are Linux's")
def test_what_is_left_of_a_hard_limit_takes_few_values(monkeypatch):
    """Plans are kept by it."""
    most = 2**36
    monkeypatch.setattr(memory.resource, "getrlimit", lambda _: (most, most))
    page = memory.resource.getpagesize()
    found = set()
    for used in range(0, most, 2**25):
        statm = f"{used // page} 0 0 0 0 0 0"
        monkeypatch.setattr(memory, "_text_of", lambda _, text=statm: text)
        left = memory._left()
        assert max(0, (most - used) * 7 // 8 - 2**24) <= left <= most - used
        found.add(left)
    assert len(found) < 100


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
@pytest.mark.usefixtures("needs_memory_of_the_cpu")
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


def test_a_cpu_s_largest_array_on_a_mac_is_metal_s(monkeypatch):
    """MLX allocates for both by Metal."""
    monkeypatch.setattr(memory, "memory_here", lambda: 2**40)
    monkeypatch.setattr(memory, "present", lambda: M2)
    assert memory.room_on(CPU).largest == DEVICES["m2-16gb"].max_buffer_bytes
    monkeypatch.setattr(memory, "present", lambda: None)
    assert memory.room_on(CPU).largest > DEVICES["m2-16gb"].max_buffer_bytes


def test_what_fits_on_a_gpu_of_its_own_memory_never_asks(monkeypatch):
    """On a CPU what is free changes from call to call."""
    much = Room(2**30, 2**32)
    monkeypatch.setattr(memory, "memory_here", lambda: 2**36)
    for on_gpu, expected in ((None, False), (2**33, True), (2**31, False)):
        memory._room.cache_clear()
        monkeypatch.setattr(memory, "memory_of_gpu", lambda found=on_gpu: found)
        assert memory.never_asks(much, CUDA) == expected
        assert not memory.never_asks(much, CPU)
    memory._room.cache_clear()
