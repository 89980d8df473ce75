"""`auto` takes what was the fastest, within the promise of memory; what is taken is right."""

import mlx.core as mx
import numpy as np
import pytest

import polyconv
from polyconv.execution.run import run
from polyconv.metal.kernels import RULE_SETS
from polyconv.planning.allowed import shares_plans
from polyconv.planning.candidates import candidates
from polyconv.planning.choose import alternatives, plan
from polyconv.planning.devices import CPU, CUDA, DEVICES, Metal
from polyconv.planning.methods import lower_native
from polyconv.planning.plan import ConvPlan
from tests.support.cases import integers
from tests.support.choices import PROBLEMS
from tests.support.problems import transposed
from tests.support.tuned import entry, planning_on, with_tuning

METAL = Metal("m4-max", DEVICES["m4-max"])
PLANNED = (CPU, CUDA, METAL)
LAYER = transposed((2, 24, 8), (4, 6, 8), 3, 1)
SHORT = transposed((2, 5, 8), (4, 6, 8), 3, 1)

on_each = pytest.mark.parametrize("where", PLANNED, ids=lambda each: each.name)


@on_each
def test_each_plan_is_taken_where_it_was_the_fastest_and_is_exact(where):
    """By every label in turn, with integers: all plans give the same numbers."""
    x, w = integers(2, 24, 8), integers(4, 6, 8)
    right = np.array(polyconv.conv_transpose1d(x, w, 3, 1, method="per_phase"))
    labels = [each.label for each in candidates(LAYER, where)]
    assert {"per_phase", "stacked"} < {*labels}
    for label in labels:
        others = [other for other in labels if other != label]
        tuned = with_tuning(where, entry(LAYER, label, *others))
        assert plan(LAYER, device=tuned).label == label
        assert plan(LAYER, device=tuned, reasons=False).label == label
        with planning_on(tuned):
            assert (np.array(polyconv.conv_transpose1d(x, w, 3, 1)) == right).all()
            packed = polyconv.conv_transpose1d(x, polyconv.pack(w), 3, 1)
            assert (np.array(packed) == right).all()


@on_each
@pytest.mark.parametrize("problem", PROBLEMS[:60:2], ids=str)
def test_all_candidates_compute_the_same(where, problem):
    """Of integers: what `auto` may be told to take is right, for all kinds of problems."""
    x = integers(problem.batch, *[a.size for a in problem.axes], problem.in_channels)
    kernel = [a.kernel_size for a in problem.axes]
    w = integers(problem.out_channels, *kernel, problem.in_channels // problem.groups)
    x, w = [each.astype(getattr(mx, problem.dtype)) for each in (x, w)]
    plans = candidates(problem, where)
    right = run(plan(problem, "per_phase"), x, w, False)
    for each in plans:
        assert mx.array_equal(run(each, x, w, False), right), each.label


@on_each
def test_a_tuned_forward_plan_leaves_gradients_right(where):
    x, w = integers(2, 24, 8), integers(4, 6, 8)
    dy = integers(*LAYER.output_shape)
    _, right = mx.vjp(lambda x, w: mx.conv_transpose1d(x, w, 3, 1), [x, w], [dy])
    for label in [each.label for each in candidates(LAYER, where)]:
        with planning_on(with_tuning(where, entry(LAYER, label))):
            _, found = mx.vjp(lambda x, w: polyconv.conv_transpose1d(x, w, 3, 1), [x, w], [dy])
            assert all(map(mx.array_equal, found, right)), label


@on_each
def test_another_length_has_the_plan_of_the_nearest(where):
    untuned = plan(SHORT, device=where).label
    label = next(each.label for each in candidates(SHORT, where) if each.label != untuned)
    tuned = with_tuning(where, entry(LAYER, label, untuned))
    found = plan(SHORT, device=tuned)
    assert found.label == label
    assert "x of shape (2, 24, 8), the nearest that was timed" in found.tuned
    assert not plan(SHORT, device=tuned, packed=True).tuned


def test_what_the_nearest_takes_but_this_cannot_is_passed_over():
    """A kernel that no window holds, as it is dilated, has no `stacked`."""
    problem = transposed((1, 24, 8), (4, 6, 8), 2, 1, dilation=3)
    labels = [each.label for each in candidates(problem, CPU)]
    assert "stacked" not in labels
    tuned = with_tuning(CPU, entry(problem, "stacked", "per_phase"))
    assert plan(problem, device=tuned).label == "per_phase"
    none = plan(problem, device=with_tuning(CPU, entry(problem, "stacked")))
    assert (none.label, none.tuned) == (plan(problem).label, "")


@on_each
def test_what_was_not_timed_is_estimated(where):
    tuned = with_tuning(where, entry(LAYER, "per_phase"))
    other = transposed((2, 24, 8), (4, 6, 8), 2, 1)
    found, expected = plan(other, device=tuned), plan(other, device=where)
    assert (found.label, found.tuned) == (expected.label, "")
    assert found.rejected == expected.rejected


@on_each
def test_a_method_that_is_named_is_not_tuned(where):
    tuned = with_tuning(where, entry(LAYER, "per_phase"))
    assert plan(LAYER, "stacked", device=tuned).method == "stacked"


def test_the_plan_says_what_was_measured():
    tuned = with_tuning(CPU, entry(LAYER, "per_phase", "stacked", "taps shared flat"))
    untuned = plan(LAYER).label
    found = plan(LAYER, device=tuned)
    ms = tuned.tuning.entries[0].ms[untuned]
    assert found.tuned == f"tuned: 1 ms against {ms:.0f} ms of {untuned}"
    reasons = {each.method: each.reason for each in found.rejected}
    assert reasons["stacked"] == "tuned: 2 ms against 1 ms"
    assert reasons["taps"] == "tuned: 3 ms against 1 ms"
    assert reasons["native"] == "tuning did not time it"
    same = plan(LAYER, device=with_tuning(CPU, entry(LAYER, untuned)))
    assert same.tuned == "tuned: 1 ms, as estimated too"


def test_native_is_never_taken_on_cuda_where_it_may_be_wrong():
    n_shared = n_native = 0
    for problem in PROBLEMS:
        for allow in (False, True):
            labels = [each.label for each in candidates(problem, CUDA, allow)]
            direct = lower_native(problem, CUDA)
            is_shared = isinstance(direct, ConvPlan) and shares_plans(direct)
            n_shared += is_shared
            n_native += "native" in labels
            assert not (is_shared and "native" in labels)
        tuned = with_tuning(CUDA, entry(problem, "native", "per_phase"), allow_unfold=True)
        if is_shared and problem.dtype != "float64":
            assert plan(problem, device=tuned).label != "native"
    assert n_shared > 100
    assert n_native > 10


def unfolded(found: ConvPlan) -> int:
    """Bytes that Metal's kernels unfold."""
    kernels = [sub.issued.kernel for sub in found.subconvs if sub.issued.kernel]
    return 0 if found.products else sum(kernel.unfold_bytes for kernel in kernels)


def test_on_metal_nothing_unfolds_unless_it_is_allowed():
    allowed = 0
    for rules in RULE_SETS:
        where = Metal("m2-16gb", DEVICES["m2-16gb"], rules)
        for problem in PROBLEMS:
            if problem.is_empty:
                continue
            for each in candidates(problem, where):
                assert unfolded(each) == 0
                assert each.products or all(sub.issued.is_safe for sub in each.subconvs)
            for each in candidates(problem, where, allow_unfold=True):
                kernels = [sub.issued.kernel for sub in each.subconvs if not each.products]
                assert not any(kernel.hazard or kernel.error for kernel in kernels)
                allowed += unfolded(each) > 0
    assert allowed > 50


def test_an_unfolding_plan_is_taken_if_that_is_allowed_alone():
    """MLX's own transposed op in 1D unfolds on every Mac."""
    native = next(e for e in candidates(LAYER, METAL, allow_unfold=True) if e.is_native)
    assert unfolded(native) > 0
    times = entry(LAYER, "native", "stacked")
    assert plan(LAYER, device=with_tuning(METAL, times)).label == "stacked"
    assert plan(LAYER, device=with_tuning(METAL, times, allow_unfold=True)).label == "native"


def test_of_a_cpu_all_that_auto_compares_is_timed_and_more():
    for problem in PROBLEMS[:80]:
        labels = {each.label for each in candidates(problem, CPU)}
        assert {each.label for each in alternatives(problem, CPU)} <= labels


def test_float64_is_tuned_among_products_alone():
    problem = transposed((2, 24, 8), (4, 6, 8), 3, 1, dtype="float64")
    labels = [each.label for each in candidates(problem, CPU)]
    assert len(labels) > 1
    assert all(label.startswith("taps") for label in labels)
    assert candidates(problem, CUDA) == candidates(problem, METAL) == []
    tuned = with_tuning(CPU, entry(problem, "native", *reversed(labels)))
    assert plan(problem, device=tuned).label == labels[-1]


def test_packed_and_plain_weights_have_their_own_plans():
    plain, packed = entry(LAYER, "per_phase"), entry(LAYER, "stacked", packed=True)
    tuned = with_tuning(CPU, plain, packed)
    assert plan(LAYER, device=tuned).label == "per_phase"
    assert plan(LAYER, device=tuned, packed=True).label == "stacked"
