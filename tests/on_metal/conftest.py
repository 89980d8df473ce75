"""Tests for a real Mac: `make test-metal` runs them and prints a report to paste into an issue.

With POLYCONV_DRY_RUN=1, or as on an emulated Mac, they run on the CPU, to check the tests and not
Metal.
"""

from __future__ import annotations

import os
import platform

import mlx.core as mx
import pytest

import polyconv
from polyconv.execution import device
from polyconv.planning.devices import DEVICES, Metal
from tests.support import emulated_gpu

DRY = os.environ.get("POLYCONV_DRY_RUN") == "1" or emulated_gpu.is_mac()
_REPORT: list[str] = []


def pytest_collection_modifyitems(items):
    if not (DRY or mx.metal.is_available()):
        for item in items:
            if "on_metal" in item.path.parts:
                item.add_marker(pytest.mark.skip(reason="needs Metal"))


@pytest.fixture(autouse=True)
def _all_on_cpu(request):
    """What a test computes beside its own calls too, where the GPU is no Mac's."""
    if DRY and not emulated_gpu.is_mac():
        request.getfixturevalue("on_cpu")


@pytest.fixture
def gpu():
    """The GPU, and polyconv planning for it."""
    if not DRY:
        with mx.stream(mx.gpu):
            yield mx.gpu
    else:
        with polyconv.planning_for("m4-max"), mx.stream(mx.cpu):
            yield mx.cpu


@pytest.fixture
def metal(gpu):
    """What plans are made for."""
    return Metal("m4-max", DEVICES["m4-max"]) if DRY else device.present()


@pytest.fixture
def note():
    """Adds a line to the report."""
    return _REPORT.append


def peak_of(run):
    """Bytes that `run` allocates at most at a time, its result included; not what lives before."""
    mx.synchronize()
    mx.clear_cache()
    before = mx.get_active_memory()
    mx.reset_peak_memory()
    mx.eval(run())
    mx.synchronize()
    return mx.get_peak_memory() - before


def pytest_terminal_summary(terminalreporter):
    if not _REPORT:
        return
    terminalreporter.section("polyconv on Metal: paste from here")
    terminalreporter.line(polyconv.doctor())
    terminalreporter.line(f"{platform.platform()}, {platform.machine()}")
    if DRY:
        terminalreporter.line("DRY RUN ON THE CPU: says nothing about Metal")
    for line in _REPORT:
        terminalreporter.line(line)
    outcomes = {k: len(v) for k, v in terminalreporter.stats.items() if k in ("passed", "failed")}
    terminalreporter.line(f"outcomes: {outcomes}")
