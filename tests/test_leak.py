"""A short run of `leak.py`, and whether it would see a leak."""

import shutil
from unittest import mock

import leak
import mlx.core as mx
import pytest


@pytest.mark.filterwarnings("ignore")
def test_nothing_grows_with_the_number_of_calls():
    told = []
    assert leak.run(12_000, told.append) == [], "\n".join(told)


@pytest.mark.skipif(shutil.which("ps") is None, reason="needs ps, which macOS has")
def test_what_a_process_holds_is_known_without_proc():
    held = bytearray(64 << 20)
    held[:: 1 << 12] = b"x" * len(held[:: 1 << 12])  # touched, page by page
    assert leak.resident_by_ps() > len(held)
    assert leak.resident_by_ps() == pytest.approx(leak.resident(), rel=0.2)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("what", "leaked"),
    [("active", lambda: mx.ones((64,))), ("objects", lambda: [[] for _ in range(30)])],
)
def test_a_leak_is_seen(what, leaked):
    held = []

    def leaks(rng):
        held.append(leaked())
        mx.eval(held[-1])

    with mock.patch.dict(leak.KINDS, {leaks: 1000}, clear=True):
        assert any(each.startswith(what) for each in leak.run(8000, lambda text: None))
