"""A pytest plugin: MLX's default device is a GPU, while all runs on this CPU.

    POLYCONV_EMULATE=m2 python -m pytest -p tests.support.emulated_gpu
    POLYCONV_EMULATE=paravirtual python -m pytest -p tests.support.emulated_gpu
    POLYCONV_EMULATE=h200 python -m pytest -p tests.support.emulated_gpu

shows which tests and which paths of the code assume a CPU, or names that macOS does not have. It
shows nothing of a GPU's numbers, times and memory, which stay this CPU's; `sys.platform`, /proc and
`fork` stay this system's. ``m2`` is an M2 of 16 GB, ``paravirtual`` what hosted macOS runners have,
``h200`` a GPU of NVIDIA's.

Only the process that was given the plugin is emulated. What a test starts is not: a worker, a
script or a command computes there as on any machine without Metal, so a test may compare it with
this process in value but not in what it plans. A child that is pytest is emulated if it is given
the plugin too. The tests of `tests/on_metal` run dry, as Metal's memory is nothing that a CPU has.

`mx.stream` chooses a device for its own thread here, and MLX's for all threads until it is left.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from typing import Any

import pytest

_M2 = {
    "device_name": "Apple M2",
    "architecture": "applegpu_g14g",
    "max_buffer_length": 9_534_832_640,
    "max_recommended_working_set_size": 12_713_115_648,
    "memory_size": 17_179_869_184,
    "resource_limit": 499_000,
}
_PARAVIRTUAL = {
    **_M2,
    "device_name": "Apple Paravirtual device",
    "architecture": "air64_v27",
    "max_buffer_length": 3_758_096_384,
    "max_recommended_working_set_size": 5_010_795_178,
    "memory_size": 7_516_192_768,
}
_H200 = {"device_name": "NVIDIA H200", "total_memory": 150_109_880_320}
is_on = False  # in this process

MACS = {"m2": _M2, "paravirtual": _PARAVIRTUAL}
GPUS = {**MACS, "h200": _H200}


def _asked() -> str:
    return os.environ.get("POLYCONV_EMULATE", "m2")


@pytest.hookimpl(tryfirst=True)
def pytest_load_initial_conftests() -> None:
    """Before any conftest.py, which may ask."""
    global is_on
    is_on = True


def pytest_configure() -> None:
    """Behind conftest.py, which sets what MLX reads when it is imported."""
    if _asked() not in GPUS:
        raise SystemExit(f"POLYCONV_EMULATE must be one of {', '.join(GPUS)}; got {_asked()!r}")
    _Emulation(GPUS[_asked()], is_mac=_asked() in MACS).install()


def pytest_report_header() -> str:
    return f"emulated: {GPUS[_asked()]['device_name']}, computed on this CPU"


def is_mac() -> bool:
    """Whether this process is emulated as on a Mac."""
    return is_on and _asked() in MACS


class _Emulation:
    """MLX's functions about devices and streams, answered as where MLX has a GPU."""

    def __init__(self, info: dict[str, Any], is_mac: bool) -> None:
        import mlx.core as mx

        self.mx, self.info, self.is_mac = mx, info, is_mac
        self.gpu = mx.Device(mx.gpu, 0)
        self.own = mx.default_device, mx.set_default_device, mx.stream
        self.own_streams = mx.default_stream, mx.new_stream
        self.own_info: Any = getattr(mx, "device_info", None)
        self.own_sysconf, self.own_addmm = os.sysconf, mx.addmm
        self.chosen = mx.gpu
        self.local = threading.local()

    def install(self) -> None:
        mx = self.mx
        mx.metal.is_available = lambda: self.is_mac
        mx.default_device, mx.set_default_device = self.default_device, self.set_default_device
        mx.stream = self.stream
        mx.default_stream = lambda device: self.own_streams[0](self.computing(device))
        mx.new_stream = lambda device: self.own_streams[1](self.computing(device))
        mx.device_info = self.device_info
        if self.is_mac:
            mx.metal.device_info = self.device_info
            os.sysconf = self.sysconf
        else:
            mx.addmm = self.addmm

    def kind_of(self, where: Any) -> Any:
        where = getattr(where, "device", where)
        return getattr(where, "type", where)

    def computing(self, device: Any) -> Any:
        return self.mx.cpu if self.kind_of(device) == self.mx.gpu else device

    def entered(self) -> list[Any]:
        """The kinds of device of the blocks that this thread is in."""
        kinds: list[Any] = self.local.__dict__.setdefault("kinds", [])
        return kinds

    def default_device(self) -> Any:
        kind = (self.entered() or [self.chosen])[-1]
        return self.own[0]() if kind == self.mx.cpu else self.gpu

    def set_default_device(self, device: Any) -> None:
        self.chosen = self.kind_of(device)
        if self.chosen == self.mx.cpu:
            self.own[1](device)

    @contextlib.contextmanager
    def stream(self, where: Any) -> Iterator[None]:
        kind = self.kind_of(where)
        self.entered().append(kind)
        try:
            with self.own[2](where) if kind == self.mx.cpu else contextlib.nullcontext():
                yield
        finally:
            self.entered().pop()

    def device_info(self, where: Any = None) -> dict[str, Any]:
        if where is None:
            where = self.default_device()
        return dict(self.info) if self.kind_of(where) == self.mx.gpu else self.own_info(where)

    def addmm(self, c: Any, a: Any, b: Any, *args: Any, **named: Any) -> Any:
        """On CUDA it divides by the number of rows and columns, which ends the process."""
        if not (a.size and b.size):
            raise AssertionError(f"nothing empty may reach addmm; got {a.shape} and {b.shape}")
        return self.own_addmm(c, a, b, *args, **named)

    def sysconf(self, name: str | int) -> int:
        if name == "SC_AVPHYS_PAGES":  # Linux's
            raise ValueError("unrecognized configuration name")
        return self.own_sysconf(name)
