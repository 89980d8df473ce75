"""Arrays of more than 2^31 elements, which MLX counts in int32 in places: computed in tiles."""

import os

import mlx.core as mx
import numpy as np
import pytest

import polyconv
from polyconv.device import device_for
from polyconv.room import room_on

FRAMES, CHANNELS = 2**21 + 3, 520
SIZE = 2 * FRAMES + 1
MIDDLE = 2**31 // CHANNELS  # element 2^31 is in this row
_ROOM = room_on(device_for(None))


def _free():
    """Bytes: of the machine where it tells; of what may be allocated on macOS, which does not."""
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except ValueError:
        return _ROOM.total


pytestmark = [
    pytest.mark.skipif(_free() < 12 * 2**30, reason="takes 11 GiB of memory"),
    pytest.mark.skipif(
        _ROOM.largest < 2 * SIZE * CHANNELS, reason="the output is larger than the largest buffer"
    ),
]


@pytest.fixture(scope="module")
def arrays():
    """Of K3 s2 from 1 to 520 channels: 2^31 + 33,580,152 outputs."""
    assert SIZE * CHANNELS > 2**31
    rng = np.random.default_rng(0)
    x = rng.integers(-3, 4, (1, FRAMES, 1)).astype(np.float16)
    w = rng.integers(-3, 4, (CHANNELS, 3, 1)).astype(np.float16)
    yield x, w, rng
    mx.clear_cache()


def test_the_output(arrays):
    x, w, rng = arrays
    y = polyconv.conv_transpose1d(mx.array(x), mx.array(w), 2)
    mx.eval(y)
    assert y.shape == (1, SIZE, CHANNELS)
    near = [*range(20), *range(MIDDLE - 20, MIDDLE + 20), *range(SIZE - 20, SIZE)]
    rows = np.unique([*near, *rng.integers(0, SIZE, 4000)])
    found = np.stack([np.array(y[0, row : row + 1])[0] for row in rows.tolist()])
    m, odd = rows // 2, rows % 2 == 1
    here, before = x[0, np.minimum(m, FRAMES - 1)], x[0, np.maximum(m - 1, 0)]
    here, before = here * (m < FRAMES)[:, None], before * (m > 0)[:, None]
    by_tap = w[:, :, 0].T  # y[2m] = x[m] w[0] + x[m - 1] w[2], y[2m + 1] = x[m] w[1]
    expected = np.where(odd[:, None], here * by_tap[1], here * by_tap[0] + before * by_tap[2])
    assert (found == expected).all()


def test_both_gradients(arrays):
    x, w, rng = arrays
    rows = [0, 1, MIDDLE - 1, MIDDLE, MIDDLE + 1, SIZE - 2, SIZE - 1]
    cotangents = rng.integers(-3, 4, (len(rows), CHANNELS)).astype(np.float16)
    y = mx.zeros((1, SIZE, CHANNELS), mx.float16)
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
            if rest == 0 and 0 <= frame < FRAMES:
                by_frame[0, frame, 0] += cotangent.astype(int) @ w[:, k, 0]
                by_tap[:, k, 0] += cotangent * x[0, frame, 0]
    assert (np.array(dx) == by_frame.astype(np.float16)).all()
    assert (np.array(dw) == by_tap.astype(np.float16)).all()
