"""A calibration writes rates that are read."""

from itertools import accumulate, cycle
from types import SimpleNamespace

import pytest

import polyconv
from polyconv.__main__ import main
from polyconv.bench import calibration
from polyconv.execution import device
from polyconv.planning.choose import plan
from polyconv.planning.methods import METHODS
from polyconv.problem.signatures import problem_of

OPTIONS = {"stride": 8, "padding": 4}
HIFIGAN = ("conv_transpose1d", (1, 128, 512), (256, 16, 512), "float32", OPTIONS)


@pytest.fixture
def rates_file(tmp_path):
    yield tmp_path / "rates.json"
    polyconv.use_rates(None)


@pytest.mark.usefixtures("on_cpu")  # as rates that were measured are those of a CPU
def test_a_calibration_of_two_layers_writes_a_file_that_is_read(rates_file, capsys, monkeypatch):
    pytest.importorskip("scipy")
    readings = accumulate(cycle((1e-4, 3e-4, 2e-4)))  # what is fitted depends on no clock
    clock = SimpleNamespace(perf_counter=lambda: next(readings))
    monkeypatch.setattr(calibration, "time", clock)

    assert main(["bench", "--calibrate", str(rates_file), "--layers", "2", "--seed", "8"]) == 0
    assert "per_panel_mac" in capsys.readouterr().out
    polyconv.use_rates(rates_file)
    assert device.device_for(None).name == "cpu"
    assert plan(problem_of(*HIFIGAN), device=device.device_for(None)).method in METHODS


def test_rates_of_metal_are_refused_before_anything_is_measured(monkeypatch, tmp_path, capsys):
    measured = []
    monkeypatch.setattr(calibration, "sweep", lambda *given: measured.append(given))
    path = tmp_path / "rates.json"
    with polyconv.planning_for("m4-max"):
        assert main(["bench", "--calibrate", str(path), "--layers", "2"]) == 2
    assert "Metal's are assumed; got m4-max" in capsys.readouterr().err
    assert not measured
    assert not path.exists()
