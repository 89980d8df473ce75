"""Where the items of a batch are told to lie is where numbers change when an item does."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest

from polyconv.streaming.items import Items, items_of
from polyconv.streaming.traced import trace
from tests.support.cases import integers

N, L, C = 4, 10, 6
W = integers(C, C)
TABLE = integers(9, 3)
PLACES = (mx.arange(L)[:, None] * 2 + mx.arange(3)).flatten()

KEPT = {
    "pointwise": lambda x: mx.maximum(x * 2, -x) + mx.where(x > 1, x, mx.zeros_like(x)),
    "transposed": lambda x: x.transpose(2, 0, 1),
    "merged with time": lambda x: x.flatten(0, 1),
    "merged and parted": lambda x: x.flatten(0, 1).reshape(N, -1, 2, C // 2).transpose(2, 1, 0, 3),
    "behind others in one axis": lambda x: x.transpose(2, 0, 1).flatten(0, 1),
    "in the last axis": lambda x: x.transpose(1, 2, 0).flatten(1, 2),
    "in the middle of an axis": lambda x: x.transpose(2, 0, 1).flatten() * 2,
    "product": lambda x: x @ W,
    "product of the second": lambda x: W @ x.transpose(1, 2, 0),
    "product of both": lambda x: x.swapaxes(1, 2) @ x,
    "product with a sum": lambda x: mx.addmm(x, x, W),
    "broadcast": lambda x: mx.broadcast_to(x[None], (3, *x.shape)),
    "beside others": lambda x: mx.concatenate([x, x * 2, mx.zeros((N, 1, C))], 1),
    "split": lambda x: mx.split(x, 2, -1)[1],
    "padded": lambda x: mx.pad(x, [(0, 0), (1, 2), (3, 0)]),
    "sliced": lambda x: x[:, 1:-1:2, -3:],
    "set": lambda x: _set(x, x[:, 1:3] * 2),
    "set in zeros": lambda x: _set(mx.zeros((N, L, C)), x[:, 1:3]),
    "convolved": lambda x: mx.conv1d(x, integers(2, 3, C), padding=1),
    "FFT": lambda x: mx.abs(mx.fft.rfft(x, axis=1)),
    "sums": lambda x: x - mx.mean(x, (1, 2), keepdims=True) + x.sum(-1, keepdims=True),
    "softmax": lambda x: mx.softmax(x, -1),
    "sorted": lambda x: mx.sort(x, 1) + mx.argsort(x, -1) + mx.cumsum(x, 2),
    "codes": lambda x: TABLE[mx.clip(x, 0, 8).astype(mx.int32)],
    "gathered from": lambda x: mx.take(x, mx.array([3, 1]), 1),
    "added to places": lambda x: (
        mx.zeros((2 * L + 1, N)).at[PLACES].add(x[..., :3].transpose(1, 2, 0).reshape(-1, N))
    ),
}
MIXED = {
    "mean": lambda x: x - x.mean(0),
    "turned": lambda x: x[::-1],
    "one of them": lambda x: x[:1] + x,
    "without the last": lambda x: x[:-1],
    "sorted": lambda x: mx.sort(x, 0),
    "one behind another": lambda x: mx.concatenate([x, x], 0),
    "padded": lambda x: mx.pad(x, [(1, 0), (0, 0), (0, 0)]),
    "split": lambda x: mx.split(x, 2, 0)[0],
    "set": lambda x: _set(x.swapaxes(0, 1), x.swapaxes(0, 1)[:, 1:3]),
    "taken": lambda x: x[mx.array([1, 0, 2, 3])],
    "softmax": lambda x: mx.softmax(x.transpose(1, 2, 0), -1),
    "summed over": lambda x: integers(3, N) @ x.swapaxes(0, 1),
    "summed in front": lambda x: x.transpose(1, 2, 0) @ integers(N, 3),
    "every with every": lambda x: x[:, 0] @ x[:, 0].T,
    "in other places": lambda x: x.flatten(0, 1) + x.swapaxes(0, 1).flatten(0, 1),
    "time outside": lambda x: x.swapaxes(0, 1).flatten(0, 1),
    "divided": lambda x: x.reshape(2, 2, -1, C),
    "channels of a convolution": lambda x: mx.conv1d(x.transpose(2, 1, 0), integers(2, 3, N)),
    "time of a convolution": lambda x: mx.conv1d(x.transpose(1, 0, 2), integers(2, 3, C)),
}


def _set(base: mx.array, new: mx.array) -> mx.array:
    y = mx.array(base)
    y[:, 1:3] = new
    return y


def _told(function, lengths=(L, L + 5, L + 12)) -> Items | None:
    traces = [trace(function, mx.zeros((N, n, C))) for n in lengths]
    return items_of(traces, True)[traces[0].outputs[0]]


@pytest.mark.parametrize("name", KEPT)
def test_numbers_change_where_their_item_is_told_to_lie(name):
    function, x = KEPT[name], integers(N, L, C)
    lengths = (L,) * 3 if name in ("set in zeros", "beside others", "added to places") else ()
    items = _told(function, *[lengths] if lengths else [])
    assert items is not None
    before = function(x)
    for i in range(N):
        which = mx.arange(N) == i
        after = function(mx.where(which[:, None, None], 3 * x + 5, x))
        changed = np.array(before) != np.array(after)
        told = items.chosen(which, mx.ones(before.shape), mx.zeros(before.shape))
        assert changed.any()
        assert not changed[np.array(told) == 0].any()
        both = items.chosen(which, after, before)
        assert mx.array_equal(both, after)


@pytest.mark.parametrize("name", MIXED)
def test_what_mixes_items_is_told(name):
    assert _told(MIXED[name]) is None


def test_what_depends_on_none_and_the_only_one():
    traces = [trace(lambda x: x * 0 + W.sum(), mx.zeros((1, n, C))) for n in (3, 4)]
    assert set(items_of(traces, True)) == {Items(-1)}
    x = integers(1, 3, C)
    assert mx.array_equal(Items(-1).chosen(mx.array([True]), x, -x), x)
    assert mx.array_equal(Items(-1).chosen(mx.array([False]), x, -x), -x)
    assert items_of(traces, False)[traces[0].outputs[0]] is None
