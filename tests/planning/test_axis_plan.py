"""Plans of one axis, in exact integers, over every axis of a small grid."""

import pytest

from polyconv.planning.axis_methods import per_phase_axis, stacked_axis
from polyconv.planning.axis_plan import AxisPlan, Rejection
from polyconv.problem.phases import phase_dilation
from polyconv.problem.spec import Axis
from tests.support.axes import AXES, brute


def assert_covers(plan: AxisPlan, axis: Axis) -> None:
    """Every output is computed from the right pairs, by the blocks and pieces as they stand."""
    rows = []
    for piece in plan.pieces:
        block = None if piece.block is None else plan.blocks[piece.block]
        for i in range(piece.start, piece.stop):
            rows.append(None if block is None else (block, i))
    assert len(rows) == plan.n_phases
    for t in range(axis.output_size):
        m, r = divmod(t + plan.crop_lo, plan.n_phases)
        assert m < plan.n_frames
        pairs = set()
        if rows[r] is not None:
            block, i = rows[r]
            first = m * block.axis.stride - block.axis.padding_lo
            for j, k in enumerate(block.phases[i].taps):
                sample = first + (block.leads[i] + j) * block.axis.kernel_dilation
                if 0 <= sample < axis.size:
                    pairs.add((k, sample))
        assert pairs == brute(axis, t), (axis, t)


def test_axis_plans_cover_every_output_once():
    for axis in AXES:
        plans = [per_phase_axis(axis), stacked_axis(axis)]
        for plan in plans:
            if isinstance(plan, AxisPlan):
                assert_covers(plan, axis)


def test_blocks_are_legal_convolutions():
    for axis in AXES:
        for plan in (per_phase_axis(axis), stacked_axis(axis)):
            if isinstance(plan, Rejection):
                continue
            for block in plan.blocks:
                a = block.axis
                assert a.input_dilation == 1
                assert a.output_size == plan.n_frames
                assert a.size - max(-a.padding_lo, 0) - max(-a.padding_hi, 0) >= 1
                window = [lead + len(p.taps) for lead, p in zip(block.leads, block.phases)]
                assert min(block.leads) == 0
                assert max(window) == a.kernel_size


def test_folds_put_each_tap_where_its_phase_wants_it():
    folded = 0
    for axis in AXES:
        plan = stacked_axis(axis)
        for block in plan.blocks if isinstance(plan, AxisPlan) else ():
            if block.fold is None:
                continue
            folded += 1
            pad_lo, pad_hi, step = block.fold
            padded = list(range(-pad_lo, axis.kernel_size + pad_hi))
            table = [padded[i : i + step] for i in range(0, len(padded), step)]
            assert len(table) == block.axis.kernel_size
            n = len(block.phases)
            for i, phase in enumerate(block.phases):
                column = [row[n - 1 - i] for row in table]
                first = block.leads[i]
                assert column[first : first + len(phase.taps)] == list(phase.taps)
                # What else the fold brings along of the kernel meets nothing but padding.
                others = {k for k in column if 0 <= k < axis.kernel_size} - set(phase.taps)
                outputs = range(phase.residue - plan.crop_lo, axis.output_size, plan.n_phases)
                assert not any(k in others for t in outputs if t >= 0 for k, _ in brute(axis, t))
    assert folded > 1_000


@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "window", "crop", "frames"),
    [(16, 8, 4, 2, 4, 101), (4, 2, 1, 2, 1, 101), (10, 5, 2, 2, 2, 101), (2, 2, 0, 1, 0, 100)],
)
def test_the_origin_is_chosen_so_that_no_tap_is_wasted(
    kernel, stride, padding, window, crop, frames
):
    lo = kernel - 1 - padding
    axis = Axis(100, kernel, input_dilation=stride, padding_lo=lo, padding_hi=lo)
    plan = stacked_axis(axis)
    assert isinstance(plan, AxisPlan)
    (block,) = plan.blocks
    assert (block.axis.kernel_size, plan.crop_lo, plan.n_frames) == (window, crop, frames)


def test_phases_whose_inputs_differ_modulo_the_dilation_cannot_be_stacked():
    rejected = [axis for axis in AXES if isinstance(stacked_axis(axis), Rejection)]
    assert len(rejected) > 100
    assert all(phase_dilation(axis) > 1 for axis in rejected)


def test_a_huge_stride_is_planned_without_walking_over_its_phases():
    axis = Axis(size=2, kernel_size=3, input_dilation=2**30, padding_lo=2, padding_hi=2)
    plan = stacked_axis(axis)
    assert isinstance(plan, AxisPlan)
    assert plan.n_phases == 2**30
    assert len(plan.phases) == 3
    assert len(plan.pieces) <= 3
