"""What `auto` takes for a Mac: the least predicted time, among what keeps the promise."""

import json
from dataclasses import replace
from itertools import product
from math import prod

import mlx.core as mx
import numpy as np
import pytest

import polyconv
from polyconv.__main__ import main
from polyconv.metal.kernels import RULE_SETS
from polyconv.planning import devices
from polyconv.planning.choose import alternatives, plan
from polyconv.planning.estimate import NEAR, seconds_of
from polyconv.planning.methods import METHODS, lower_native
from polyconv.planning.plan import ConvPlan
from polyconv.planning.workspace import allocated
from polyconv.problem.spec import ConvSpec
from tests.support.cases import named
from tests.support.choices import PROBLEMS
from tests.support.problems import transposed
from tests.support.recorded import REAL, spec_of

MACS = [devices.device("test", name) for name in ("m1", "m2-pro", "m4-max", "m5-max")]
M4_MAX, M5_MAX = MACS[2:]
LAYERS = list(dict.fromkeys(spec_of(row) for row in REAL))

# 64 to 32 channels, 2 by 2 at stride 2: more to weave than to multiply.
LIGHT = transposed((1, 128, 128, 64), (32, 2, 2, 64), stride=2)
# The same with many channels, which one product computes.
HEAVY = transposed((1, 48, 48, 1024), (1024, 2, 2, 1024), stride=2)


def may_be_taken(spec: ConvSpec, device) -> list[ConvPlan]:
    """All plans that keep the promise: no unfolding, no read outside, float32 not rounded."""
    found = [METHODS[name](spec, device) for name in ("per_phase", "stacked", "taps")]
    found.append(lower_native(spec, device))
    return [
        each
        for each in found
        if isinstance(each, ConvPlan)
        and not (each.is_native and not each.first.issued.is_safe)
        and not (each.products and each.products != "scaled" and device.rounds_products)
    ]


@pytest.mark.parametrize("device", MACS, ids=lambda device: device.name)
def test_no_real_layer_is_predicted_slower_than_another_that_keeps_the_promise(device):
    """Forward and as the gradient of the input is one: undilated problems keep MLX's own op."""
    met = 0
    for spec in LAYERS:
        chosen = plan(spec, device=device)
        least = min(seconds_of(each) for each in may_be_taken(spec, device))
        assert seconds_of(chosen) <= NEAR * least
        met += 1
    assert met > 150


def test_of_equally_fast_plans_the_one_that_allocates_least_is_taken():
    met = 0
    for spec, device in product(LAYERS, MACS):
        chosen = plan(spec, device=device)
        bytes_of = lambda each: sum(allocated(each).values())  # noqa: E731
        for other in may_be_taken(spec, device):
            if seconds_of(other) <= seconds_of(chosen):
                assert bytes_of(chosen) <= bytes_of(other)
                met += chosen.method != other.method
    assert met > 50


def test_mlx_own_op_is_taken_where_weaving_costs_more_than_its_slower_kernel():
    chosen = plan(LIGHT, device=M4_MAX)
    assert chosen.method == "native"
    (sub,) = chosen.subconvs
    assert sub.issued.kernel.path == "implicit_gemm_2d_general"
    assert plan(HEAVY, device=M4_MAX).method == "taps"


def test_what_would_unfold_is_never_taken():
    for spec in [*LAYERS, *PROBLEMS]:
        for device in MACS:
            chosen = plan(spec, device=device)
            if chosen.is_native and not chosen.is_zero:
                assert chosen.first.issued.is_safe


@pytest.mark.parametrize("rules", RULE_SETS, ids=lambda rules: rules.name)
def test_in_3d_mlx_own_op_is_not_taken_where_recorded_rules_unfold(rules):
    """`phase_gemms_3d` of 0.32.3 was read from a binary. One product computes the same."""
    spec = transposed((1, 16, 16, 16, 64), (32, 2, 2, 2, 64), stride=2)
    chosen = plan(spec, device=devices.device("test", "m4-max", rules))
    assert chosen.method in ("taps", "stacked")
    native = lower_native(spec, devices.device("test", "m4-max"))
    assert native.first.issued.kernel.path == "phase_gemms_3d"
    assert seconds_of(chosen) < seconds_of(native)


def test_float32_is_not_rounded_to_tf32_unless_that_was_allowed():
    assert M5_MAX.rounds_products
    assert plan(HEAVY, device=M5_MAX).method == "stacked"
    reasons = {each.method: each.reason for each in plan(HEAVY, device=M5_MAX).rejected}
    assert "by TF32" in reasons["taps"]
    assert plan(HEAVY, device=replace(M5_MAX, rounds_products=False)).method == "taps"
    assert all(not each.products for each in alternatives(HEAVY, M5_MAX))


def test_halves_of_one_tap_are_multiplied_as_halves_by_accelerators():
    chosen = plan(replace(HEAVY, dtype="float16"), device=M5_MAX)
    assert (chosen.method, chosen.computing_dtype) == ("taps", "float16")
    two = replace(transposed((1, 512, 1024), (1024, 4, 1024), stride=2), dtype="float16")
    assert plan(two, "taps", device=M5_MAX).computing_dtype == "float32"  # sums are rounded once
    assert plan(two, "taps").computing_dtype == "float32"
    assert plan(replace(HEAVY, dtype="float16"), "taps").computing_dtype == "float32"


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("groups", [1, 2])
def test_products_of_halves_are_exact_on_integers(dtype, groups):
    shapes = ((2, 5, 6, 8 * groups), (4 * groups, 2, 3, 8))
    case = named("conv_transpose2d", *shapes, stride=(2, 3), groups=groups)
    case = replace(case, dtype=dtype)
    with polyconv.planning_for("m5-max"):
        assert np.array_equal(case.run("taps"), case.reference())
        x, w = (mx.array(a).astype(getattr(mx, dtype)) for a in case.data())
        packed = case.call(x, polyconv.pack(w), "taps").astype(mx.float32)
        assert np.array_equal(np.array(packed), case.reference())


@pytest.mark.parametrize("spec", [LIGHT, HEAVY], ids=["light", "heavy"])
def test_what_is_chosen_for_a_mac_has_the_numbers_of_a_cpu(spec):
    """Also in gradients, where MLX's own op takes no part."""
    small = (1, 9, 8, spec.in_channels // 8)
    x = mx.arange(prod(small), dtype=mx.float32).reshape(small) % 7 - 3
    shape = (spec.out_channels // 8, 2, 2, small[-1])
    w = mx.arange(prod(shape), dtype=mx.float32).reshape(shape) % 5 - 2
    for method in ("native", "taps", "auto"):
        call = lambda x, w, method=method: polyconv.conv_transpose2d(  # noqa: E731
            x, w, stride=2, method=method
        )
        cotangent = mx.ones((1, 18, 16, shape[0]))
        expected = mx.vjp(call, [x, w], [cotangent])
        with polyconv.planning_for("m1"):
            found = mx.vjp(call, [x, w], [cotangent])
        for ours, theirs in zip([*found[0], *found[1]], [*expected[0], *expected[1]], strict=True):
            assert mx.array_equal(ours, theirs)


@pytest.mark.parametrize(
    ("short", "whole"), [("m2", "m2-16gb"), ("m4", "m4-16gb"), ("m5-max", "m5-max-128gb")]
)
def test_a_mac_may_be_named_without_its_memory(short, whole):
    assert devices.device("test", short).name == whole


def test_a_packed_weight_is_not_packed_again_in_what_is_predicted():
    """With 1 MB of weights and few pixels, packing decides: MLX's own op needs none."""
    spec = transposed((1, 16, 16, 256), (128, 4, 4, 256), stride=2, padding=1)
    plain, packed = (plan(spec, device=M4_MAX, packed=flag) for flag in (False, True))
    assert (plain.method, packed.method) == ("native", "stacked")
    assert seconds_of(packed, packed=True) < seconds_of(plain, packed=True)
    assert NEAR * seconds_of(packed) > seconds_of(plain)
    shapes = ((1, 16, 16, 256), (128, 4, 4, 256))
    told = polyconv.explain("conv_transpose2d", *shapes, stride=2, padding=1, device="m4-max")
    assert (told.chosen, "With a packed weight stacked is taken." in told.notes) == ("native", True)


def test_several_macs_are_told_side_by_side(capsys):
    call = ["conv_transpose2d", "--input", "1,128,128,64", "--weight", "32,2,2,64", "--stride", "2"]
    assert main(["explain", *call, "--device", "m1,m4-max"]) == 0
    head, native, *_ = capsys.readouterr().out.splitlines()[2:]
    assert head.split() == ["method", "m1-16gb", "m4-max"]
    assert native.count("->") == 2
    assert native.count(" to ") == 2
    assert main(["explain", *call, "--device", "m1,m4-max", "--json"]) == 0
    assert [each["device"] for each in json.loads(capsys.readouterr().out)] == ["m1-16gb", "m4-max"]
    assert main(["explain", *call, "--device", "m1,m9"]) == 2
    assert "device must be one of" in capsys.readouterr().err
