"""Which convolution is the gradient of a weight? Judged by sizes and by sums over samples."""

import random

import numpy as np
import pytest

from polyconv.planning.devices import CPU, CUDA
from polyconv.planning.methods import lower_ordinary
from polyconv.planning.weight_gradient import Run, as_convolution, run_of
from polyconv.problem.spec import Axis, ConvSpec


def found_for(*axes, groups=1, device=CUDA, sizes=(2, 4, 6)):
    ordinary = lower_ordinary(ConvSpec(*sizes, axes, groups), device)
    return ordinary and as_convolution(ordinary)


def drawn(rng):
    return Axis(
        size=rng.randint(1, 12),
        kernel_size=rng.randint(1, 4),
        stride=rng.randint(1, 3),
        kernel_dilation=rng.randint(1, 3),
        padding_lo=rng.randint(0, 3),
        padding_hi=rng.randint(-1, 3),
    )


def summed(x, y, axis):
    """The gradient of one channel's weight, by its definition."""
    found = np.zeros(axis.kernel_size)
    for m in range(axis.output_size):
        for k in range(axis.kernel_size):
            at = axis.stride * m + axis.kernel_dilation * k - axis.padding_lo
            if 0 <= at < axis.size:
                found[k] += x[at] * y[m]
    return found


def test_the_convolution_is_the_gradient():
    """Also as cuDNN counts, which has the padding in front at both ends."""
    rng, taken, longer = random.Random(0), 0, 0
    for _ in range(2000):
        axis = drawn(rng)
        found = found_for(axis) if axis.output_size > 0 else None
        if found is None:
            continue
        taken += 1
        (_, step), ((_, lo), (_, hi)), (_, dilation) = found.options
        x = np.arange(1, axis.size + 1)
        y = np.array([rng.randint(-3, 3) for _ in range(axis.output_size)])
        padded = np.pad(x, (lo, hi))
        reach = dilation * (len(y) - 1) + 1
        windows = [
            padded[at : at + reach : dilation] for at in range(0, len(padded) - reach + 1, step)
        ]
        sums = [window @ y for window in windows]
        longer += len(sums) > axis.kernel_size
        assert found.is_longer == (len(sums) > axis.kernel_size), axis
        assert np.array_equal(sums[: axis.kernel_size], summed(x, y, axis)), axis
        window = step * (len(sums) - 1) + 1
        assert (axis.size + 2 * lo - window) // dilation + 1 == axis.output_size, axis
        # Of the outputs, which are the taps, cuDNN takes no more for a call with an input dilation.
        assert (axis.size + 2 * lo - reach) // step + 1 == len(sums), axis
    assert taken > 200
    assert longer > 20


@pytest.mark.parametrize(
    ("axis", "is_taken"),
    [
        (Axis(size=64, kernel_size=3, padding_lo=1, padding_hi=1), True),
        (Axis(size=64, kernel_size=3, stride=2, padding_lo=1, padding_hi=1), True),
        (Axis(size=64, kernel_size=3, padding_lo=2), False),  # cuDNN would have 2 behind, too
        (Axis(size=64, kernel_size=3, padding_hi=2), False),
        (Axis(size=64, kernel_size=3, padding_lo=-1, padding_hi=-1), False),
        # MLX would not ask for cuDNN's gradient: the output is no longer than the kernel.
        (Axis(size=3, kernel_size=3, padding_lo=1, padding_hi=1), False),
        (Axis(size=2048, kernel_size=11, padding_lo=5, padding_hi=5), False),  # was slower
        (Axis(size=2048, kernel_size=16, stride=8, padding_lo=4, padding_hi=4), True),
    ],
)
def test_where_it_is_taken(axis, is_taken):
    assert (found_for(axis) is not None) == is_taken
    assert (found_for(axis, axis) is not None) == is_taken
    assert found_for(axis, groups=2) is None
    assert found_for(axis, axis, axis) is None
    assert found_for(axis, device=CPU) is None


@pytest.mark.parametrize(
    ("channels", "size", "kernel", "dilation", "is_taken"),
    [
        (32, 8192, 7, 1, False),  # few channels, many taps
        (32, 8192, 3, 5, True),
        (64, 4096, 11, 1, True),
        (128, 2048, 7, 3, True),
        (128, 2048, 11, 3, False),  # many channels and frames, and windows that reach far
        (64, 4096, 11, 3, True),
        (256, 256, 11, 5, True),
    ],
)
def test_layers_of_a_vocoder_have_what_was_faster(channels, size, kernel, dilation, is_taken):
    padding = dilation * (kernel - 1) // 2
    axis = Axis(size, kernel, 1, 1, dilation, padding, padding)
    assert (found_for(axis, sizes=(16, channels, channels)) is not None) == is_taken


@pytest.mark.parametrize(
    ("axis", "run"),
    [
        (Axis(size=8202, kernel_size=11), Run(8, 18)),
        (Axis(size=8201, kernel_size=11), None),  # of 8191 frames, an odd number
        (Axis(size=74, kernel_size=11, stride=2), Run(2, 13)),  # as there are few frames
        (Axis(size=64, kernel_size=2, stride=2), None),  # no sample is read twice
        (Axis(size=64, kernel_size=3, kernel_dilation=2), None),
    ],
)
def test_runs_are_of_frames_that_share_samples(axis, run):
    plan = lower_ordinary(ConvSpec(16, 32, 32, (axis,)), CUDA)
    assert run_of(plan) == run
    few = Axis(size=18, kernel_size=11)  # frames, for many channels
    assert run_of(lower_ordinary(ConvSpec(1, 512, 512, (few,)), CUDA)) is None
    for spec in (ConvSpec(16, 32, 32, (axis,), 2), ConvSpec(16, 32, 32, (axis, axis))):
        assert run_of(lower_ordinary(spec, CUDA)) is None
