"""On the GPU: the numbers of the reference."""

import mlx.core as mx
import numpy as np
import pytest

import polyconv
from polyconv.planning.methods import METHODS
from tests.campaigns.sweep import sweep
from tests.support.cases import NAMED, integers
from tests.support.forms import CASES

OURS = ("auto", *[method for method in METHODS if method != "native"])


@pytest.mark.parametrize("method", OURS)
@pytest.mark.parametrize("name", NAMED)
def test_named_cases(name, method, gpu):
    if name.startswith("dilated, co") and method == "stacked":
        pytest.skip("stacked cannot")
    case = NAMED[name]
    assert np.array_equal(case.run(method), case.reference())


@pytest.mark.parametrize("name", CASES)
def test_each_form(name, gpu):
    case, method, _ = CASES[name]
    assert np.array_equal(case.run(method), case.reference())


@pytest.mark.parametrize("name", [*NAMED, *CASES])
def test_gradients_are_those_of_the_cpu(name, gpu):
    case = NAMED[name] if name in NAMED else CASES[name][0]
    x, w = (mx.array(a) for a in case.data())
    cotangent = integers(*case.reference().shape, seed=3)
    _, ours = mx.vjp(lambda x, w: case.call(x, w, "auto"), [x, w], [cotangent])
    with mx.stream(mx.cpu):
        _, expected = mx.vjp(lambda x, w: case.call(x, w, "per_phase"), [x, w], [cotangent])
    for a, b in zip(ours, expected, strict=True):
        assert mx.array_equal(a, b)


def test_a_share_of_the_sweep(gpu, note):
    agreed, _ = sweep(cases=400, seed=5, methods=OURS)
    assert min(agreed.values()) >= 400
    note(f"generated cases equal to the float64 reference: {dict(agreed)}")


@pytest.mark.parametrize("dtype", [mx.float32, mx.float16, mx.bfloat16], ids=str)
def test_gpu_and_cpu_agree_on_a_vocoder_layer(dtype, gpu, note):
    x, w = mx.random.normal((1, 128, 512)), mx.random.normal((256, 16, 512)) / 32
    x, w = x.astype(dtype), w.astype(dtype)
    there, here = (polyconv.conv_transpose1d(x, w, 8, 4, stream=s) for s in (gpu, mx.cpu))
    apart = mx.abs(there.astype(mx.float32) - here.astype(mx.float32)).max().item()
    note(f"HiFi-GAN layer in {dtype}: GPU and CPU differ by {apart:.1e}")
    tolerance = {mx.float32: 1e-2, mx.float16: 2e-2, mx.bfloat16: 1e-1}[dtype]  # TF32 is allowed
    assert apart < tolerance
