"""Which tuning is used: of a file, of the environment, of this machine alone."""

import json
import threading
import warnings

import mlx.core as mx
import numpy as np
import pytest

import polyconv
from polyconv.execution import machine, measured
from polyconv.execution.device import device_for, this_mac
from polyconv.planning.candidates import candidates
from polyconv.planning.choose import plan
from polyconv.planning.tuning_file import Section, written
from tests.support.bits import bits, normal
from tests.support.cases import integers
from tests.support.problems import transposed
from tests.support.threading_tools import in_threads, run_script
from tests.support.tuned import entry, file_of

LAYER = transposed((2, 24, 8), (4, 6, 8), 3, 1)


@pytest.fixture
def path(tmp_path):
    yield tmp_path / "tuning.json"
    polyconv.use_tuning(None)


def other_label():
    """A plan that `auto` does not take here by itself."""
    here = device_for(None)
    mine = plan(LAYER, device=here).label
    return next(each.label for each in candidates(LAYER, here) if each.label != mine)


def test_a_file_is_used_and_forgotten(path):
    first, label = device_for(None), other_label()
    path.write_text(file_of([entry(LAYER, label)]))
    polyconv.use_tuning(path)
    here = device_for(None)
    assert here != first
    assert plan(LAYER, device=here).label == label
    assert device_for(None) is here  # so that what is kept for it is found
    x, w = integers(2, 24, 8), integers(4, 6, 8)
    tuned = np.array(polyconv.conv_transpose1d(x, w, 3, 1))
    polyconv.use_tuning(None)
    assert device_for(None) == first
    assert (np.array(polyconv.conv_transpose1d(x, w, 3, 1)) == tuned).all()


def test_the_plan_of_the_file_is_really_run(path):
    """Of floats the last bits tell plans apart."""
    x, w = normal((2, 24, 8)), normal((4, 6, 8))
    by = {
        name: bits(polyconv.conv_transpose1d(x, w, 3, 1, method=name))
        for name in ("per_phase", "stacked")
    }
    for name, found in by.items():
        for packed in (False, True):
            path.write_text(file_of([entry(LAYER, name, packed=packed)]))
            polyconv.use_tuning(path)
            weight = polyconv.pack(w) if packed else w
            assert bits(polyconv.conv_transpose1d(x, weight, 3, 1)) == found


def test_rates_and_tuning_do_not_undo_each_other(path, tmp_path):
    if this_mac() is not None:
        pytest.skip("rates that were measured are those of a CPU or of CUDA")
    path.write_text(file_of([entry(LAYER, "per_phase")]))
    rates = tmp_path / "rates.json"
    name = device_for(None).name
    told = {"per_mac": 1e-9, "per_conv": 0.0, "per_byte_moved": 0.0}
    rates.write_text(json.dumps({"rates": {name: told}}))
    try:
        polyconv.use_tuning(path)
        polyconv.use_rates(rates)
        here = device_for(None)
        assert (here.rates.per_mac, len(here.tuning.entries)) == (1e-9, 1)
        polyconv.use_tuning(None)
        assert (device_for(None).rates.per_mac, device_for(None).tuning) == (1e-9, None)
    finally:
        polyconv.use_rates(None)


@pytest.mark.parametrize("stale", ["device", "mlx", "nothing"])
def test_a_stale_file_is_told_once_and_not_used(stale, path):
    first = device_for(None)
    kind, mlx = first.backend.cost_model, mx.__version__
    layers = (entry(LAYER, "per_phase"),)
    name = machine.names()[kind]
    of = {"device": [("Another", mlx)], "mlx": [(name, "0.1.0")], "nothing": []}[stale]
    path.write_text(written([Section(*each, layers) for each in of]))
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        polyconv.use_tuning(path)
        assert device_for(None) == first
        polyconv.conv_transpose1d(mx.ones((1, 4, 1)), mx.ones((1, 2, 1)), 2)
    assert len(told) == 1
    text = str(told[0].message)
    assert "\n" not in text
    assert "is not used, as its times are of" in text
    assert str(path) in text
    assert all(each in text for each in (name, mlx))
    assert told[0].filename == __file__
    assert "is not used" in measured.tuning_told()
    assert "is not used" in polyconv.doctor()


def test_a_file_of_several_devices_is_used_where_one_is_this(path):
    here = device_for(None)
    name = machine.names()[here.backend.cost_model]
    sections = [
        Section("Another", mx.__version__, (entry(LAYER, "stacked"),)),
        Section(name, "0.1.0", (entry(LAYER, "stacked"),)),
        Section(name, mx.__version__, (entry(LAYER, "per_phase"),)),
    ]
    path.write_text(written(sections))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        polyconv.use_tuning(path)
    assert device_for(None).tuning.entries == sections[2].entries
    kind = here.backend.cost_model
    assert measured.tuning_told() == f"tuning: 1 layers of {kind} ({path})"


def test_doctor_says_that_there_is_none():
    assert "tuning: none" in polyconv.doctor()


def test_a_broken_file_changes_nothing(path):
    path.write_text(file_of([entry(LAYER, "per_phase")]))
    polyconv.use_tuning(path)
    here = device_for(None)
    path.write_text("nonsense")
    with pytest.raises(ValueError, match=r"^\[use_tuning\] the file must hold timings"):
        polyconv.use_tuning(path)
    with pytest.raises(ValueError, match=r"^\[use_tuning\] allow_unfold must be True or False"):
        polyconv.use_tuning(None, allow_unfold=1)
    with pytest.raises(FileNotFoundError):
        polyconv.use_tuning(path.with_name("none.json"))
    assert device_for(None) is here


def test_planning_for_another_device_is_not_tuned(path):
    """Its times were not measured there, as for rates."""
    path.write_text(file_of([entry(LAYER, "per_phase")]))
    polyconv.use_tuning(path)
    for name in ("cpu", "cuda", "m4-max"):
        with polyconv.planning_for(name):
            assert device_for(None).tuning is None


def test_the_environment_names_a_file(tmp_path):
    """In a process of its own. Of a file that is stale it is told once, and calls go on."""
    text = """
import json, warnings
import mlx.core as mx
mx.set_default_device(mx.cpu)
import polyconv
from polyconv.execution.device import device_for
with warnings.catch_warnings(record=True) as told:
    warnings.simplefilter("always")
    for _ in range(2):
        polyconv.conv_transpose1d(mx.ones((1, 4, 1)), mx.ones((1, 2, 1)), 2)
before = device_for(mx.cpu).tuning
polyconv.use_tuning(None)
print(json.dumps([len(told), before is not None, device_for(mx.cpu).tuning is None]))
"""
    path = tmp_path / "tuning.json"
    env = {"POLYCONV_TUNING": str(path), "OMP_NUM_THREADS": "2"}
    name = run_script(
        "from polyconv.execution.machine import names; print(names()['cpu'])", tmp_path, **env
    )
    for device, expected in ((name.strip(), [0, True, True]), ("Another", [1, False, True])):
        path.write_text(written([Section(device, mx.__version__, (entry(LAYER, "stacked"),))]))
        assert json.loads(run_script(text, tmp_path, **env)) == expected


def test_threads_take_old_plans_or_new_ones(path):
    """Files are exchanged while calls run; each call is right."""
    path.write_text(file_of([entry(LAYER, "per_phase")]))
    x, w = integers(2, 24, 8), integers(4, 6, 8)
    right = np.array(polyconv.conv_transpose1d(x, w, 3, 1))
    done = threading.Event()

    def exchange():
        while not done.is_set():
            polyconv.use_tuning(path)
            polyconv.use_tuning(None)

    def call(_):
        return all(
            (np.array(polyconv.conv_transpose1d(x + 0, w, 3, 1)) == right).all() for _ in range(60)
        )

    exchanging = threading.Thread(target=exchange)
    exchanging.start()
    try:
        assert in_threads(call) == [True] * 4
    finally:
        done.set()
        exchanging.join()


def test_a_name_tells_the_blas_its_threads_and_tf32(monkeypatch):
    """What makes times differ on one device."""
    monkeypatch.setattr(machine.platform, "system", lambda: "Linux")
    monkeypatch.delenv("OPENBLAS_NUM_THREADS", raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert ", 3 threads, " in machine._cpu()
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "5")
    assert ", 5 threads, " in machine._cpu()
    monkeypatch.delenv("MLX_ENABLE_TF32", raising=False)
    assert machine._tf32() == ", TF32"
    monkeypatch.setenv("MLX_ENABLE_TF32", "0")
    assert machine._tf32() == ""
