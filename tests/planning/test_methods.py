"""What each method makes of a convolution, and how one is added."""

import numpy as np

from polyconv.planning.axis_methods import per_phase_axis, stacked_axis
from polyconv.planning.choose import plan
from polyconv.planning.methods import METHODS
from polyconv.planning.plan import ConvPlan
from tests.support.cases import NAMED
from tests.support.problems import general_spec, transposed

HIFIGAN = transposed((1, 128, 512), (256, 16, 512), stride=8, padding=4)


def test_per_phase_issues_one_convolution_per_phase():
    chosen = plan(HIFIGAN, "per_phase")
    assert len(chosen.subconvs) == chosen.cost.n_convs == 8
    assert [sub.blocks[0].axis.kernel_size for sub in chosen.subconvs] == [2] * 8
    assert len(plan(transposed((1, 4, 4, 4, 2), (3, 4, 4, 4, 2), 2, 1), "per_phase").subconvs) == 8


def test_stacked_issues_one_convolution_and_wastes_no_tap():
    chosen = plan(HIFIGAN, "stacked")
    (sub,) = chosen.subconvs
    assert sub.blocks[0].axis.kernel_size == 2
    frames = 129  # 128 and the one that buys the third tap back
    assert chosen.cost.macs == frames * 2 * 512 * (8 * 256)


def test_a_new_method_needs_one_function_and_one_entry(monkeypatch):
    """Here one that stacks the phases of the last axis alone."""

    def lower_last_stacked(problem, metal):
        *others, last = problem.axes
        axes = (*map(per_phase_axis, others), stacked_axis(last))
        return ConvPlan(problem, "last_stacked", axes, False, metal)

    monkeypatch.setitem(METHODS, "last_stacked", lower_last_stacked)
    tried = 0
    for name, case in NAMED.items():
        if name.startswith("dilated, co"):
            continue
        tried += 1
        assert np.array_equal(case.run("last_stacked"), case.reference()), name
        problem = general_spec(case)
        if problem.is_input_dilated:
            named = {plan(problem).method, *(other.method for other in plan(problem).rejected)}
            assert "last_stacked" in named
    assert tried > 20
