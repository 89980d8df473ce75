"""Blocks that say something for the calls inside: however they end, each takes back its own."""

import contextvars
from contextlib import ExitStack
from itertools import permutations

import mlx.core as mx
import pytest

import polyconv
from polyconv.execution import device
from polyconv.execution.open_blocks import OpenBlocks
from polyconv.gradients import observing
from tests.support.cases import integers

X, W = integers(1, 5, 4), integers(2, 3, 4, seed=1)


@pytest.mark.parametrize("order", [*permutations(range(3))])
def test_blocks_end_in_any_order(order):
    blocks = OpenBlocks("a test's")
    entered = [blocks.holding(value) for value in "aba"]
    for each in entered:
        each.__enter__()
    left = list(enumerate("aba"))
    for ended in order:
        assert blocks.values() == [value for _, value in left]
        assert blocks.innermost() == left[-1][1]
        entered[ended].__exit__(None, None, None)
        left = [each for each in left if each[0] != ended]
    assert not blocks.any()
    assert blocks.innermost() is None


def test_a_block_that_ends_in_another_context_leaves_that_one_as_it_is():
    blocks = OpenBlocks("a test's")
    block = blocks.holding("here")
    contextvars.copy_context().run(block.__enter__)
    with blocks.holding("there"):
        block.__exit__(None, None, None)
        assert blocks.values() == ["there"]


def test_two_watches_see_what_is_run_while_they_are_open(capsys):
    watches = [polyconv.watch(), polyconv.watch()]
    first, second = [each.__enter__() for each in watches]
    calls = lambda seen: sum(site.n_calls for site in seen.sites.values())  # noqa: E731
    polyconv.conv_transpose1d(X, W, 2)
    mx.conv_transpose1d(X, W, 2)
    watches[0].__exit__(None, None, None)
    polyconv.conv_transpose1d(X, W, 2)
    mx.conv_transpose1d(X, W, 2)
    watches[1].__exit__(None, None, None)
    polyconv.conv_transpose1d(X, W, 2)
    assert (calls(first), calls(second)) == (2, 4)
    assert not observing.OBSERVERS.any()


def test_the_device_planned_for_is_that_of_the_innermost_open_block():
    names = ["m2", "m4-max"]
    blocks = [polyconv.planning_for(name) for name in names]
    for each in blocks:
        each.__enter__()
    planned = device.device_for(None)
    blocks[0].__exit__(None, None, None)
    assert device.device_for(None) is planned
    blocks[1].__exit__(None, None, None)
    assert not device.is_planned_elsewhere()


def test_all_open_blocks_count_what_ranks_send():
    from polyconv.distributed import transport

    with ExitStack() as blocks:
        outer, inner = [blocks.enter_context(transport.traffic()) for _ in range(2)]
        transport._count(3, 4)
    assert outer == inner == transport.Traffic(3, 4, 1)
