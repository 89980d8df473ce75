"""What holds for every test: nothing is drawn, timed or named by chance.

MLX multiplies float32 as float32, also on GPUs that could do less.
"""

import os

os.environ["MLX_ENABLE_TF32"] = "0"  # read when MLX is imported; its own tests do the same

import random
import re

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import HealthCheck, settings

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


def pytest_collectstart(collector):
    """Before a module is imported, which may make layers."""
    if isinstance(collector, pytest.Module):
        seed_all()


def pytest_collection_modifyitems(items):
    """A name that holds an address is another in each process, which pytest-xdist refuses."""
    moving = [item.nodeid for item in items if re.search(r"\bat 0x[0-9a-f]+", item.nodeid)]
    if moving:
        raise pytest.UsageError(f"ids must not hold addresses; got {', '.join(moving[:5])}")
