"""Competitors compute what polyconv does, as far as they are installed."""

from types import SimpleNamespace

import mlx.core as mx
import pytest

from polyconv.bench import frameworks, timing
from tests.support.cases import NAMED


@pytest.mark.parametrize("rational", [False, True])
def test_upfirdn_computes_the_same(rational):
    pytest.importorskip("scipy")
    if rational:
        options = {"stride": 3, "input_dilation": 2, "padding": ((4,), (5,)), "flip": True}
        op = "conv_general"
    else:
        op, options = "conv_transpose1d", {"stride": 3, "padding": 2, "output_padding": 4}
    timings = timing.bench(op, (2, 9, 1), (1, 7, 1), rounds=1, rivals=["upfirdn"], **options)
    (error,) = [each.error for each in timings if each.name == "upfirdn"]
    assert error < 1e-6
    none = timing.bench("conv_transpose1d", (2, 9, 2), (1, 7, 2), rounds=1, rivals=["upfirdn"])
    assert "upfirdn" not in [each.name for each in none]


@pytest.mark.parametrize("name", ["hifigan", "depthwise", "2d mixed strides", "3d 4x4x4 s2 p1"])
def test_rivals_compute_the_same(name):
    """As far as they are installed."""
    case = NAMED[name]
    rivals = ("torch", "onnxruntime", "jax")
    timings = timing.bench(
        case.op, case.x_shape, case.w_shape, rounds=1, rivals=rivals, **case.kwargs
    )
    assert all(each.error is None or each.error < 1e-5 for each in timings), timings


def test_pytorch_is_waited_for_where_its_result_is(monkeypatch):
    torch = pytest.importorskip("torch")
    waited = []
    monkeypatch.setattr(torch.mps, "synchronize", lambda: waited.append("mps"))
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: waited.append("cuda"))
    for y in (SimpleNamespace(is_mps=True), SimpleNamespace(is_cuda=True), torch.ones(1), 3):
        frameworks.wait_for_gpu(y)
    assert waited == ["mps", "cuda"]


@pytest.mark.parametrize(("default", "metal", "has_mps", "where"), [
    (mx.gpu, True, True, "mps"),
    (mx.gpu, True, False, "cpu"),
    (mx.cpu, True, True, "cpu"),
    (mx.gpu, False, True, "cpu"),
])  # fmt: skip
def test_pytorch_runs_where_mlx_does_on_a_mac(default, metal, has_mps, where, monkeypatch):
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(mx.metal, "is_available", lambda: metal)
    monkeypatch.setattr(mx, "default_device", lambda: mx.Device(default, 0))
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: has_mps)
    assert frameworks._torch_device() == where
