"""A random campaign over every public name, the command line and the readers of files.

    python -m tests.campaigns.fuzz --seconds 10 [--only NAME ...] [--seed 0] [--jobs 2]

runs each for so many seconds in child processes, so that one that crashes or hangs is seen and told
with what replays it:

    python -m tests.campaigns.fuzz --only NAME --seed 0 --replay 1234

Exits with 1 if any input crashed, hung or met an unclear error (`fuzz_judge.py` says what is one).
"""

from __future__ import annotations

import argparse
import faulthandler
import json
import os
import random
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "examples"))

from tests.campaigns import (  # noqa: E402
    fuzz_checkpoints,
    fuzz_commands,
    fuzz_distributed,
    fuzz_files,
    fuzz_models,
    fuzz_patching,
    fuzz_resampling,
    fuzz_streams,
)
from tests.campaigns.fuzz_calls import convolution  # noqa: E402
from tests.campaigns.fuzz_judge import Input, judged, small_machine  # noqa: E402

Generator = Callable[[random.Random], Input]

_CONVOLUTIONS = ("conv1d", "conv2d", "conv3d", "conv_general")
_CONVOLUTIONS += ("conv_transpose1d", "conv_transpose2d", "conv_transpose3d")
_LAYERS = ("", "1d", "2d", "3d")
_STREAMING = ("StreamingConv1d", "StreamingConvTranspose1d")

# Each name of `polyconv.__all__` and of `polyconv.distributed.__all__`;
# what stands in brackets is no name but takes input too.
_COMMANDS = ("explain", "bench", "tune", "doctor")
GENERATORS: dict[str, Generator] = {
    **{op: convolution(op) for op in _CONVOLUTIONS},
    **{name: fuzz_models.layer(name) for name in [f"PolyConvTranspose{n}" for n in _LAYERS]},
    **{name: fuzz_streams.streaming_layer(name) for name in _STREAMING},
    "ResampleStream": fuzz_resampling.resample_stream,
    "StreamCache": fuzz_streams.stream_cache,
    "StreamState": fuzz_streams.stream_state,
    "StreamedModel": fuzz_streams.streamed_model,
    **{f"distributed.{name}": each for name, each in fuzz_distributed.GENERATORS.items()},
    "convert": fuzz_models.convert,
    "doctor": fuzz_files.doctor,
    "explain": fuzz_files.explain,
    "explain_model": fuzz_models.explain_model,
    "exporting": fuzz_files.exporting,
    "pack": fuzz_files.pack,
    "patch": fuzz_patching.patch,
    "patched": fuzz_patching.patched,
    "planning_for": fuzz_files.planning_for,
    "register_converter": fuzz_models.register_converter,
    "resample_poly": fuzz_resampling.resample_poly,
    "revert": fuzz_models.revert,
    "stream": fuzz_streams.stream,
    "stream_flush": fuzz_streams.stream_flush,
    "stream_init": fuzz_streams.stream_init,
    "stream_step": fuzz_streams.stream_step,
    "tune": fuzz_files.tune,
    "unpatch": fuzz_patching.unpatch,
    "upfirdn": fuzz_resampling.upfirdn,
    "use_rates": fuzz_files.use_rates,
    "use_tuning": fuzz_files.use_tuning,
    "watch": fuzz_patching.watch,
    **{f"[polyconv {c}]": fuzz_commands.command_line(c) for c in _COMMANDS},
    "[bench --cases]": fuzz_files.cases_file,
    "[torch_file]": fuzz_checkpoints.torch_reader,
    "[checkpoint]": fuzz_checkpoints.checkpoint_reader,
}

# What the campaign itself is tested with: not run unless it is named.
_TESTS: dict[str, Generator] = {
    "(crash)": lambda rng: Input("crash", os.abort),
    "(hang)": lambda rng: Input("hang", lambda: time.sleep(1000)),
    "(unclear)": lambda rng: Input("unclear", lambda: {}["x"]),
}

_PER_CHILD = 4000  # inputs
_HANGS = 60.0  # seconds that no input may take
_BEGINS = 300.0  # nor a child until its first
_MOST_BYTES = 6 << 30  # that a child may hold: beyond it MLX ends the process, which is a crash


def drawn(name: str, seed: int, number: int) -> Input:
    return {**GENERATORS, **_TESTS}[name](random.Random(f"{seed}:{name}:{number}"))


@dataclass
class Found:
    """What a campaign over one name found."""

    counts: Counter[str] = field(default_factory=Counter)
    told: list[str] = field(default_factory=list)
    seconds: float = 0.0
    slowest: float = 0.0
    at: int = 0  # the number of the slowest


def child(name: str, seed: int, first: int, seconds: float, inputs: int) -> None:
    """Runs inputs one after the other, and says so: each number before, each outcome behind."""
    faulthandler.enable()
    resource.setrlimit(resource.RLIMIT_DATA, (_MOST_BYTES, _MOST_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    out, begin = sys.stdout, time.monotonic()
    try:
        with small_machine():
            for number in range(first, min(first + _PER_CHILD, inputs)):
                if time.monotonic() - begin > seconds:
                    break
                print(json.dumps([number]), file=out, flush=True)
                start = time.monotonic()
                kind, told = judged(drawn(name, seed, number))
                outcome = [kind, told if kind == "unclear" else "", time.monotonic() - start]
                print(json.dumps([number, *outcome]), file=out, flush=True)
    finally:
        shutil.rmtree(fuzz_files.FOLDER, ignore_errors=True)


def campaign(
    name: str, seed: int, seconds: float, hangs: float = _HANGS, inputs: int = sys.maxsize
) -> Found:
    """Inputs of a name for so many seconds, or so many, in children.

    What takes `hangs` seconds hangs.
    """
    found, number, begin = Found(), 0, time.monotonic()
    while (left := seconds - (time.monotonic() - begin)) > 0 and number < inputs:
        number = _watched(name, seed, number, left, hangs, found, inputs)
    found.seconds = time.monotonic() - begin
    return found


def _watched(
    name: str, seed: int, first: int, seconds: float, hangs: float, found: Found, inputs: int
) -> int:
    """One child. The number to go on with."""
    given = (seed, first, seconds, inputs)
    command = [sys.executable, "-m", "tests.campaigns.fuzz", "--child", name, *map(str, given)]
    number, is_begun = first - 1, False
    with (
        tempfile.TemporaryFile("w+") as log,
        subprocess.Popen(
            command, cwd=ROOT, stdout=subprocess.PIPE, stderr=log, text=True
        ) as process,
    ):
        watchdog = _Watchdog(process, hangs)
        for line in process.stdout or ():
            watchdog.seen()
            number, *outcome = json.loads(line)
            is_begun = not outcome
            if outcome:
                kind, told, spent = outcome
                found.counts[kind] += 1
                found.slowest, found.at = max((found.slowest, found.at), (spent, number))
                if told:
                    found.told.append(f"{name} --seed {seed} --replay {number}: {told}")
        code = process.wait()
        watchdog.stop()
        if code:
            log.seek(0)
            kind = "hang" if watchdog.has_killed else "crash"
            found.counts[kind] += 1
            lines = " | ".join(log.read()[-1500:].splitlines()[-12:])
            where = f"{name} --seed {seed} --replay {number}"
            found.told.append(f"{where}: {kind}, exit code {code}: {lines}")
            if not is_begun:  # not while an input was tried
                return sys.maxsize
    return number + 1


class _Watchdog:
    """Kills a process that has told nothing for too long."""

    def __init__(self, process: subprocess.Popen[str], hangs: float) -> None:
        self._process, self._last, self.has_killed = process, time.monotonic(), False
        self._hangs, self._most = hangs, _BEGINS
        self._pool = ThreadPoolExecutor(1)
        self._is_over = False
        self._pool.submit(self._watch)

    def seen(self) -> None:
        self._last, self._most = time.monotonic(), self._hangs

    def stop(self) -> None:
        self._is_over = True
        self._pool.shutdown()

    def _watch(self) -> None:
        while not self._is_over and self._process.poll() is None:
            if time.monotonic() - self._last > self._most:
                self.has_killed = True
                self._process.kill()
            time.sleep(0.2)


KINDS = ("result", "error", "unclear", "crash", "hang")


def table(found: dict[str, Found]) -> list[str]:
    rows = [
        f"{'':28}{'inputs':>9}{'results':>9}{'errors':>9}{'unclear':>9}{'crashes':>9}{'hangs':>7}"
    ]
    rows[0] += f"{'seconds':>9}{'slowest':>9}"
    total = Found()
    for name, each in found.items():
        rows.append(_row(name, each))
        total.counts += each.counts
        total.seconds += each.seconds
        total.slowest = max(total.slowest, each.slowest)
    return [*rows, _row(f"{len(found)} names", total)]


def _row(name: str, each: Found) -> str:
    counts = [sum(each.counts.values()), *[each.counts[kind] for kind in KINDS]]
    cells = "".join(f"{n:>{9 if i < 5 else 7}}" for i, n in enumerate(counts))
    return f"{name:28}{cells}{each.seconds:>9.1f}{each.slowest:>9.2f}  {each.at or ''}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=10.0, help="for each name")
    parser.add_argument("--only", nargs="+", choices=GENERATORS, metavar="NAME")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--replay", type=int, metavar="NUMBER", help="one input of --only, here")
    parser.add_argument("--most", type=int, default=20, help="how much is told of each name")
    parser.add_argument("--child", nargs=5, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        name, seed, first, seconds, inputs = args.child
        child(name, int(seed), int(first), float(seconds), int(inputs))
        return 0
    names = args.only or list(GENERATORS)
    if args.replay is not None:
        with small_machine():
            given = drawn(names[0], args.seed, args.replay)
            print(given.shown)
            print(*judged(given))
        return 0
    with ThreadPoolExecutor(args.jobs) as pool:
        found = dict(zip(names, pool.map(lambda n: campaign(n, args.seed, args.seconds), names)))
    for each in found.values():
        for line in each.told[: args.most]:
            print(line)
    print("\n".join(table(found)))
    failed = sum(each.counts[kind] for each in found.values() for kind in KINDS[2:])
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
