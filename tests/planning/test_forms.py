"""The forms in which convolutions are issued on Metal: each met, none changes a number."""

import dataclasses

import mlx.core as mx
import numpy as np
import pytest

import polyconv
from polyconv.execution import device, unpatched
from polyconv.execution.cutting import pack
from polyconv.execution.device import pads_explicitly
from polyconv.metal.kernels import NEWEST, RECORDED, predict
from polyconv.planning import forms
from polyconv.planning.choose import plan
from polyconv.planning.devices import BACKENDS, CPU, CUDA, DEVICES, Metal
from polyconv.planning.forms import issue
from polyconv.planning.methods import METHODS
from tests.support.cases import NAMED, integers, named
from tests.support.forms import CASES, HAZARDS, METAL, undilated
from tests.support.problems import general_spec
from tests.support.trace import traced


@pytest.mark.parametrize("name", CASES)
def test_a_form_is_met_and_changes_no_number(name):
    case, method, form = CASES[name]
    assert plan(general_spec(case), method, device=METAL).subconvs[0].issued.form == form
    with polyconv.planning_for("m4-max"):
        assert np.array_equal(case.run(method), case.reference())


@pytest.mark.parametrize("name", CASES)
def test_nor_in_gradients(name):
    case, method, _ = CASES[name]
    x, w = (mx.array(a) for a in case.data())
    cotangent = integers(*case.reference().shape, seed=3)
    call = lambda x, w: case.call(x, w, method)  # noqa: E731
    _, on_cpu = mx.vjp(call, [x, w], [cotangent])
    with polyconv.planning_for("m4-max"):
        _, on_metal = mx.vjp(call, [x, w], [cotangent])
    for ours, expected in zip(on_metal, on_cpu, strict=True):
        assert mx.array_equal(ours, expected)


def test_few_channels_in_3d_are_cheaper_frame_by_frame_than_padded_to_16():
    spec = undilated((1, 64, 64, 64, 1), (16, 5, 5, 5, 1), ([2] * 3, [2] * 3))
    assert predict(spec, METAL.limits).path == "pad_and_slice_3d"
    issued = issue(spec, METAL)
    assert (issued.form.lift, issued.n_convs) == ("frames", 5)
    assert issued.cost.macs == issued.plain_macs


@pytest.mark.parametrize("path", HAZARDS)
def test_what_would_read_outside_its_input_is_issued_otherwise(path):
    spec = HAZARDS[path]
    as_it_stands = predict(spec, METAL.limits)
    assert (as_it_stands.path, bool(as_it_stands.hazard)) == (path, True)
    issued = issue(spec, METAL)
    assert not issued.kernel.hazard
    assert not issued.kernel.is_explicit
    assert issued.spec.output_shape[1 : 1 + spec.ndim] == spec.output_sizes or issued.form.lift


def test_the_backend_says_whether_kernels_are_predicted_not_the_class_of_the_device(monkeypatch):
    problem = undilated((1, 20, 3), (5, 4, 3), ([1], [2]))
    for make in (issue.__wrapped__, forms.as_it_stands):  # without what other tests have found
        assert make(problem, METAL).kernel is not None
    unknown = dataclasses.replace(METAL.backend, predicts_kernels=False)
    monkeypatch.setitem(BACKENDS, "metal", unknown)
    for make in (issue.__wrapped__, forms.as_it_stands):
        assert make(problem, METAL) == make(problem, CPU)
        assert make(problem, METAL).kernel is None


@pytest.mark.parametrize("device", [CPU, METAL], ids=["cpu", "m4-max"])
@pytest.mark.parametrize("name", [*NAMED, *CASES, "one output channel"])
def test_weights_are_packed_into_contiguous_arrays(name, device):
    """MLX copies a weight that is a view in every call."""
    one = named("conv_transpose1d", (1, 5, 16), (1, 16, 16), stride=8, padding=4)
    case = {**NAMED, **{k: v[0] for k, v in CASES.items()}, "one output channel": one}[name]
    _, w = (mx.array(a) for a in case.data())
    for method in ("per_phase", "stacked"):
        if not (method == "stacked" and name.startswith("dilated, co")):
            for packed in pack(plan(general_spec(case), method, device=device), w):
                mx.eval(packed)
                assert memoryview(packed).c_contiguous


@pytest.mark.skipif(pads_explicitly(), reason="MLX before 0.32.4 is given padded inputs")
@pytest.mark.parametrize("method", [method for method in METHODS if method != "native"])
def test_inputs_that_fit_are_handed_on_as_they_are(method, monkeypatch):
    case = named("conv_transpose1d", (2, 7, 16), (32, 4, 16), stride=2, padding=1)
    x, w = (mx.array(a) for a in case.data())
    given = []
    own = unpatched.conv_general
    monkeypatch.setattr(unpatched, "conv_general", lambda x, *a: given.append(x) or own(x, *a))
    with polyconv.planning_for("m4-max"), polyconv.exporting():
        case.call(x, w, method)
    assert all(each is x or mx.array_equal(each, x) for each in given)
    assert all(each.shape == x.shape for each in given)


def test_planning_for_a_device_ends_with_its_block_and_nests():
    x, w = mx.zeros((1, 7, 5)), mx.zeros((3, 4, 5))

    def channels():
        with traced() as calls:
            polyconv.conv_transpose1d(x, w, 2, method="stacked")
        return calls[0].in_channels

    with polyconv.planning_for("m4-max"):
        with polyconv.planning_for("m1-16gb"):
            assert channels() == 16
        assert channels() == 16
    if not mx.metal.is_available():
        assert channels() == 5
    must = r"\[planning_for\] device must be one of cpu, cuda, a18-pro-8gb, "
    with pytest.raises(ValueError, match=must), polyconv.planning_for("m0"):
        pass
    with pytest.raises(KeyError), polyconv.planning_for("m4-max"):
        raise KeyError
    assert mx.metal.is_available() or channels() == 5


def test_a_stream_of_the_cpu_is_planned_for_as_a_cpu(monkeypatch):
    monkeypatch.setattr(device, "present", lambda: METAL)
    assert device.device_for(mx.gpu) == METAL
    assert device.device_for(mx.Device(mx.gpu, 0)) == METAL
    assert device.device_for(mx.cpu) == CPU
    assert device.device_for(mx.default_stream(mx.cpu)) == CPU
    assert device.device_for(None) == (METAL if mx.default_device().type == mx.gpu else CPU)
    with polyconv.planning_for("m1-16gb"):
        assert device.device_for(mx.cpu).name == "m1-16gb"
    monkeypatch.setattr(device, "present", lambda: None)
    assert device.device_for(mx.gpu) == CUDA


def test_what_only_newer_rules_call_safe_is_not_issued():
    """8 channels a group: MLX 0.32.4 has a kernel for them, by rules that were only read."""
    eight = undilated((1, 50, 16), (16, 3, 8), ([0], [0]), groups=2)
    newest, recorded = (Metal("m4-max", DEVICES["m4-max"], each) for each in (NEWEST, RECORDED))
    assert predict(eight, newest.limits, NEWEST).path == "implicit_gemm_2d"
    assert predict(eight, newest.limits, RECORDED).is_explicit
    for metal in (newest, recorded):
        assert issue(eight, metal).form.extra_in == 8
        assert not forms.as_it_stands(eight, metal).is_safe
