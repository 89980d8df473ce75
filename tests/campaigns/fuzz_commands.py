"""Generators of command lines."""

from __future__ import annotations

import contextlib
import io
import json
import random
import re
from typing import Any

from polyconv.__main__ import main
from tests.campaigns.fuzz_files import _OPS, _TOML, FOLDER, _damaged, _file, _odd_json
from tests.campaigns.fuzz_inputs import shown
from tests.campaigns.fuzz_judge import Input

_WORDS = (
    "",
    "0",
    "-1",
    "2",
    "1,2",
    "1,,2",
    "x",
    "2.5",
    "9" * 30,
    "9" * 5000,
    "1,8,2",
    "a\nb",
    "--",
    "²",
)
_OPTIONS = ("stride", "padding", "dilation", "output-padding", "kernel-dilation", "input-dilation")
_MORE = ("padding-lo", "padding-hi", "groups", "dtype", "device", "max-workspace", "batch", "model")


def _argv(rng: random.Random, command: str) -> list[str]:
    argv = [command]
    if command == "doctor":
        return argv + ([rng.choice(_WORDS)] if rng.random() < 0.5 else [])
    argv += [rng.choice((*_OPS, *_OPS, "conv1d", *_WORDS))] if rng.random() < 0.95 else []
    ndim = 1 if argv[-1] not in _OPS[1:3] else int(argv[-1][-2])
    size, kernel = ",".join(["8"] * ndim), ",".join(["4"] * ndim)
    argv += ["--input", rng.choice((f"1,{size},2",) * 4 + _WORDS)]
    argv += ["--weight", rng.choice((f"2,{kernel},2",) * 4 + _WORDS)]
    for _ in range(rng.choice((0, 1, 2))):
        option = rng.choice((*_OPTIONS, *_MORE, "flip", "json", "nonsense"))
        argv.append(f"--{option}")
        if option not in ("flip", "json"):
            words = (
                *_WORDS,
                "m4-max",
                "float16",
                "float64",
                "json:loads",
                "nowhere:x",
                "os:nothing",
            )
            argv.append(rng.choice(words) if option != "batch" else _rows_file(rng))
    return argv


_ROW = {
    "x": [1, 8, 2],
    "w": [2, 4, 2],
    "dtype": "float32",
    "groups": 1,
    "stride": [1],
    "padding_lo": [0],
    "padding_hi": [0],
    "kernel_dilation": [1],
    "input_dilation": [2],
    "flip": False,
}


def _rows_file(rng: random.Random) -> str:
    row = json.dumps(_odd_json(rng, _ROW) if rng.random() < 0.7 else _ROW).encode()
    content = rng.choice((row, row + b"\n" + row, _damaged(rng, row), b""))
    return rng.choice((str(_file("rows.jsonl", content)), "/nowhere"))


def _bench_argv(rng: random.Random) -> list[str]:
    """Only what is over at once: a tiny call, once, or what is refused."""
    argv = _argv(rng, "bench")
    argv += ["--rounds", rng.choice(("1", "1", "0", "-1", "x", "", "2.5"))]
    argv += ["--seconds", rng.choice(("0", "nan", "-1", "x", "1e400"))]
    if rng.random() < 0.3:
        path = rng.choice((str(_file("bench.toml", _damaged(rng, _TOML))), "/nowhere", str(FOLDER)))
        argv += ["--cases", path, "--case", rng.choice(("a", "nothing", ""))]
    if rng.random() < 0.3:
        argv += ["--methods", rng.choice(("", "auto", "x", "native,native", "taps,"))]
    if rng.random() < 0.2:
        argv += ["--rivals", rng.choice(("nobody", "", ",", "upfirdn"))]
    if rng.random() < 0.1:
        argv += [
            "--calibrate",
            "/nowhere/at/all/rates.json",
            "--layers",
            rng.choice(("0", "x", "1")),
        ]
    return argv


def _tune_argv(rng: random.Random) -> list[str]:
    argv = [*_argv(rng, "tune"), "--rounds", rng.choice(("1", "1", "0", "-1", "x", "2.5"))]
    argv += ["--seconds", rng.choice(("1e-9", "1e-9", "nan", "-1", "x"))]
    out = rng.choice((str(FOLDER / "new.json"), str(_file("tuned.json", b"{}")), "/nowhere/at/all"))
    return [*argv, "--out", out, *rng.choice(((), (), ("--packed",), ("--allow-unfold",)))]


_ARGV = {"bench": _bench_argv, "tune": _tune_argv}


def command_line(command: str) -> Any:
    def draw(rng: random.Random) -> Input:
        argv = _ARGV[command](rng) if command in _ARGV else _argv(rng, command)
        out, err = io.StringIO(), io.StringIO()

        def call() -> Any:
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                try:
                    return main(argv)
                except SystemExit as leave:
                    return leave.code

        def check(code: Any) -> str:
            told = err.getvalue()
            if code == 0:
                return f"0, but {told!r}" if told else ""
            lines = told.splitlines()
            if code != 2 or len(lines) != 1 or len(told) > 400 or "Traceback" in told:
                return f"code {code} and {told[:500]!r}"
            return "" if re.match(r"polyconv( \w+)?: .", told) else f"told {told!r}"

        return Input(f"polyconv {shown(argv)}", call, check)

    return draw
