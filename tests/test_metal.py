"""On Metal: the same numbers, and no unfold buffer. Needs an Apple-silicon Mac."""

import mlx.core as mx
import numpy as np
import pytest
from cases import NAMED
from sweep import sweep

import polyconv

pytestmark = pytest.mark.skipif(not mx.metal.is_available(), reason="needs Metal")


@pytest.mark.parametrize("name", NAMED)
def test_named_cases_on_the_gpu(name):
    case = NAMED[name]
    with mx.stream(mx.gpu):
        assert np.array_equal(case.run("auto"), case.reference())


def test_a_share_of_the_sweep_on_the_gpu():
    with mx.stream(mx.gpu):
        agreed, _ = sweep(cases=300, seed=5)
    assert min(agreed.values()) >= 300


@pytest.mark.parametrize("dtype", [mx.float32, mx.float16, mx.bfloat16], ids=str)
def test_gpu_and_cpu_agree_on_a_vocoder_layer(dtype):
    x, w = mx.random.normal((1, 128, 512)), mx.random.normal((256, 16, 512)) / 32
    x, w = x.astype(dtype), w.astype(dtype)
    gpu, cpu = (polyconv.conv_transpose1d(x, w, 8, 4, stream=s) for s in (mx.gpu, mx.cpu))
    tolerance = {mx.float32: 1e-2, mx.float16: 2e-2, mx.bfloat16: 1e-1}[dtype]  # TF32 is allowed
    assert mx.allclose(gpu.astype(mx.float32), cpu.astype(mx.float32), atol=tolerance)


def test_the_repro_of_the_mlx_issue_stays_small():
    x, w = mx.random.normal((1, 5158, 1)), mx.random.normal((1, 4096, 1))
    mx.eval(x, w)
    mx.reset_peak_memory()
    mx.eval(polyconv.conv_transpose1d(x, w, stride=1024, stream=mx.gpu))
    assert mx.get_peak_memory() < 150e6
