"""Which device is planned for."""

import mlx.core as mx

from polyconv.inspection import explain


def test_the_mac_that_runs_is_asked_about_its_gpu(monkeypatch):
    """Whatever the default device is; without Metal nobody is asked."""
    asked = []
    info = {
        "max_buffer_length": 1000,
        "max_recommended_working_set_size": 2000,
        "architecture": "applegpu_g16s",
        "device_name": "Apple M9",
    }
    monkeypatch.setattr(mx.metal, "is_available", lambda: True)
    monkeypatch.setattr(mx, "device_info", lambda where: asked.append(where) or info)
    explain.device.present.cache_clear()
    try:
        metal = explain.device.present()
    finally:
        explain.device.present.cache_clear()
    assert asked == [mx.gpu]
    assert (metal.name, metal.limits.max_buffer_bytes, metal.limits.architecture) == (
        "Apple M9",
        1000,
        "s",
    )
    explain.device.present.cache_clear()
