"""What a plan knows of a device, and how one is added."""

import pickle
from dataclasses import fields, replace

import pytest

from polyconv.planning import devices
from polyconv.planning.choose import plan
from polyconv.planning.devices import BACKENDS, CPU, CUDA, DEVICES, Backend, Host, Metal
from polyconv.planning.plan import COST_MODELS
from polyconv.planning.rates import CPU_RATES
from polyconv.planning.tuned import Tuning
from tests.support.choices import PROBLEMS

METAL = Metal("m4-max", DEVICES["m4-max"])


def test_a_new_device_needs_one_row_and_one_object(monkeypatch):
    """Here one that is a CPU by another name, and so is planned for as a CPU."""
    monkeypatch.setitem(BACKENDS, "other", BACKENDS["cpu"])
    monkeypatch.setitem(devices.HOSTS, "other", Host("other", CPU_RATES))
    other = devices.any_device("op", "other")
    for problem in PROBLEMS[:40]:
        assert replace(plan(problem, device=other), device=CPU) == plan(problem)


@pytest.mark.parametrize("field", [f.name for f in fields(Backend) if f.name != "cost_model"])
def test_each_field_tells_two_devices_apart(field):
    assert {getattr(backend, field) for backend in BACKENDS.values()} == {True, False}


def test_each_cost_model_is_a_function():
    assert {backend.cost_model for backend in BACKENDS.values()} == set(COST_MODELS)


@pytest.mark.parametrize("device", [CPU, CUDA, METAL], ids=lambda each: each.name)
def test_a_device_is_pickled_by_what_it_always_was(device):
    """A backend is looked up by name: it is in no pickle, in no comparison and in no hash.

    Tuning is of a process, and in no pickle either.
    """
    of_metal = ("name", "limits", "rules", "rounds_products", "parameters")
    kept = of_metal if device is METAL else ("name", "rates")
    assert tuple(each.name for each in fields(device)) == (*kept, "tuning")
    assert device.__getstate__() == [getattr(device, name) for name in kept]
    for given in (device, replace(device, tuning=Tuning(()))):
        loaded = pickle.loads(pickle.dumps(given))
        assert (loaded, hash(loaded)) == (device, hash(device.name))
        assert loaded.backend is device.backend
