"""What a plan says of itself: its cost, whether it is empty, and that it is a value."""

from polyconv.planning.choose import plan
from polyconv.planning.methods import METHODS
from tests.support.problems import transposed

HIFIGAN = transposed((1, 128, 512), (256, 16, 512), stride=8, padding=4)


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
    outputs = 2 * problem.output_sizes[0] * problem.output_sizes[1] * 4
    assert plan(problem, "native").cost.macs == outputs * 5 * 3 * 3


def test_a_zero_plan_issues_nothing():
    for x, w in (((1, 0, 2), (3, 4, 2)), ((0, 5, 2), (3, 4, 2)), ((1, 5, 0), (3, 4, 0))):
        chosen = plan(transposed(x, w, stride=2))
        assert chosen.is_zero
        assert chosen.cost.macs == 0


def test_a_large_stride_costs_no_more_than_its_taps():
    chosen = plan(transposed((1, 2, 1), (1, 3, 1), stride=2**29))
    assert chosen.cost.macs == 2 * 3
    assert sum(len(axis.phases) for axis in chosen.axes) == 3


def test_plans_are_hashable_and_equal_by_value():
    assert plan(HIFIGAN) == plan(HIFIGAN)
    assert hash(plan(HIFIGAN)) == hash(plan(HIFIGAN))
