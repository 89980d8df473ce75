"""What docs/benchmarks/call.py has written by hand are the ops of the plans, and it runs."""

import importlib
import json
import runpy
from pathlib import Path

import mlx.core as mx
import pytest

import polyconv
from tests.support.trace import issued

SCRIPT = Path(__file__).parents[2] / "docs" / "benchmarks" / "call.py"


@pytest.mark.usefixtures("on_cpu")
@pytest.mark.parametrize("device", ["cpu", "m4-max", "cuda"])
def test_by_hand_are_the_very_ops_of_a_packed_call(device):
    call = runpy.run_path(str(SCRIPT))
    with polyconv.planning_for(device):
        calls = call["calls_of"](device)
        for rank in ("1D", "chunk", "2D"):
            ours, by_hand = calls[f"packed {rank}"], calls[f"by hand {rank}"]
            found = [each.name for each in issued(lambda ours=ours: ours(), opened=True)]
            # All of a constant array is one that MLX makes where it multiplies by it.
            left_out = ("Broadcast", "Full")
            told = [name for name in found if name not in left_out]
            hand = [each.name for each in issued(lambda hand=by_hand: hand())]
            assert told == [name for name in hand if name not in left_out], rank
            assert mx.array_equal(ours(), by_hand())


@pytest.mark.usefixtures("on_cpu")
def test_it_times_and_tells_ratios():
    call = runpy.run_path(str(SCRIPT))
    with polyconv.planning_for("cpu"):
        least = call["microseconds"](call["calls_of"]("cpu"), rounds=1, repeats=2)
    assert min(least.values()) > 0
    assert set(call["ratios"](least)) >= {
        name for name in call["LIMITS"] if "1D" in name or "2D" in name
    }
    assert call["of_new_lengths"](5) > 0


def test_the_page_is_what_was_measured(monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    call_page = importlib.import_module("call_page")
    where = SCRIPT.parent
    found = {
        device: json.loads((where / f"call-{device}.json").read_text())
        for device in call_page.DEVICES
    }
    assert [each["device"] for each in found.values()] == [*found]
    limits = runpy.run_path(str(SCRIPT))["LIMITS"]
    assert (where / "call.md").read_text() == call_page.page(found, limits)
    assert {*limits} <= {*found["cpu"]["found"]}
    for device, each in found.items():
        for name, most in limits.items():
            line = call_page._line(name, found, "found", limits)
            column = line.split(" | ")[2 + call_page.DEVICES.index(device)]
            assert ("missed" in column) == (each["found"][name] > most), (name, device)
