"""The phase mathematics in exact integers, over every axis of a small grid."""

from dataclasses import replace
from itertools import product
from math import gcd

import pytest

from polyconv.planning.axis_plan import AxisPlan, Rejection, per_phase_axis, stacked_axis
from polyconv.problem.phases import n_phases, phase_dilation, phase_stride, split
from polyconv.problem.spec import Axis


def grid():
    sizes = product((1, 2, 5), (1, 2, 3, 5), (1, 2, 3), (1, 2, 3, 4, 6), (1, 2, 3, 4))
    for size, kernel_size, stride, input_dilation, dilation in sizes:
        for lo, hi in product((-3, 0, 1, 4, 9), (-2, 0, 3, 8)):
            axis = Axis(size, kernel_size, stride, input_dilation, dilation, lo, hi)
            if axis.dilated_size + lo + hi >= axis.window:
                yield axis


AXES = list(grid())


def brute(axis: Axis, t: int) -> set[tuple[int, int]]:
    """The (tap, input sample) pairs that output t multiplies, straight from the definition."""
    pairs = set()
    for k in range(axis.kernel_size):
        at = axis.stride * t + axis.kernel_dilation * k - axis.padding_lo
        if at % axis.input_dilation == 0 and 0 <= at // axis.input_dilation < axis.size:
            pairs.add((k, at // axis.input_dilation))
    return pairs


def test_the_grid_covers_what_users_meet():
    assert len(AXES) > 10_000
    assert any(gcd(a.input_dilation, a.kernel_dilation) > 1 for a in AXES)
    assert any(gcd(a.input_dilation, a.stride) > 1 for a in AXES)
    assert any(phase.padding_lo < 0 for a in AXES for phase in split(a))
    assert any(len(split(a)) < n_phases(a) for a in AXES)


def test_phases_multiply_exactly_the_pairs_of_the_definition():
    for axis in AXES:
        phases = {phase.residue: phase for phase in split(axis)}
        for t in range(axis.output_size):
            m, r = divmod(t, n_phases(axis))
            pairs = set()
            if r in phases:
                _, taps, lo = phases[r]
                starts = m * phase_stride(axis) - lo
                reads = [(k, starts + j * phase_dilation(axis)) for j, k in enumerate(taps)]
                pairs = {(k, i) for k, i in reads if 0 <= i < axis.size}
            assert pairs == brute(axis, t), (axis, t)


def test_taps_of_all_phases_partition_the_kernel():
    for axis in AXES:
        if axis.stride == 1 and gcd(axis.input_dilation, axis.kernel_dilation) == 1:
            overhang = axis.window - 1
            full = replace(axis, padding_lo=overhang, padding_hi=overhang)
            taps = sorted(k for phase in split(full) for k in phase.taps)
            assert taps == list(range(axis.kernel_size)), full


def test_an_undilated_axis_is_one_phase_with_all_taps():
    axis = Axis(size=9, kernel_size=3, stride=2, kernel_dilation=2, padding_lo=1, padding_hi=1)
    (phase,) = split(axis)
    assert (phase.residue, phase.taps, phase.padding_lo) == (0, range(3), 1)


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
