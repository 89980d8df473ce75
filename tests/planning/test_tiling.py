"""Tiles on paper: how a call is cut, and what a workspace may be."""

from itertools import pairwise
from math import prod

import numpy as np
import pytest

from polyconv.planning.axis_parts import frames_reading, outputs_of, part_of, samples_read
from polyconv.planning.choose import plan
from polyconv.planning.devices import CPU
from polyconv.planning.tiling import Room, Tiling, arranged, fits, tiled, whole, workspace
from polyconv.problem.arguments import NoRoomError
from tests.support.problems import transposed

MANY = 2**60


# Frames read samples m - 1 and m (K4 s2 P1): by hand, outputs 2m - 1 and 2m for frame m.
def test_a_tile_by_hand():
    chosen = plan(transposed((1, 8, 3), (5, 4, 3), stride=2, padding=1), "per_phase")
    (along,) = chosen.axes
    assert (along.n_frames, along.axis.output_size) == (8, 16)
    x = np.zeros((1, 8, 3), np.float32)
    for start, stop in [(0, 3), (2, 5), (5, 8)]:
        first, behind = samples_read(along, start, stop)
        assert (first, behind) == (max(0, start - 1), min(8, stop + 1))
        part = part_of(along, (start, stop), (first, behind))
        assert part.axis.output_size == 2 * (stop - start)
        assert part.axis.size == x[:, first:behind].shape[1]
    assert outputs_of(along, (2, 5)) == (4, 10)
    assert frames_reading(along, 4, 5) == (3, 6)


def test_the_batch_is_cut_first_and_then_the_longest_axis():
    chosen = plan(transposed((6, 5, 40, 3), (5, 4, 4, 3), (2, 2)), "per_phase")
    most = whole(chosen, "y")
    assert (most.axis, most.n_items, most.n_steps, most.n_tiles) == (1, 6, 41, 1)
    by_items = tiled(chosen, "y", most.bytes // 2)
    assert isinstance(by_items, Tiling)
    assert 1 < by_items.n_items < 6
    assert by_items.n_steps == 41
    by_frames = tiled(chosen, "y", most.bytes // 20)
    assert isinstance(by_frames, Tiling)
    assert by_frames.n_items == 1
    assert by_frames.n_steps < 41
    assert by_frames.bytes <= most.bytes // 20
    covered = sorted((t.items, t.outputs) for t in by_frames)
    for item in range(6):
        ends = [outputs for items, outputs in covered if items == (item, item + 1)]
        assert ends[0][0] == 0
        assert ends[-1][1] == 82
        assert all(a[1] == b[0] for a, b in pairwise(ends))


def test_tiles_hold_no_more_elements_than_int32_counts():
    huge = plan(transposed((1, 2**20, 4), (4096, 4, 4), stride=2, dtype="float16"))
    assert not fits(huge, "y", MANY)
    chosen, tiling = arranged("op", huge, "y", MANY)
    assert tiling is not None
    for tile in tiling:
        outputs = prod(tile.plan.problem.output_shape)
        assert outputs < 2**31
    assert chosen.problem.output_shape[1] * 4096 > 2**31


def test_what_a_workspace_may_be():
    problem = transposed((1, 10, 4), (6, 4, 4), stride=2)
    result = 22 * 6 * 4
    assert workspace("op", problem, "y", Room(MANY, result + 400), None) == 300
    assert workspace("op", problem, "y", Room(MANY, result + 400), 20) == 20
    assert workspace("op", problem, "y", Room(result, MANY), None) == result
    with pytest.raises(NoRoomError, match=r"^\[op\] the result must fit into the largest buffer"):
        workspace("op", problem, "y", Room(result - 1, MANY), None)
    assert problem.dtype == "float32"
    assert plan(problem).device == CPU
