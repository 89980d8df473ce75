"""The phase mathematics in exact integers, over every axis of a small grid."""

from dataclasses import replace
from math import gcd

from polyconv.problem.phases import n_phases, phase_dilation, phase_stride, split
from polyconv.problem.spec import Axis
from tests.support.axes import AXES, brute


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
