"""Which method is chosen, why the others are not, and what a plan says of itself."""

import pytest
from cases import NAMED

from polyconv import plan as planning
from polyconv import spec
from polyconv.plan import METHODS, ConvPlan, plan


def transposed(x, w, stride=1, padding=0, dilation=1, output_padding=0, groups=1):
    ndim = len(x) - 2
    options = [(v,) * ndim for v in (stride, padding, dilation, output_padding)]
    return spec.transposed("test", x, w, ("float32", "float32"), *options, groups)


HIFIGAN = transposed((1, 128, 512), (256, 16, 512), stride=8, padding=4)


def general_spec(case):
    g = case.general
    ndim = len(case.x_shape) - 2
    names = ("stride", "kernel_dilation", "input_dilation")
    stride, kernel_dilation, input_dilation = (g[name][:ndim] for name in names)
    padding = (g["lo"], g["hi"])
    dtypes = ("float32", "float32")
    rest = (stride, padding, kernel_dilation, input_dilation, g["groups"], g["flip"])
    return spec.general("test", case.x_shape, case.w_shape, dtypes, *rest)


@pytest.mark.parametrize("name", NAMED)
def test_auto_never_multiplies_inserted_zeros(name):
    problem = general_spec(NAMED[name])
    chosen = plan(problem)
    for sub in chosen.subconvs:
        assert set(sub.input_dilation) == {1}
    assert chosen.method == ("native" if name == "stride 1" else chosen.method)
    assert (chosen.method == "native") == (not problem.is_input_dilated)


@pytest.mark.parametrize("name", NAMED)
def test_auto_is_the_cheapest_and_says_why_the_others_are_not_taken(name):
    problem = general_spec(NAMED[name])
    chosen = plan(problem)
    if not problem.is_input_dilated:
        return
    others = {rejection.method: rejection.reason for rejection in chosen.rejected}
    assert {chosen.method, *others} == set(METHODS)
    for method, reason in others.items():
        try:
            other = plan(problem, method)
        except ValueError as error:
            assert reason in str(error)
            continue
        if method == "native":
            assert reason == "input_dilation > 1 multiplies inserted zeros"
        else:
            assert other.cost.seconds >= chosen.cost.seconds
            assert "times the cost" in reason


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


def test_costs_count_the_multiplications_of_the_blocks():
    problem = transposed((2, 9, 7, 6), (4, 5, 3, 3), stride=2, padding=1, groups=2)
    for method in METHODS:
        chosen = plan(problem, method)
        macs = 0
        for sub in chosen.subconvs:
            taps = 2 * 4 * 3  # batch, output channels, input channels of one group
            for block in sub.blocks:
                taps *= block.axis.kernel_size * block.axis.output_size * len(block.phases)
            macs += taps
        assert chosen.cost.macs == macs, method
    assert plan(problem, "native").cost.macs == spec.macs(problem)


def test_a_zero_plan_issues_nothing():
    for x, w in (((1, 0, 2), (3, 4, 2)), ((0, 5, 2), (3, 4, 2)), ((1, 5, 0), (3, 4, 0))):
        chosen = plan(transposed(x, w, stride=2))
        assert chosen.is_zero
        assert chosen.cost.macs == 0


def test_a_new_method_needs_one_function_and_one_entry(monkeypatch):
    monkeypatch.setitem(planning.METHODS, "again", planning.METHODS["stacked"])
    assert isinstance(plan(HIFIGAN, "again"), ConvPlan)


def test_plans_are_hashable_and_equal_by_value():
    assert plan(HIFIGAN) == plan(HIFIGAN)
    assert hash(plan(HIFIGAN)) == hash(plan(HIFIGAN))
