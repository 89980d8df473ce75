"""Arrays of more than 2^31 elements, which MLX counts in int32 in places: computed in tiles.

The small version is told that MLX counts to 2^15, and looks at the tiles; the large one computes
what would be wrong.
"""

from math import prod
from unittest import mock

import mlx.core as mx
import numpy as np
import pytest

import polyconv
from polyconv.execution.device import device_for
from polyconv.execution.memory import room_on
from polyconv.gradients import maps
from polyconv.planning import tiling
from tests.support.threading_tools import forget

# Frames, channels, and the most elements that MLX counts. The large output has 2^31 + 33,580,152.
SMALL = (2**8 + 3, 130, 2**15)
LARGE = pytest.param(
    (2**21 + 3, 520, 2**31 - 1), marks=[pytest.mark.slow, pytest.mark.memory], id="large"
)


@pytest.fixture(params=[pytest.param(SMALL, id="small"), LARGE])
def shape(request, needs_memory):
    """Frames, outputs, channels, and the row that the last element which MLX counts is in."""
    frames, channels, most = request.param
    size = 2 * frames + 1
    if most > 2**30:
        needs_memory(12)
        if room_on(device_for(None)).largest < 2 * size * channels:
            pytest.skip("the output is larger than the largest buffer of this GPU")
    assert size * channels > most
    forget()
    tiles = []
    assembled = maps.assembled

    def noted(found, *args):
        tiles.extend(prod(tile.plan.problem.output_shape) for tile in found)
        return assembled(found, *args)

    with (
        mock.patch.object(tiling, "INT32_MAX", most),
        mock.patch.object(maps, "assembled", noted),
    ):
        yield frames, size, channels, most // channels
    forget()
    mx.clear_cache()
    assert len(tiles) > 1
    assert max(tiles) <= most


def arrays(frames, channels):
    """Of K3 s2 from 1 channel to many."""
    rng = np.random.default_rng(0)
    x = rng.integers(-3, 4, (1, frames, 1)).astype(np.float16)
    w = rng.integers(-3, 4, (channels, 3, 1)).astype(np.float16)
    return x, w, rng


def test_the_output(shape):
    frames, size, channels, middle = shape
    x, w, rng = arrays(frames, channels)
    y = polyconv.conv_transpose1d(mx.array(x), mx.array(w), 2)
    mx.eval(y)
    assert y.shape == (1, size, channels)
    near = [*range(20), *range(middle - 20, middle + 20), *range(size - 20, size)]
    rows = np.unique([*near, *rng.integers(0, size, 4000)])
    found = np.stack([np.array(y[0, row : row + 1])[0] for row in rows.tolist()])
    m, odd = rows // 2, rows % 2 == 1
    here, before = x[0, np.minimum(m, frames - 1)], x[0, np.maximum(m - 1, 0)]
    here, before = here * (m < frames)[:, None], before * (m > 0)[:, None]
    by_tap = w[:, :, 0].T  # y[2m] = x[m] w[0] + x[m - 1] w[2], y[2m + 1] = x[m] w[1]
    expected = np.where(odd[:, None], here * by_tap[1], here * by_tap[0] + before * by_tap[2])
    assert (found == expected).all()


def test_both_gradients(shape):
    frames, size, channels, middle = shape
    x, w, rng = arrays(frames, channels)
    rows = [0, 1, middle - 1, middle, middle + 1, size - 2, size - 1]
    cotangents = rng.integers(-3, 4, (len(rows), channels)).astype(np.float16)
    y = mx.zeros((1, size, channels), mx.float16)
    for row, cotangent in zip(rows, cotangents, strict=True):
        y[0, row] = mx.array(cotangent)
    mx.eval(y)
    call = lambda x, w: polyconv.conv_transpose1d(x, w, 2)  # noqa: E731
    _, (dx, dw) = mx.vjp(call, [mx.array(x), mx.array(w)], [y])
    mx.eval(dx, dw)
    by_frame, by_tap = np.zeros(x.shape), np.zeros(w.shape)
    for row, cotangent in zip(rows, cotangents, strict=True):
        for k in range(3):
            frame, rest = divmod(row - k, 2)
            if rest == 0 and 0 <= frame < frames:
                by_frame[0, frame, 0] += cotangent.astype(int) @ w[:, k, 0]
                by_tap[:, k, 0] += cotangent * x[0, frame, 0]
    assert (np.array(dx) == by_frame.astype(np.float16)).all()
    assert (np.array(dw) == by_tap.astype(np.float16)).all()
