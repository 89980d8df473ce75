"""What holds for every test: MLX multiplies float32 as float32, also on GPUs that could do less."""

import os

os.environ["MLX_ENABLE_TF32"] = "0"  # read when MLX is imported; its own tests do the same

import mlx.core as mx
import pytest


@pytest.fixture
def on_cpu():
    """MLX's default device is the CPU, in all threads: for what is about a CPU's plans or numbers.

    `@pytest.mark.usefixtures("on_cpu")` is the one way in which tests ask for it.
    """
    before = mx.default_device()
    mx.set_default_device(mx.cpu)
    yield
    mx.set_default_device(before)
