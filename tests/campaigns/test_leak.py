"""A short run of `leak.py`, and whether it would see a leak.

Each in a process of its own: one that has computed other things holds memory that it has freed, in
which what leaks finds room.
"""

import shutil

import pytest

from tests.campaigns import leak
from tests.support.threading_tools import run_script

RUN = """
import mlx.core as mx
from tests.campaigns import leak
from unittest import mock

held = []

def leaks(rng):
    held.append(LEAKED)
    if isinstance(held[-1], mx.array):
        mx.eval(held[-1])

kinds = {leaks: 1000} if LEAKED is not None else {}
with mock.patch.dict(leak.KINDS, kinds, clear=bool(kinds)):
    print(leak.run(CALLS, lambda text: None))
"""


def grown(calls, tmp_path, leaked="None"):
    text = RUN.replace("LEAKED", leaked).replace("CALLS", str(calls))
    return run_script(text, tmp_path, 600).strip()


# Measured in three runs of each: at most 5.8 MB of 24, 1.6 kB of 64, no object and no thread.
@pytest.mark.parametrize(
    "calls", [3000, pytest.param(12_000, marks=[pytest.mark.slow, pytest.mark.memory])]
)
def test_nothing_grows_with_the_number_of_calls(calls, tmp_path):
    assert grown(calls, tmp_path) == "[]"


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
        ("active", "mx.ones((64,))"),  # 8 times the bound
        ("objects", "[[] for _ in range(30)]"),  # 3 times
        ("rss", 'b"x" * 2**16'),  # 5 times
    ],
    ids=["active", "objects", "rss"],
)
def test_a_leak_is_seen(what, leaked, tmp_path, request):
    if what == "rss":
        request.getfixturevalue("needs_memory_of_the_cpu")
    assert grown(3000, tmp_path, leaked).startswith(f"['{what} by ")
