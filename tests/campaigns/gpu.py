"""The suite with an NVIDIA GPU as MLX's default device, each file in a process of its own.

    python -m tests.campaigns.gpu [--jobs 8] [--json told.json] [--seconds 500] [FILE ...]

Needs MLX's CUDA backend. Whatever ends a process is told, with the test in which it ended; the rest
of the file is then run without that test. A file that failed for want of memory, and for nothing
else, is run again alone, since others may have filled the GPU. Exits with 1 if then a test failed
or a process ended.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[2]
# These take minutes, so they begin first.
_LONGEST = ("streaming/test_graph.py", "campaigns/test_stream_models.py")
_LONGEST += ("streaming/test_restarts.py", "streaming/test_models_as_they_are.py")
_ENDS = 5  # times that a file may end its process
# MLX prepares a convolution anew for each shape, and takes a process that has met twice as many
# shapes as it keeps for one that thrashes its cache: by default after 256, as of 0.32.4. Of graphs,
# which take memory of the GPU, it keeps its 400, and may drop the oldest.
_ENVIRONMENT = {
    "MLX_CUDA_CONV_CACHE_SIZE": "1024",
    "MLX_ENABLE_CACHE_THRASHING_CHECK": "0",
    "MLX_CUDA_FFT_CACHE_SIZE": "1024",
    "MLX_MAX_MB_PER_BUFFER": "100",  # what runs as one graph, and is kept for it; 1000 by default
    "COLUMNS": "400",  # or pytest cuts reasons off
}
# Products in several threads end the process where MLX gathers CUDA graphs (docs/threads.md).
_IN_THREADS = {"MLX_USE_CUDA_GRAPHS": "0"}
_THREADS = re.compile(r"\b(in_threads|Thread(Pool(Executor)?)?)\(")


@dataclass
class Told:
    """What became of the tests of a file."""

    file: str
    counts: dict[str, int] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    ended: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0
    alone: bool = False  # run again, with nothing beside it


def run(file: str, options: list[str], until: float) -> Told:
    """Runs a file, again without a test that ended its process."""
    told, start, environment = Told(file), time.monotonic(), environment_of(file)
    for _ in range(_ENDS + 1):
        left = max(1.0, until - time.monotonic())
        without = [each for test in told.ended for each in ("--deselect", test)]
        command = [sys.executable, "-m", "pytest", "-v", "--tb=short", "-p", "no:cacheprovider"]
        command += ["-p", "no:faulthandler"]  # what it prints stands behind the name of the test
        status, out = _output([*command, *options, *without, file], environment, left)
        running = _read(out, told)
        if 0 <= status <= 1 or status == 5:  # as pytest ends, also without a test
            break
        where = running or f"{file} (outside of a test)"
        told.ended[where] = f"status {status}: {out[-600:]}"
        if running is None or status == 124:
            break
    told.seconds = round(time.monotonic() - start, 1)
    return told


def environment_of(file: str) -> dict[str, str]:
    """What is set for a file, unless it is set already."""
    has_threads = _THREADS.search((ROOT / file).read_text())
    return _ENVIRONMENT | (_IN_THREADS if has_threads else {})


def _output(command: list[str], environment: dict[str, str], seconds: float) -> tuple[int, str]:
    """Exit status, 124 after so many seconds, and all that was printed."""
    known = {**environment, **os.environ, "PYTHONPATH": _path(), "PYTHONUNBUFFERED": "1"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    with subprocess.Popen(command, cwd=ROOT, env=known, text=True, errors="replace", **pipes) as it:
        try:
            out, _ = it.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            it.kill()
            out, _ = it.communicate()
            return 124, out
    return it.returncode, out


def _path() -> str:
    given = os.environ.get("PYTHONPATH", "")
    return f"{ROOT}{os.pathsep}{given}" if given else str(ROOT)


_TEST = re.compile(r"tests/\S+?\.py::\w+(::\w+)?(\[.*\])?")
_OUTCOME = re.compile(r"^(\S+::.+?) (PASSED|FAILED|ERROR|SKIPPED|XFAIL|XPASS)\b", re.M)
_REASON = re.compile(r"^(?:FAILED|ERROR) (\S+::.+?)(?: - (.*))?$", re.M)


def _read(out: str, told: Told) -> str | None:
    """Adds the outcomes, and gives the test that has begun and has none."""
    found = dict(_OUTCOME.findall(out))
    told.counts = dict(Counter(found.values()))
    told.failed = {test: "" for test, what in found.items() if what in ("FAILED", "ERROR")}
    told.failed |= {test: why for test, why in _REASON.findall(out) if test in told.failed}
    begun = [line for line in out.splitlines() if _TEST.match(line)]
    if not begun or _OUTCOME.match(begun[-1]):
        return None
    last = _TEST.match(begun[-1])
    return last[0] if last else None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="*", help="default: all")
    parser.add_argument("--jobs", type=int, default=8, help="processes at a time")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--seconds", type=float, default=3600, help="for all together")
    parser.add_argument("-m", default="not slow and not memory", help="as of pytest")
    given = parser.parse_args()
    files = given.files or _in_order()
    until = time.monotonic() + given.seconds
    found = _results(files, given.jobs, ["-m", given.m], until, given.json)
    total: Counter[str] = Counter()
    for told in found:
        total.update(told.counts)
    ended = sum([len(each.ended) for each in found])
    alone = sum(told.alone for told in found)
    print(f"{dict(total)}, processes that ended: {ended}, files run again alone: {alone}")
    return int(bool(ended or total["FAILED"] or total["ERROR"]))


def _results(
    files: list[str], jobs: int, options: list[str], until: float, kept: Path | None
) -> list[Told]:
    """What became of all files, as it is told, and kept in a file of JSON."""
    found: list[Told] = []
    with ThreadPoolExecutor(jobs) as pool:
        for told in pool.map(lambda file: run(file, options, until), files):
            found.append(told)
            _tell(told)
            _keep(found, kept)
    for i, told in enumerate(found):
        if _lacked_memory_alone(told) and time.monotonic() < until:
            print("again, alone:", flush=True)
            found[i] = run(told.file, options, until)
            found[i].alone = True
            _tell(found[i])
            _keep(found, kept)
    return found


def _keep(found: list[Told], kept: Path | None) -> None:
    if kept:
        kept.write_text(json.dumps([asdict(each) for each in found], indent=1))


def _lacked_memory_alone(told: Told) -> bool:
    """Whether all that failed found no memory. A process that aborts cannot tell why it does."""
    found_none = ["out of memory" in why for why in told.failed.values()]
    aborted = f"status -{signal.SIGABRT.value}:"
    found_none += [why.startswith(aborted) for why in told.ended.values()]
    return bool(found_none) and all(found_none)


def _in_order() -> list[str]:
    """All files of tests, the longest first."""
    longest = [ROOT / "tests" / each for each in _LONGEST]
    others = set((ROOT / "tests").glob("*/test_*.py")) - set(longest)
    found = [*longest, *sorted(others, key=lambda each: -each.stat().st_size)]
    return [str(each.relative_to(ROOT)) for each in found]


def _tell(told: Told) -> None:
    print(f"{told.file}: {told.counts} in {told.seconds} s", flush=True)
    for test, why in told.failed.items():
        print(f"  failed: {test} - {why[:300]}", flush=True)
    for test, why in told.ended.items():
        print(f"  ended its process: {test} - {why[:60]}", flush=True)


if __name__ == "__main__":
    raise SystemExit(main())
