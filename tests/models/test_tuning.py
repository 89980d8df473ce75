"""`tune`: what a model calls is timed, written and taken. The stopwatch is one of the test."""

import json

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

import polyconv
from polyconv.__main__ import main
from polyconv.bench import timing, tuning
from polyconv.execution.device import device_for
from polyconv.inspection.explanation import explain_problem
from polyconv.models.tuning import tune
from polyconv.planning.candidates import candidates
from polyconv.planning.choose import plan
from polyconv.planning.devices import DEVICES, Metal
from polyconv.planning.tuning_file import read_tuning
from tests.support.cases import integers
from tests.support.problems import transposed
from tests.support.refusals import file_is_refused, refused
from tests.support.tuned import entry, with_tuning

CALL = {"op": "conv_transpose1d", "input": (2, 24, 8), "weight": (4, 6, 8), "stride": 3}
LAYER = transposed((2, 24, 8), (4, 6, 8), 3)


@pytest.fixture
def path(tmp_path):
    yield tmp_path / "tuning.json"
    polyconv.use_tuning(None)


@pytest.fixture
def watches(monkeypatch):
    """Seconds by label, 1 ms where nothing is said. Each plan is run once all the same."""
    seconds, labels, ran = {}, {}, []
    prepared = tuning.prepared

    def labelled(each, x, w, packed):
        run = prepared(each, x, w, packed)
        labels[run] = each.label
        return run

    def timed(run, calls=1):
        y = run()
        mx.eval(y)
        ran.append((labels[run], calls))
        return y, seconds.get(labels[run], 1e-3), 0

    monkeypatch.setattr(tuning, "prepared", labelled)
    monkeypatch.setattr(timing, "timed", timed)
    return seconds, ran


class Model(nn.Module):
    """Two transposed layers, of which one is called twice, and a plain one."""

    def __init__(self):
        super().__init__()
        self.up = nn.ConvTranspose1d(8, 4, 6, 3)
        self.ours = polyconv.PolyConvTranspose1d(4, 4, 4, 2)

    def __call__(self, x):
        y = self.up(x) + self.up(2 * x)
        return polyconv.conv1d(self.ours(y), mx.ones((1, 3, 4)))


def test_a_model_is_run_and_its_distinct_convolutions_are_timed(watches, path):
    seconds, _ = watches
    seconds["per_phase"] = 5e-4
    model = Model()
    tuned = tune(model, (2, 24, 8), path=path)
    told = [(each.where, each.op, each.n_calls) for each in tuned.layers]
    assert told == [
        ("up", "conv_transpose1d", 2),
        ("ours", "conv_transpose1d", 1),
        ("model", "conv1d", 1),
    ]
    assert [each.entry.labels[0] for each in tuned.layers] == ["per_phase"] * 3
    where = device_for(None)
    for each in tuned.layers:
        expected = {e.label for e in candidates(each.entry.problem, where)}
        assert set(each.entry.ms) == expected
    lines = str(tuned).splitlines()
    assert lines[1].split()[:3] == ["up", "conv_transpose1d", "2"]
    assert "per_phase" in lines[1]
    assert "0.5 ms" in lines[1]
    (section,) = read_tuning("op", path.read_text())
    assert section.entries == tuple(each.entry for each in tuned.layers)
    before = np.array(model(integers(2, 24, 8)))
    polyconv.use_tuning(path)
    for each in tuned.layers:
        assert plan(each.entry.problem, device=device_for(None)).label == "per_phase"
    assert np.allclose(np.array(model(integers(2, 24, 8))), before, atol=1e-4)


def test_each_plan_in_turn_is_written_taken_and_exact(watches, path):
    seconds, _ = watches
    x, w = integers(2, 24, 8), integers(4, 6, 8)
    right = np.array(polyconv.conv_transpose1d(x, w, 3, method="per_phase"))
    for each in candidates(LAYER, device_for(None)):
        seconds.clear()
        seconds[each.label] = 1e-4
        path.unlink(missing_ok=True)
        (layer,) = tune([CALL], path=path).layers
        assert layer.entry.labels[0] == each.label
        polyconv.use_tuning(path)
        assert plan(LAYER, device=device_for(None)).label == each.label
        assert (np.array(polyconv.conv_transpose1d(x, w, 3)) == right).all()


def test_packed_weights_are_tuned_as_they_are(watches, path):
    seconds, _ = watches
    seconds["stacked"] = 1e-4
    layer = polyconv.PolyConvTranspose1d(8, 4, 6, 3).to_packed()
    (found,) = tune(layer, (2, 24, 8), path=path).layers
    assert found.entry.packed
    seconds.clear()
    seconds["per_phase"] = 1e-4
    (plain,) = tune([CALL], path=path).layers
    assert not plain.entry.packed
    polyconv.use_tuning(path)
    where = device_for(None)
    assert len(where.tuning.entries) == 2
    assert plan(LAYER, device=where, packed=True).label == "stacked"
    assert plan(LAYER, device=where).label == "per_phase"
    x, w = integers(2, 24, 8), integers(4, 6, 8)
    same = [polyconv.conv_transpose1d(x, each, 3) for each in (w, polyconv.pack(w))]
    assert mx.array_equal(*same)


def test_a_packed_call_may_be_given(watches):
    (found,) = tune([{**CALL, "packed": True}]).layers
    assert found.entry.packed


def test_what_is_slow_is_left_out_of_later_rounds(watches):
    seconds, ran = watches
    seconds.update({"per_phase": 1e-2, "stacked": 1.2e-3})
    tune([CALL], rounds=20, seconds=1e9)
    counts = {label: sum(name == label for name, _ in ran) for label in ("per_phase", "stacked")}
    assert counts["per_phase"] > 2 * 5
    assert counts["stacked"] - counts["per_phase"] == 2 * 15  # each once untimed


@pytest.mark.parametrize(("repeats_after", "expected"), [(0, 1), (6, 7)])
def test_times_that_do_not_repeat_are_taken_again(repeats_after, expected, watches, monkeypatch):
    """Until the least of each plan was seen three times."""
    calls = []

    def run_rounds(left, n, seconds):
        calls.append(n)
        for each in left:
            faster = 2.0 ** -len(calls)  # than all before
            times = [faster * (2 - i / n) for i in range(n)]
            each.times += times if len(calls) <= repeats_after else [faster] * n

    monkeypatch.setattr(timing, "run_rounds", run_rounds)
    tune([CALL], rounds=5, seconds=1e9)
    assert len(calls) == expected


def test_what_a_file_holds_already_is_kept(watches, path):
    other = {**CALL, "stride": 2}
    tune([CALL], path=path)
    tune([other], path=path)
    text = json.loads(path.read_text())
    text["tuned"][0]["device"] = "Another"
    path.write_text(json.dumps(text))
    tune([CALL], path=path)
    sections = read_tuning("op", path.read_text())
    assert [len(each.entries) for each in sections] == [2, 1]
    assert sections[0].device == "Another"


def test_a_file_that_holds_something_else_is_refused_before_anything_is_timed(watches, path):
    _, ran = watches
    path.write_text("{}")
    assert "the file must hold timings" in refused(tune, [CALL], path=path)
    with pytest.raises(FileNotFoundError):
        tune([CALL], path=path.with_name("no") / "folder.json")
    assert path.read_text() == "{}"
    assert not ran


@pytest.mark.parametrize(
    ("given", "more", "reason"),
    [
        (3, {}, "model_or_calls must be callable"),
        ("conv1d", {}, "model_or_calls must be callable"),
        ([3], {}, "model_or_calls must be callable"),
        ([{"op": "conv1d"}], {}, "model_or_calls must be callable"),
        ([{**CALL, "op": "conv"}], {}, "op must be one of"),
        ([{**CALL, "packed": 1}], {}, "packed must be True or False"),
        ([{**CALL, "dtype": "int32"}], {}, "dtype must be one of"),
        ([CALL], {"dtype": "float64"}, "dtype must be one of"),
        ([CALL], {"rounds": 0}, "rounds must be at least 1"),
        ([CALL], {"rounds": True}, "rounds must be an int"),
        ([CALL], {"seconds": 0}, "seconds must be above 0"),
        ([CALL], {"seconds": "1"}, "seconds must be a real number"),
        ([CALL], {"allow_unfold": 1}, "allow_unfold must be True or False"),
        ([CALL], {"path": 3.5}, "path must be a str or a path"),
        ([CALL], {"progress": mx.zeros((2,))}, "progress must be True or False"),
        (mx.array(3), {}, "model_or_calls must be callable"),
    ],
)
def test_arguments_are_refused_in_one_sentence(given, more, reason, watches):
    assert reason in refused(tune, given, **more)
    assert not watches[1]


def test_inputs_belong_to_a_model(watches):
    assert "inputs must be those of a model" in refused(tune, [CALL], (1, 2, 3))


def test_it_is_refused_where_another_device_is_planned_for(watches):
    with polyconv.planning_for("m4-max"):
        assert "outside of planning_for" in refused(tune, [CALL])


def test_nothing_to_tune_is_told(watches):
    assert str(tune(lambda x: x, (2, 3))).startswith("no convolution was called")


def test_the_random_state_of_a_program_stays(watches):
    mx.random.seed(5)
    expected = mx.random.normal((3,))
    mx.random.seed(5)
    tune([CALL])
    assert mx.array_equal(mx.random.normal((3,)), expected)


def test_the_command_line_tunes_a_call_a_model_and_cases(watches, path, capsys, monkeypatch):
    monkeypatch.setattr("polyconv.inspection.blas.is_slow", lambda: False)
    out = ["--out", str(path)]
    shapes = ["--input", "2,24,8", "--weight", "4,6,8", "--stride", "3"]
    assert main(["tune", "conv_transpose1d", *shapes, "--packed", *out]) == 0
    told = capsys.readouterr()
    assert "packed" in told.out
    assert f"POLYCONV_TUNING={path}" in told.out
    assert told.err == ""  # no bar where it is no terminal
    monkeypatch.setitem(globals(), "made", Model)
    model = ["--model", f"{__name__}:made", "--input", "2,24,8"]
    assert main(["tune", *model, *out]) == 0
    cases = path.with_name("layers.csv")
    cases.write_text(
        "model,dims,N,S,C,O,K,stride,padding,output_padding,dilation,groups\n"
        "a,1,1,20,8,4,4,2,1,0,1,1\n"
    )
    assert main(["tune", "--cases", str(cases), *out]) == 0
    (section,) = read_tuning("op", path.read_text())
    assert len(section.entries) == 5
    polyconv.use_tuning(path)
    capsys.readouterr()
    assert main(["doctor"]) == 0
    assert f"tuning: 5 layers of {device_for(None).backend.cost_model}" in capsys.readouterr().out


def test_the_command_line_refuses_a_broken_file(watches, path, capsys):
    path.write_text("nonsense")
    words = ["tune", "conv_transpose1d", "--input", "2,24,8", "--weight", "4,6,8"]
    program = lambda: main([*words, "--out", str(path)])  # noqa: E731
    code = program()
    told = capsys.readouterr()
    assert (code, told.out) == (2, "")
    assert len(told.err.splitlines()) == 1
    assert "the file must hold timings" in told.err
    missing = path.with_name("none") / "tuning.json"
    program = lambda: main([*words, "--out", str(missing)])  # noqa: E731
    file_is_refused(program, missing, "No such file", capsys)


def test_the_command_line_tells_what_a_model_raised(watches, path, capsys, monkeypatch):
    def failing():
        def model(x):
            raise RuntimeError("out of order")

        return model

    monkeypatch.setitem(globals(), "made", failing)
    words = ["tune", "--model", f"{__name__}:made", "--input", "1,2,3", "--out", str(path)]
    assert main(words) == 2
    assert "must run with what is given; got RuntimeError: out of order" in capsys.readouterr().err
    assert not path.exists()


def test_an_explanation_says_that_a_choice_is_tuned():
    metal = Metal("m4-max", DEVICES["m4-max"])
    untuned = plan(LAYER, device=metal).label
    label = next(e.label for e in candidates(LAYER, metal) if e.label not in (untuned, "native"))
    tuned = with_tuning(metal, entry(LAYER, label, untuned))
    told = explain_problem(LAYER, "call", "op", tuned)
    assert told.chosen == label.split()[0]
    assert f"{label}: tuned: 1 ms against 2 ms of {untuned}." in str(told)
    assert "not taken: tuned: 2 ms against 1 ms" in str(told)
    assert "tuned" not in str(explain_problem(LAYER, "call", "op", metal))


def test_a_bar_is_shown_where_it_is_a_terminal(watches, monkeypatch, capsys):
    import sys

    from polyconv.bench import progress

    monkeypatch.setattr(progress.sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setitem(sys.modules, "rich.console", None)
    tune([CALL])
    told = capsys.readouterr()
    assert "tuning 1 of 1" in told.err
    tune([CALL], progress=False)
    assert capsys.readouterr().err == ""
