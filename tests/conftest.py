"""What holds for every test: nothing is drawn, timed or named by chance.

MLX multiplies float32 as float32, also on GPUs that could do less.
"""

import os

os.environ["MLX_ENABLE_TF32"] = "0"  # read when MLX is imported; its own tests do the same

import random
import re
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import HealthCheck, settings

from tests.support import references
from tests.support.threading_tools import forget

if mx.cuda.is_available() or os.environ.get("POLYCONV_EMULATE") == "h200":
    references.install()

# The same examples in each run, however slow the machine is; `make fuzz` and `make sweep` look on.
settings.register_profile(
    "fixed", derandomize=True, deadline=None, database=None, suppress_health_check=[*HealthCheck]
)
settings.load_profile("fixed")


def seed_all():
    """Without a seed MLX takes the time for one."""
    random.seed(0)
    np.random.seed(0)
    mx.random.seed(0)


@pytest.fixture(autouse=True)
def _seeded():
    seed_all()


def free_memory():
    """Bytes that can be had now, of the machine and of the container."""
    try:
        told = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
        free = int(told["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError):  # macOS, which tells the whole alone
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    folder = Path("/sys/fs/cgroup")
    try:
        most, used = ((folder / f"memory.{name}").read_text() for name in ("max", "current"))
    except OSError:
        return free
    return min(free, int(most) - int(used)) if most.strip().isdigit() else free


@pytest.fixture
def needs_memory():
    """Skips a test that would fill more GiB than are free, as MLX would end the process."""

    def check(gib):
        free = free_memory() / 2**30
        if free < gib:
            pytest.skip(f"needs {gib} GiB of memory, of which {free:.1f} are free")

    return check


def pytest_collectstart(collector):
    """Before a module is imported, which may make layers."""
    if isinstance(collector, pytest.Module):
        seed_all()


def pytest_collection_modifyitems(items):
    """A name that holds an address is another in each process, which pytest-xdist refuses."""
    moving = [item.nodeid for item in items if re.search(r"\bat 0x[0-9a-f]+", item.nodeid)]
    if moving:
        raise pytest.UsageError(f"ids must not hold addresses; got {', '.join(moving[:5])}")


@pytest.fixture
def needs_memory_of_the_cpu():
    """Skips what is about the machine's memory where MLX allocates by CUDA, for the CPU too."""
    if mx.cuda.is_available():
        pytest.skip("MLX allocates by CUDA here, which reserves and rounds as no CPU does")


@pytest.fixture
def on_cpu():
    """MLX's default device is the CPU, in all threads: for what is about a CPU's plans or numbers.

    `@pytest.mark.usefixtures("on_cpu")` is the one way in which tests ask for it.
    """
    before = mx.default_device()
    mx.set_default_device(mx.cpu)
    yield
    mx.set_default_device(before)


@pytest.fixture
def worked_out_anew():
    """Nothing that was worked out for other calls is found again, nor for this test by others."""
    forget()
    yield
    forget()
