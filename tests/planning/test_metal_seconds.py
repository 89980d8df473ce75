"""The estimated time of planned calls on Apple GPUs."""

from math import isclose, isfinite

import pytest

from polyconv.metal import work
from polyconv.metal.gpus import CHIPS
from polyconv.metal.seconds import FITTED, call_seconds
from polyconv.planning.choose import plan
from polyconv.planning.devices import CPU, DEVICES, Metal
from polyconv.planning.metal_seconds import kernels_of, plan_seconds
from polyconv.planning.methods import METHODS
from polyconv.problem.signatures import problem_of
from tests.support.recorded import REAL, spec_of

GPU, METAL = CHIPS["m4 max"], Metal("m4-max", DEVICES["m4-max"])


def planned(op, x, w, method, **options):
    return plan(problem_of(op, x, w, "float32", options), method, device=METAL)


@pytest.mark.parametrize("method", METHODS)
def test_every_real_layer_has_a_time(method):
    """Packing adds to it, and it takes as many launches at least as it has kernels."""
    met = 0
    for row in REAL:
        spec = spec_of(row)
        if method == "native" and spec.ndim == 3 and spec.groups > 1:
            continue
        made = plan(spec, method, device=METAL)
        launches = sum(
            kernel.n_times * kernel.n_launches for kernel in kernels_of(made, GPU, packed=True)
        )
        packed, whole = (plan_seconds(made, GPU, packed=flag) for flag in (True, False))
        assert FITTED.launch * launches < packed < 60
        assert isfinite(whole)
        assert (whole > packed) == (method != "native")
        met += 1
    assert met > 300


def test_stacked_in_1d_is_one_convolution_and_the_packing():
    made = planned("conv_transpose1d", (1, 128, 512), (256, 16, 512), "stacked", stride=8)
    issued = made.first.issued
    alone = work.convolution(issued.spec, issued.kernel, GPU)
    assert kernels_of(made, GPU, packed=True) == alone
    packing = work.copy(2 * 4 * issued.spec.n_weights, 4)  # K16 s8 folds without padding
    assert kernels_of(made, GPU) == (*alone, packing)


def test_a_product_is_woven_by_one_copy_of_the_output():
    """2 by 2 taps at stride 2 are one product, whose columns are brought to rows and columns."""
    made = planned("conv_transpose2d", (1, 64, 64, 32), (16, 2, 2, 32), "taps", stride=2)
    multiply, woven = kernels_of(made, GPU, packed=True)
    assert multiply == work.product(64 * 64, 4 * 16, 32, GPU, transposed=True)
    assert woven == work.copy(2 * 4 * 128 * 128 * 16, 4, "concat")


def test_phases_of_their_own_run_together_and_are_joined():
    made = planned("conv_transpose1d", (1, 128, 512), (256, 16, 512), "per_phase", stride=8)
    convolved, joined = kernels_of(made, GPU, packed=True)
    one = work.convolution(made.first.issued.spec, made.first.issued.kernel, GPU)[0]
    assert (convolved.n_launches, joined.n_launches) == (8, 8)
    assert isclose(convolved.macs, 8 * one.macs)
    assert call_seconds([convolved], GPU) < call_seconds([one] * 8, GPU)


def test_a_plan_for_another_device_is_refused():
    problem = problem_of("conv_transpose1d", (1, 128, 64), (32, 4, 64), "float32", {"stride": 2})
    with pytest.raises(ValueError, match=r"\[plan_seconds\] plan must be made for a Mac"):
        plan_seconds(plan(problem, "stacked", device=CPU), GPU)


def test_a_plan_without_outputs_takes_no_time():
    problem = problem_of("conv_transpose1d", (0, 128, 64), (32, 4, 64), "float32", {"stride": 2})
    assert plan_seconds(plan(problem, "stacked", device=METAL), GPU) == 0
