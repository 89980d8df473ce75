"""Does `auto` take what was fastest, by recorded times? Replays docs/benchmarks, times nothing."""

import dataclasses
import json
from pathlib import Path

import pytest

import polyconv
from polyconv.bench import calibration
from polyconv.execution import device
from polyconv.planning.choose import alternatives, ideal, plan
from polyconv.planning.devices import CPU, Host
from polyconv.planning.estimate import seconds_of
from polyconv.planning.methods import METHODS
from polyconv.planning.rates import CPU_RATES, Rates
from polyconv.problem.signatures import problem_of

RECORDED = Path(__file__).parents[2] / "docs" / "benchmarks"
# Rates that were measured are those of a CPU.
pytestmark = pytest.mark.usefixtures("on_cpu")

HIFIGAN = ("conv_transpose1d", (1, 128, 512), (256, 16, 512), "float32")
OPTIONS = {"stride": 8, "padding": 4}


def rows(name):
    return json.loads((RECORDED / f"{name}.json").read_text())["rows"]


@pytest.mark.parametrize("name", ["grid", "fresh"])
def test_auto_is_near_the_fastest_form_on_most_layers(name):
    """`fresh` was measured once the rates were fixed, on layers that nobody had seen."""
    slower = calibration.quality(rows(name), CPU)
    assert len(slower) >= 80
    assert sum(ratio <= 1.15 for ratio in slower) >= 0.9 * len(slower)


@pytest.mark.parametrize("name", ["grid", "fresh"])
def test_what_is_replayed_is_what_auto_takes(name):
    for row in rows(name):
        options = {k: v for k, v in row.items() if k not in ("op", "input", "weight", "ms")}
        problem = problem_of(row["op"], row["input"], row["weight"], "float32", options)
        fastest = min(map(seconds_of, alternatives(problem)))
        assert seconds_of(plan(problem)) == fastest


def test_a_wrong_rate_is_seen_in_the_replay():
    wrong = Host("cpu", dataclasses.replace(CPU_RATES, per_product=0.0, per_byte_moved=0.0))
    slower = calibration.quality(rows("grid"), wrong)
    assert sum(ratio <= 1.15 for ratio in slower) < 0.8 * len(slower)


def test_the_grids_are_those_of_their_seeds():
    for name, seed in (("grid", 0), ("fresh", 31)):
        calls = [{k: v for k, v in row.items() if k != "ms"} for row in rows(name)]
        drawn = list(calibration.layers(seed, len(calls)))
        assert json.loads(json.dumps(drawn)) == calls


def test_the_rates_are_those_of_the_grid():
    pytest.importorskip("scipy")
    fitted = calibration.fit(rows("grid"))
    for rate, used in zip(dataclasses.astuple(fitted), dataclasses.astuple(CPU_RATES)):
        assert rate == pytest.approx(used, rel=0.02)


@pytest.fixture
def rates_file(tmp_path):
    yield tmp_path / "rates.json"
    polyconv.use_rates(None)


def test_rates_of_a_file_are_used_and_forgotten(rates_file):
    free = {field.name: 0.0 for field in dataclasses.fields(CPU_RATES)}
    problem = problem_of(*HIFIGAN, OPTIONS)
    for name, best in (("per_conv", 1), ("per_mac", ideal(problem))):
        rates_file.write_text(json.dumps({"rates": {"cpu": {**free, name: 1e-3 / best}}}))
        polyconv.use_rates(rates_file)
        chosen = plan(problem, device=device.device_for(None)).cost
        assert (chosen.n_convs, chosen.macs)[name == "per_mac"] == best
    polyconv.use_rates(None)
    assert device.device_for(None) == CPU


@pytest.mark.parametrize(
    ("text", "must"),
    [
        ("nonsense", "the file must hold rates"),
        ("[]", "the file must hold rates"),
        ('{"rates": {"cpu": {"per_mac": 1}}}', "the file must hold rates"),
        ('{"rates": {"cpu": {"per_mac": -1, "per_conv": 0, "per_byte_moved": 0}}}', "0 or more"),
        ('{"rates": {"cpu": {"per_mac": "1", "per_conv": 0, "per_byte_moved": 0}}}', "0 or more"),
    ],
)
def test_files_that_hold_no_rates_are_refused(text, must, rates_file):
    rates_file.write_text(text)
    with pytest.raises(ValueError, match=must):
        polyconv.use_rates(rates_file)
    assert device.device_for(None) == CPU


def test_rates_of_zero_leave_a_choice():
    """As a calibration of few layers finds them where all forms took as long."""
    free = Host("cpu", Rates(*[0.0] * len(dataclasses.fields(Rates))))
    for each in alternatives(problem_of(*HIFIGAN, OPTIONS), free):
        assert seconds_of(each) == 0
    assert plan(problem_of(*HIFIGAN, OPTIONS), device=free).method in METHODS
