"""Every axis of a small grid, and what its outputs are by definition."""

from collections.abc import Iterator
from itertools import product

from polyconv.problem.spec import Axis


def grid() -> Iterator[Axis]:
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
