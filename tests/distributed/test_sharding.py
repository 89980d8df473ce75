"""The plan of a divided sequence on paper, for every small axis: no process is started."""

from __future__ import annotations

from itertools import combinations_with_replacement, product
from math import gcd

import numpy as np
import pytest

from polyconv.distributed import Sharding
from polyconv.distributed.sharding import Exchange, outputs_of, read_by, sharded_axis
from polyconv.problem.spec import Axis


def axes():
    """Small axes of all kinds; those with no output are left out."""
    numbers = product((0, 1, 4, 7), (1, 2, 3), (1, 2, 3), (1, 2, 3), (1, 2, 3), (-1, 0, 2), (0, 3))
    for size, kernel, stride, input_dilation, kernel_dilation, lo, hi in numbers:
        axis = Axis(size, kernel, stride, input_dilation, kernel_dilation, lo, hi)
        if axis.output_size > 0:
            yield axis


def shardings(size: int, n: int):
    for cuts in combinations_with_replacement(range(size + 1), n - 1):
        yield Sharding((0, *cuts, size))


def reads(axis: Axis, outputs: tuple[int, int]) -> list[int]:
    """The samples that these outputs read, one by one from the definition of the axis."""
    dilated = [
        axis.stride * t + axis.kernel_dilation * k - axis.padding_lo
        for t in range(*outputs)
        for k in range(axis.kernel_size)
    ]
    found = {i // axis.input_dilation for i in dilated if i % axis.input_dilation == 0}
    return sorted(i for i in found if 0 <= i < axis.size)


def test_what_outputs_read_is_sent_and_nothing_around_it():
    seen = 0
    for axis in axes():
        for start in range(0, axis.output_size, 2):
            for stop in {start, start + 1, axis.output_size}:
                brute = reads(axis, (start, stop))
                hull = (brute[0], brute[-1] + 1) if brute else None
                assert read_by(axis, (start, stop)) == hull, (axis, start, stop)
                seen += 1
    assert seen > 10_000


@pytest.mark.parametrize("n", [1, 2, 3, 4])
def test_pieces_put_together_are_the_whole(n):
    """Every piece by the definition of its own axis, on what a simulated exchange gives it."""
    rng = np.random.default_rng(n)
    seen = 0
    for axis in axes():
        cuts = list(shardings(axis.size, n))
        chosen = rng.choice(len(cuts), min(2, len(cuts)), replace=False)
        for inputs in [cuts[i] for i in chosen]:
            x, w = rng.integers(-9, 9, axis.size), rng.integers(-9, 9, axis.kernel_size)
            cut = sharded_axis(axis, inputs)
            held = simulated(cut.exchange, x)
            y = [
                convolved(part.axis, mine, w)[: part.outputs[1] - part.outputs[0]]
                for part, mine in zip(cut.parts, held, strict=True)
            ]
            assert [len(each) for each in y] == list(cut.outputs.sizes)
            assert np.concatenate(y).tolist() == convolved(axis, x, w).tolist(), (axis, inputs)
            seen += 1
    assert seen > 1000


def convolved(axis: Axis, x: np.ndarray, w: np.ndarray) -> np.ndarray:
    y = np.zeros(axis.output_size, int)
    for t, k in product(range(axis.output_size), range(axis.kernel_size)):
        i = axis.stride * t + axis.kernel_dilation * k - axis.padding_lo
        if i % axis.input_dilation == 0 and 0 <= i // axis.input_dilation < len(x):
            y[t] += w[k] * x[i // axis.input_dilation]
    return y


def simulated(exchange: Exchange, x: np.ndarray) -> list[np.ndarray]:
    """What each rank has after all messages, if each can send only what it has by then."""
    has = [set(range(*span)) for span in exchange.sharding.spans]
    sent = [0] * len(has)
    for message in exchange.messages:
        assert abs(message.sender - message.receiver) == 1
        for each in message.transfers:
            samples = set(range(*each.span))
            assert samples <= has[message.sender]
            has[message.receiver] |= samples
        sent[message.sender] += message.size
    assert sent == [exchange.sent_by(rank) for rank in range(len(has))]
    for rank, (span, held) in enumerate(zip(exchange.spans, exchange.sharding.spans)):
        assert set(range(*span)) <= has[rank]
        assert exchange.halo_of(rank) == len(set(range(*span)) - set(range(*held)))
    there, back = [
        sum(each.size for each in m) for m in (exchange.messages, exchange.messages_back)
    ]
    assert there == back
    return [x[slice(*span)] for span in exchange.spans]


def test_neighbours_send_at_most_one_message_each_way_where_the_halo_is_theirs():
    for n in (2, 5, 64):
        cut = sharded_axis(Axis(50 * n, 16, 1, 8, 1, 11, 11), Sharding.even(50 * n, n))
        pairs = [(each.sender, each.receiver) for each in cut.exchange.messages]
        assert len(set(pairs)) == len(pairs) == 2 * (n - 1)
        assert {each.size for each in cut.exchange.messages} == {1}


def test_layers_of_a_vocoder_keep_the_cuts_on_frames():
    mel = Sharding((0, 5, 5, 14, 20))
    same = Axis(20, 11, kernel_dilation=5, padding_lo=25, padding_hi=25)
    assert outputs_of(same, mel) == mel
    for kernel, stride in ((16, 8), (4, 2), (8, 4), (20, 10)):
        lo = kernel - 1 - (kernel - stride) // 2
        up = Axis(20, kernel, input_dilation=stride, padding_lo=lo, padding_hi=lo)
        assert outputs_of(up, mel).bounds == tuple(stride * b for b in mel.bounds)


def test_the_halo_by_its_formula():
    """As docs/distributed.md has it: less only where a kernel leaves outputs out."""
    equal = 0
    for kernel, s, d, lo in product(range(1, 9), range(1, 7), range(1, 5), range(-1, 9)):
        axis = Axis(200, kernel, 1, s, d, lo, lo)
        (a, b), reach = Sharding.even(200, 4).spans[1], d * (kernel - 1)
        start, stop = sharded_axis(axis, Sharding.even(200, 4)).exchange.spans[1]
        halo, formula = (a - start, stop - b), ((reach + s) // (2 * s), -((s - reach) // (2 * s)))
        if kernel >= s and gcd(s, d) == 1:
            assert halo == formula, axis
            equal += 1
        assert all(n <= m for n, m in zip(halo, formula)), axis
    assert equal > 500


@pytest.mark.parametrize("bounds", [(0,), (1, 2), (0, 5, 3), (0, 2.0), [0, 4]])
def test_bounds_that_are_none(bounds):
    with pytest.raises(ValueError) as error:
        Sharding(bounds)
    assert str(error.value).startswith("[Sharding] bounds must be a tuple of ints that rise from 0")


def test_pieces_of_no_ranks():
    with pytest.raises(ValueError) as error:
        Sharding.even(4, 0)
    assert str(error.value) == "[Sharding.even] n_ranks must be at least 1; got 0"
