"""A short run of `leak.py`, and whether it would see a leak."""

import shutil
from unittest import mock

import leak
import mlx.core as mx
import pytest


# Measured in three runs of each: at most 5.8 MB of 24, 1.6 kB of 64, no object and no thread.
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "calls", [3000, pytest.param(12_000, marks=[pytest.mark.slow, pytest.mark.memory])]
)
def test_nothing_grows_with_the_number_of_calls(calls):
    told = []
    assert leak.run(calls, told.append) == [], "\n".join(told)


@pytest.mark.skipif(shutil.which("ps") is None, reason="needs ps, which macOS has")
def test_what_a_process_holds_is_known_without_proc():
    held = bytearray(64 << 20)
    held[:: 1 << 12] = b"x" * len(held[:: 1 << 12])  # touched, page by page
    assert leak.resident_by_ps() > len(held)
    assert leak.resident_by_ps() == pytest.approx(leak.resident(), rel=0.2)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("what", "leaked"),
    [
        ("active", lambda: mx.ones((64,))),  # 8 times the bound
        ("objects", lambda: [[] for _ in range(30)]),  # 3 times
        ("rss", lambda: b"x" * 2**15),  # 2.7 times
    ],
    ids=["active", "objects", "rss"],
)
def test_a_leak_is_seen(what, leaked):
    held = []

    def leaks(rng):
        held.append(leaked())
        if isinstance(held[-1], mx.array):
            mx.eval(held[-1])

    with mock.patch.dict(leak.KINDS, {leaks: 1000}, clear=True):
        assert any(each.startswith(what) for each in leak.run(3000, lambda text: None))
