"""What the tests of threads and processes share."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

ROOT = Path(__file__).parents[2]


def ints(shape: tuple[int, ...], seed: int = 0) -> mx.array:
    """Small integers as float32, computed, so that any thread may use them."""
    a = mx.array(np.random.default_rng(seed).integers(-3, 4, shape), mx.float32)
    mx.eval(a)
    return a


def forget() -> None:
    """Empties every cache of the package, so that plans are made again."""
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] == "polyconv":
            for value in list(vars(module).values()):
                if hasattr(value, "cache_clear"):
                    value.cache_clear()


@contextmanager
def often_switching(seconds: float = 1e-6) -> Iterator[None]:
    """Threads take turns after so long."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(seconds)
    try:
        yield
    finally:
        sys.setswitchinterval(before)


def in_threads(
    work: Callable[[int], Any],
    n: int = 4,
    seconds: float = 120,
    meanwhile: Callable[[], object] | None = None,
) -> list[Any]:
    """What `work(i)` gives in n threads that begin together; the first error, if there is one.

    `meanwhile()` runs in this thread, again and again until they end.
    """
    begin, found = threading.Barrier(n), [None] * n
    errors: list[BaseException] = []

    def run(i: int) -> None:
        try:
            begin.wait(seconds)
            found[i] = work(i)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(i,), daemon=True) for i in range(n)]
    with often_switching():
        for thread in threads:
            thread.start()
        while meanwhile is not None and any(thread.is_alive() for thread in threads):
            meanwhile()
        for thread in threads:
            thread.join(seconds)
    assert not any(thread.is_alive() for thread in threads), "a thread hangs"
    if errors:
        raise errors[0]
    return found


def assert_right(found: Sequence[Any], right: Sequence[Any]) -> None:
    """What each thread found, arrays of NumPy, against what is right."""
    for thread in found:
        assert len(thread) == len(right)
        for got, expected in zip(thread, right):
            assert got.shape == expected.shape
            assert (got == expected).all()


def run_script(text: str, tmp_path: Path, seconds: float = 120, **environment: str) -> str:
    """Runs a Python script in a process of its own, and gives what it printed."""
    path = tmp_path / "script.py"
    path.write_text(text)
    done = subprocess.run(
        [sys.executable, str(path)],
        capture_output=True,
        text=True,
        timeout=seconds,
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)} | environment,
    )
    assert done.returncode == 0, f"{done.returncode}: {done.stdout}{done.stderr}"
    return done.stdout
