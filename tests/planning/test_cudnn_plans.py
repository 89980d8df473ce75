"""No call runs a plan that MLX keeps of another: judged by what cuDNN is asked, counted anew."""

import random
from dataclasses import replace

import mlx.core as mx
import numpy as np
import pytest

import polyconv
from polyconv.execution import unpatched
from polyconv.planning.cudnn_plans import (
    MARK,
    TURNED,
    behind_zeros,
    can_be_marked,
    marked,
    zeros_in_front,
)
from polyconv.problem.spec import Axis, ConvSpec
from tests.support import reference
from tests.support.cases import integers
from tests.support.trace import traced


def drawn(rng):
    return Axis(
        size=rng.randint(1, 9),
        kernel_size=rng.randint(1, 4),
        stride=rng.randint(1, 4),
        kernel_dilation=rng.randint(1, 3),
        padding_lo=rng.randint(0, 5),
        padding_hi=rng.randint(0, 5),
    )


def is_left_by(outputs, axis):
    """Whether cuDNN takes so many outputs for the axis: as a convolution, or a weight's gradient.

    That is the convolution of the samples, with padding_lo at both ends, by the outputs. Its own
    outputs must be the taps.
    """
    padded = axis.size + axis.padding_lo + axis.padding_hi
    if outputs == len(range(0, padded - axis.window + 1, axis.stride)):
        return True
    reach = axis.stride * (outputs - 1) + 1
    room = axis.size + 2 * axis.padding_lo - reach
    return room >= 0 and room // axis.kernel_dilation + 1 == axis.kernel_size


def test_no_other_input_dilation_leaves_a_plan_for_an_ordinary_convolution():
    rng = random.Random(0)
    at_risk = safe = 0
    for _ in range(20000):
        axis = drawn(rng)
        if axis.output_size < 1:
            continue
        others = [replace(axis, input_dilation=t).output_size for t in (2, 3, 4)]
        zeros = zeros_in_front(axis)
        if any(n != axis.output_size and is_left_by(n, axis) for n in others):
            assert zeros, axis
            at_risk += 1
        front = behind_zeros(axis, zeros)
        assert front.output_size == axis.output_size
        assert not zeros_in_front(front)
        for t in (2, 3, 4):
            n = replace(front, input_dilation=t).output_size
            assert n == front.output_size or not is_left_by(n, front), (axis, t)
        safe += not zeros
    assert at_risk > 200
    assert safe > 5000


def test_what_is_marked_is_the_gradient_of_the_input_of_a_strided_convolution():
    """cuDNN is asked for that one with the padding turned round, and the samples as outputs."""
    rng, marks = random.Random(0), 0
    for _ in range(5000):
        axis = replace(drawn(rng), stride=1, input_dilation=rng.randint(1, 4))
        if axis.output_size < 1 or not can_be_marked(ConvSpec(1, 1, 1, (axis,), flip=True), False):
            continue
        marks += 1
        padding = axis.window - 1 - axis.padding_lo
        assert padding >= 0
        room = axis.output_size + 2 * padding - axis.window
        assert room // axis.input_dilation + 1 == axis.size
    assert marks > 300


@pytest.mark.parametrize("groups", [1, 4])
def test_each_stride_has_a_mark_of_its_own(groups, monkeypatch):
    x, w = integers(2, 9, 4), integers(4, 5, 4 // groups, seed=1)
    given = []
    own = unpatched.conv_general
    monkeypatch.setattr(unpatched, "conv_general", lambda *a: given.append(a) or own(*a))
    with polyconv.planning_for("cuda"):
        for stride in (1, 2, 3, 7):
            got = polyconv.conv_transpose1d(x, w, stride, 2, groups=groups)
            lo = hi = [2]
            right = reference.conv_general(
                *[np.array(a, dtype=np.float64) for a in (x, w)],
                **{"stride": [1], "lo": lo, "hi": hi, "kernel_dilation": [1]},
                **{"input_dilation": [stride], "groups": groups, "flip": True},
            )
            assert np.array_equal(np.array(got), right)
    assert [options[0] for _, _, *options in given] == [(MARK + n, 1) for n in (1, 2, 3, 7)]
    assert {(a.shape, b.shape) for a, b, *_ in given} == {((2, 1, 9, 4), (4, 1, 5, 4 // groups))}


def test_padding_that_is_longer_in_front_is_copied():
    x, w = integers(2, 13, 1), integers(1, 3, 1, seed=1)
    with polyconv.planning_for("cuda"):
        chosen = polyconv.conv_general(x, w, padding=([2], [0]))
    right = reference.conv_general(
        *[np.array(a, dtype=np.float64) for a in (x, w)],
        **{"stride": [1], "lo": [2], "hi": [0], "kernel_dilation": [1], "input_dilation": [1]},
        **{"groups": 1, "flip": False},
    )
    assert np.array_equal(np.array(chosen), right)


def test_groups_of_several_channels_are_not_marked():
    """MLX may overwrite the weight that it has turned for them."""
    axis = Axis(size=9, kernel_size=5, input_dilation=2, padding_lo=2, padding_hi=2)
    for channels, groups, is_marked in ((4, 1, True), (4, 4, True), (4, 2, False)):
        spec = ConvSpec(2, channels, channels, (axis,), groups, flip=True)
        assert can_be_marked(spec, False) == can_be_marked(spec, True) == is_marked
    assert not can_be_marked(ConvSpec(2, 4, 8, (axis,), 4, flip=True), True)


def test_no_two_have_the_same_mark():
    steps = [1, 2, 3, 4, 2**14 - 1]
    axes = [Axis(size=2, kernel_size=2, input_dilation=step) for step in steps]
    kinds = [(axis,) for axis in axes] + [(a, b) for a in axes for b in axes]
    for ndim in (1, 2):
        alike = [each for each in kinds if len(each) == ndim]
        marks = {marked(each, turned).stride for each in alike for turned in (False, True)}
        assert len(marks) == 2 * len(alike)
        assert min(marks) > 2**30
        assert max(marks) < 2**31
    too_far = Axis(size=2, kernel_size=2, input_dilation=2**14, padding_lo=1, padding_hi=1)
    assert not can_be_marked(ConvSpec(1, 1, 1, (too_far,), flip=True), False)


def test_in_2d_a_packed_weight_alone_is_marked():
    """It becomes 3D, where MLX cannot map the weight by `mx.vmap`. A packed one is not mapped."""
    x, w = integers(2, 5, 4, 6), integers(3, 3, 2, 6, seed=1)
    call = lambda x, w: polyconv.conv_transpose2d(x, w, (2, 1), 1)  # noqa: E731
    right = call(x, w)
    with polyconv.planning_for("cuda"), traced() as calls:
        packed = polyconv.pack(w)
        for weight in (w, packed):
            assert np.array_equal(np.array(call(x, weight)), right)
        mapped = mx.vmap(lambda x: call(x, packed))(mx.stack([x, 2 * x]))
        assert np.array_equal(np.array(mapped), np.array(mx.stack([right, 2 * right])))
        mx.eval(mx.vmap(call)(mx.stack([x, x]), mx.stack([w, w])))
        dx = mx.vjp(lambda x: call(x, packed), [x], [right])[1][0]
    plain, of_packed, *_ = calls
    assert (plain.ndim, of_packed.ndim) == (2, 3)
    assert of_packed.axes[0] == marked(of_packed.axes[1:], turned=True)
    assert [axis.input_dilation for axis in of_packed.axes] == [1, 2, 1]
    assert mx.array_equal(dx, mx.vjp(lambda x: call(x, w), [x], [right])[1][0])


def test_a_packed_weight_lies_as_cudnn_reads_it_and_has_a_mark_of_its_own(monkeypatch):
    """So MLX copies nothing of it, and a plan that was prepared for a copy is not run."""
    x, w = integers(2, 9, 4), integers(6, 5, 4, seed=1)
    right = polyconv.conv_transpose1d(x, w, 2, 1)
    given = []
    own = unpatched.conv_general
    monkeypatch.setattr(unpatched, "conv_general", lambda *a: given.append(a) or own(*a))
    with polyconv.planning_for("cuda"):
        packed = polyconv.pack(w)
        for weight in (w, packed, packed):
            assert np.array_equal(np.array(polyconv.conv_transpose1d(x, weight, 2, 1)), right)
        plain = polyconv.conv1d(x, w)
        given.clear()
        dx = mx.vjp(lambda x: polyconv.conv1d(x, w), [x], [plain])[1][0]
    marks = [options[0][0] for _, _, *options in given if options[-1]]
    assert marks == [MARK + TURNED + 1]
    (weight,) = [b for _, b, *options in given if options[-1]]
    exchanged = weight.swapaxes(0, -1)
    mx.eval(exchanged)
    assert memoryview(exchanged).c_contiguous
    assert mx.array_equal(exchanged.squeeze(1), w)
    assert mx.array_equal(dx, mx.vjp(lambda x: mx.conv1d(x, w), [x], [plain])[1][0])
