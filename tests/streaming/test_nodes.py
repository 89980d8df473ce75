"""Each node in random chunks gives what the whole gives, by == on integers."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import mlx.core as mx
import numpy as np
import pytest

from polyconv.problem.spec import Axis
from polyconv.streaming import end_nodes, nodes
from polyconv.streaming.convolution_node import Convolution
from polyconv.streaming.nodes import EndError, Line
from polyconv.streaming.program import Program
from tests.support.cases import integers
from tests.support.reference import conv_general

Whole = Callable[[np.ndarray], np.ndarray]


class Case(NamedTuple):
    """A node, the function of the whole signal, whose time is axis `at + 1` of (N, outer, L, C)."""

    make: Callable[[Line], Any]
    whole: Whole
    outer: Sequence[int] = (1, 3)
    lengths: Sequence[int] = (9, 12, 17)


def _cropped(lo: int, hi: int, step: int) -> Case:
    return Case(
        lambda line: nodes.Cropped(line, lo, hi, step),
        lambda x: x[:, :, lo : x.shape[2] - hi : step],
        lengths=(lo + hi, lo + hi + 1, 9, 14),
    )


CASES = {
    **{f"cropped {each}": _cropped(*each) for each in ((0, 0, 1), (2, 3, 1), (3, 0, 2), (1, 4, 3))},
    "grouped": Case(lambda line: nodes.Grouped(line, 4), lambda x: x, lengths=(4, 12, 16)),
    "waiting for nothing": Case(lambda line: nodes.Waiting(line), lambda x: x),
}


def _sizes(rng: random.Random, n: int) -> list[int]:
    """Of random chunks that are together `n` samples. Some are 0."""
    sizes: list[int] = []
    while sum(sizes) < n:
        sizes.append(min(rng.choice((0, 0, 1, 2, 3, 5, 8)), n - sum(sizes)))
    return [*sizes, *[0] * rng.choice((0, 1))]


def _chunks(rng: random.Random, x: mx.array, line: Line) -> list[mx.array | None]:
    """Of `(N, outer, L, C)`, in which the lines lie one behind the other; None is no chunk."""
    found: list[mx.array | None] = []
    start = 0
    for n in _sizes(rng, x.shape[2]):
        chunk = x[:, :, start : start + n].flatten(1, 2)
        found.append(chunk if n or rng.random() < 0.5 else None)
        start += n
    assert line.at == 1
    return found


def _apart(chunks: Sequence[mx.array | None], outer: int) -> np.ndarray:
    some = [mx.unflatten(each, 1, (outer, -1)) for each in chunks if each is not None and each.size]
    return np.concatenate([np.array(each) for each in some], 2) if some else np.zeros(0)


def _program(node: Any) -> tuple[Program, int]:
    program = Program()
    (out,) = program.add_node(node, [program.input()], 1)
    return program, out


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("name", CASES)
def test_a_node_in_chunks_gives_the_whole_also_again_and_from_a_copy(name, seed):
    case, rng = CASES[name], random.Random(seed)
    outer, length = rng.choice(case.outer), rng.choice(case.lengths)
    line = Line(1, outer)
    x = integers(2, outer, length, 3, seed=seed)
    expected = case.whole(np.array(x))
    program, out = _program(case.make(line))
    for _ in range(2):
        chunks = _chunks(rng, x, line)
        middle = rng.randrange(len(chunks) + 1)
        found = [program.run(chunk, False, out) for chunk in chunks[:middle]]
        copied = program.copied()
        for each in (program, copied):
            rest = [each.run(chunk, False, out) for chunk in chunks[middle:]]
            rest.append(each.run(None, True, out))
            got = _apart([*found, *rest], outer)
            if expected.shape[2]:
                assert np.array_equal(got, expected)
            else:
                assert not got.size
        program.reset()
        assert not program.held


def _axis(rng: random.Random, n: int) -> Axis:
    pad = rng.choice((0, 1, 3, -1))
    return Axis(
        n,
        rng.choice((1, 2, 3, 4)),
        stride=rng.choice((1, 1, 2, 3)),
        input_dilation=rng.choice((1, 1, 2)),
        kernel_dilation=rng.choice((1, 2)),
        padding_lo=pad,
        padding_hi=rng.choice((0, 2, pad)),
    )


@pytest.mark.parametrize("seed", range(40))
def test_a_convolution_in_chunks_gives_the_reference(seed):
    rng = random.Random(seed)
    n_axes = rng.choice((1, 2))
    axes = tuple([_axis(rng, n) for n in (14, 12)[:n_axes]])
    time = rng.randrange(n_axes)
    groups, flip = rng.choice((1, 2)), rng.random() < 0.5
    x = integers(2, *[axis.size for axis in axes], 4, seed=seed)
    w = integers(4, *[axis.kernel_size for axis in axes], 4 // groups, seed=seed + 1)
    expected = conv_general(
        np.array(x),
        np.array(w),
        stride=[axis.stride for axis in axes],
        lo=[axis.padding_lo for axis in axes],
        hi=[axis.padding_hi for axis in axes],
        kernel_dilation=[axis.kernel_dilation for axis in axes],
        input_dilation=[axis.input_dilation for axis in axes],
        groups=groups,
        flip=flip,
    )
    program, out = _program(Convolution(axes, time, w, groups, flip))
    at = (slice(None),) * (1 + time)
    for _ in range(2):
        start, found = 0, []
        for n in _sizes(rng, x.shape[1 + time]):
            chunk = x[(*at, slice(start, start + n))]
            found.append(program.run(chunk if n else None, False, out))
            start += n
            if rng.random() < 0.2:
                program = program.copied()
        found.append(program.run(None, True, out))
        some = [np.array(each) for each in found if each is not None]
        assert np.array_equal(np.concatenate(some, 1 + time), expected)
        program.reset()


@pytest.mark.parametrize("seed", range(10))
def test_signals_that_come_at_different_times_are_aligned(seed):
    rng = random.Random(seed)
    lines = [Line(1), Line(1, 2)]
    x, y = integers(1, 1, 13, 2), integers(1, 2, 13, 2, seed=1)
    node = nodes.Aligned(lines)
    for _ in range(2):
        feeds = [_chunks(rng, each, line) for each, line in zip((x, y), lines)]
        n = max(map(len, feeds))
        found = []
        for pair in zip(*[[*feed, *[None] * (n - len(feed))] for feed in feeds]):
            made = node.run(pair, False)
            assert lines[0].count(made[0]) == lines[1].count(made[1])
            found.append(made)
        found.append(node.run([None, None], True))
        first, second = zip(*found)
        assert np.array_equal(_apart(first, 1), np.array(x))
        assert np.array_equal(_apart(second, 2), np.array(y))
        node.reset()


def test_signals_of_unequal_lengths_cannot_end():
    node = nodes.Aligned([Line(1), Line(1)])
    node.run([mx.ones((1, 3, 2)), mx.ones((1, 5, 2))], False)
    with pytest.raises(EndError, match="unequal lengths meet: 2 samples left over"):
        node.run([None, None], True)


def test_a_group_must_be_full_at_the_end():
    node = nodes.Grouped(Line(1), 4)
    assert node.run([mx.ones((1, 6, 2))], False).shape == (1, 4, 2)
    with pytest.raises(EndError, match="a multiple of 4 samples"):
        node.run([None], True)


@pytest.mark.parametrize("seed", range(10))
def test_pieces_are_known_once_and_signals_wait_for_them(seed):
    """x without its ends, between its first and last samples, beside other numbers."""
    rng = random.Random(seed)
    outer = 1
    line, x = Line(1, outer), integers(2, outer, rng.choice((7, 16)), 3, seed=seed)
    start, stop = rng.choice(((0, 3), (2, 6), (1, 2)))
    program = Program()
    slot = program.input()
    (early,) = program.add_node(end_nodes.Early(line, start, stop), [slot], 1)
    (late,) = program.add_node(end_nodes.Late(line, stop, start), [slot], 1)
    (doubled,) = program.add_piece(lambda a: 2 * a, [early], 1)
    (waited,) = program.add_node(nodes.Waiting(line), [slot, doubled], 1)
    constant = program.constant(mx.full((2, 2, 3), 7.0))
    (out,) = program.add_node(nodes.Joined(line, 2), [constant, doubled, waited, late], 1)
    whole = np.array(x)[:, 0]
    expected = np.concatenate(
        [np.full((2, 2, 3), 7.0), 2 * whole[:, start:stop], whole]
        + [whole[:, whole.shape[1] - stop : whole.shape[1] - start]],
        1,
    )
    for _ in range(2):
        found = []
        for chunk in _chunks(rng, x, line):
            found.append(program.run(chunk, False, out))
            if rng.random() < 0.3:
                program = program.copied()
        found.append(program.run(None, True, out))
        assert np.array_equal(_apart(found, 1)[:, 0], expected)
        program.reset()


@pytest.mark.parametrize("kind", [end_nodes.Early, end_nodes.Late])
def test_a_signal_may_be_too_short_for_a_piece(kind):
    node = kind(Line(1), *((2, 5) if kind is end_nodes.Early else (5, 2)))
    assert node.run([mx.ones((1, 4, 2))], False) is None
    with pytest.raises(EndError, match="at least 5 samples"):
        node.run([None], True)


@pytest.mark.parametrize("seed", range(12))
def test_numbers_of_each_time_begin_repeat_and_end(seed):
    rng = random.Random(seed)
    begin, period, end = rng.choice(((0, 1, 0), (2, 1, 3), (3, 2, 1), (0, 3, 4), (5, 4, 0)))
    length = begin + end + period * rng.choice((0, 1, 4))
    if not length:
        length = period
    parts = [integers(1, n, 1, seed=n + 1) for n in (begin, period, end)]
    repeated = [parts[1]] * ((length - begin - end) // period)
    expected = np.concatenate([np.array(a) for a in (parts[0], *repeated, parts[2])], 1)
    line, x = Line(1), integers(2, 1, length, 3, seed=seed)
    node = end_nodes.Times(line, *parts)
    for _ in range(2):
        found = [node.run([chunk], False) for chunk in _chunks(rng, x, line)]
        found.append(node.run([None], True))
        signal, numbers = zip(*found)
        assert [line.count(each) for each in signal] == [line.count(each) for each in numbers]
        assert np.array_equal(_apart(signal, 1), np.array(x))
        assert np.array_equal(_apart(numbers, 1)[:, 0], expected)
        node.reset()


def test_numbers_that_repeat_do_not_end_anywhere():
    node = end_nodes.Times(Line(1), *[integers(1, n, 1) for n in (1, 3, 1)])
    node.run([mx.ones((1, 6, 2))], False)
    with pytest.raises(EndError, match="a multiple of 3 samples"):
        node.run([None], True)


@pytest.mark.parametrize("seed", range(12))
def test_frames_are_added_up(seed):
    rng = random.Random(seed)
    size, hop = rng.choice(((4, 2), (5, 2), (3, 3), (6, 1), (4, 3)))
    n = rng.choice((1, 2, 7))
    frames = np.array(integers(n, size, 2, seed=seed))
    expected = np.zeros(((n - 1) * hop + size, 2), np.float32)
    for i, frame in enumerate(frames):
        expected[i * hop : i * hop + size] += frame
    node, x = end_nodes.OverlapAdded(size, hop), mx.array(frames).flatten(0, 1)
    for _ in range(2):
        start, found = 0, []
        for count in _sizes(rng, len(x)):
            found.append(node.run([x[start : start + count] if count else None], False))
            start += count
        found.append(node.run([None], True))
        some = [np.array(each) for each in found if each is not None]
        assert np.array_equal(np.concatenate(some), expected)
        node.reset()
        assert not node.held
