"""The page on tuned layers is what was measured, and its script runs."""

import importlib
import json
import runpy
from pathlib import Path

import pytest

import polyconv
from polyconv.planning.choose import plan

WHERE = Path(__file__).parents[2] / "docs" / "benchmarks"


@pytest.fixture
def page(monkeypatch):
    monkeypatch.syspath_prepend(str(WHERE))
    return importlib.import_module("tuned_page")


@pytest.fixture
def found():
    return json.loads((WHERE / "tuned.json").read_text())


def test_the_page_is_what_was_measured(page, found):
    assert (WHERE / "tuned.md").read_text() == page.page(found)


def test_rows_that_lose_stay_in(page, found):
    assert len(found["rows"]) == 60
    slower = page.ratios(found["rows"], "tuned", "least")
    assert len(page.misses(found["rows"])) == sum(ratio > 1.05 for ratio in slower)
    assert min(slower) == 1.0
    assert page.share(page.ratios(found["rows"], "untuned", "least"), 1.05) < page.share(
        slower, 1.05
    )


@pytest.mark.usefixtures("on_cpu")
def test_what_was_tuned_is_what_auto_takes(found):
    """The rows hold the labels that the times of the tuning say."""
    for row in found["rows"]:
        assert row["tuning"][row["tuned"]] == min(row["tuning"].values())


@pytest.mark.usefixtures("on_cpu")
def test_the_layers_are_those_of_the_seed(found):
    script = runpy.run_path(str(WHERE / "tuned.py"))
    drawn = json.loads(json.dumps(list(script["layers"](found["seed"], 60))))
    assert [{k: row[k] for k in call} for call, row in zip(drawn, found["rows"])] == drawn
    assert {len(call["input"]) - 2 for call in drawn} == {1, 2, 3}
    for call, row in zip(drawn, found["rows"]):
        assert plan(script["problem_of_call"](call)).label == row["untuned"]


@pytest.mark.usefixtures("on_cpu")
def test_the_script_runs(tmp_path):
    script = runpy.run_path(str(WHERE / "tuned.py"))
    script["again"].__globals__.update(LEAST_ROUNDS=6, MOST_ROUNDS=7)
    calls = [{"op": "conv_transpose1d", "input": (1, 8, 4), "weight": (2, 4, 4), "stride": 2}]
    try:
        (row,) = script["measured"](calls, tmp_path / "tuning.json", 1e-3)
    finally:
        polyconv.use_tuning(None)
    assert set(row["ms"]) == {*row["tuning"], "auto", "mx"}
