"""Generators of inputs for files, devices, explanations and the command line."""

from __future__ import annotations

import json
import os
import random
import re
import tempfile
import warnings
from pathlib import Path
from typing import Any

import mlx.core as mx

import polyconv
from polyconv.bench import cases
from polyconv.execution.device import is_on_cpu
from polyconv.planning.devices import DEVICES
from polyconv.problem.signatures import problem_of
from tests.campaigns.fuzz_calls import legal
from tests.campaigns.fuzz_inputs import no_array, odd
from tests.campaigns.fuzz_judge import Input
from tests.campaigns.fuzz_models import _mutated, _told
from tests.support.tuned import entry, file_of

FOLDER = Path(tempfile.gettempdir()) / f"polyconv-fuzz-{os.getpid()}"
TRACE = FOLDER / "executed"
_OPS = ("conv_transpose1d", "conv_transpose2d", "conv_transpose3d", "conv_general")


def _file(name: str, content: bytes) -> Path:
    FOLDER.mkdir(exist_ok=True)
    path = FOLDER / name
    path.write_bytes(content)
    return path


def pack(rng: random.Random) -> Input:
    w = no_array(rng)

    def call() -> Any:
        packed = polyconv.pack(w)
        repr(packed)
        return packed.shape, packed.dtype

    is_legal = isinstance(w, mx.array) and (w.dtype != mx.float64 or is_on_cpu(None))
    return Input(_told("pack", (w,)), call, legal=is_legal)


def explain(rng: random.Random) -> Input:
    op: Any = rng.choice(_OPS)
    x_shape, w_shape, options = legal(rng, op)
    kwargs: dict[str, Any] = {"op": op, "input": x_shape, "weight": w_shape, **options}
    kwargs |= {"dtype": "float32", "device": rng.choice((None, *DEVICES))}
    if rng.random() < 0.2:
        kwargs["max_workspace"] = rng.choice((1, 1000, odd(rng)))
    is_odd = _mutated(rng, kwargs) or "max_workspace" in kwargs

    def call() -> Any:
        told = polyconv.explain(**kwargs)
        str(told), json.dumps(told.to_dict())

    return Input(_told("explain", (), kwargs), call, legal=not is_odd)


def planning_for(rng: random.Random) -> Input:
    name = rng.choice((*DEVICES, "cpu", "cuda", odd(rng), odd(rng), "M4-MAX", "m4-max "))

    def call() -> Any:
        with polyconv.planning_for(name):
            return polyconv.conv_transpose1d(mx.ones((1, 4, 1)), mx.ones((1, 2, 1)), 2)

    check = lambda y: "" if mx.array_equal(y, mx.ones((1, 8, 1))).item() else "wrong"  # noqa: E731
    return Input(_told("planning_for", (name,)), call, check)


def exporting(rng: random.Random) -> Input:
    args = (odd(rng),) if rng.random() < 0.2 else ()

    def call() -> Any:
        with polyconv.exporting(*args):
            return polyconv.conv_transpose1d(mx.ones((1, 4, 1)), mx.ones((1, 2, 1)), 2)

    check = lambda y: "" if mx.array_equal(y, mx.ones((1, 8, 1))).item() else "wrong"  # noqa: E731
    return Input(_told("exporting", args), call, check)


def doctor(rng: random.Random) -> Input:
    args = (odd(rng),) if rng.random() < 0.5 else ()
    return Input(_told("doctor", args), lambda: polyconv.doctor(*args), legal=not args)


_RATES = {
    "rates": {
        "cpu": {
            "per_mac": 1e-11,
            "per_conv": 1e-6,
            "per_byte_moved": 1e-10,
            "per_panel_mac": 1e-11,
            "per_product": 1e-6,
            "per_mac_in_loops": 1e-9,
        }
    },
    "rows": [],
}


def _damaged(rng: random.Random, content: bytes) -> bytes:
    """Cut off, with bytes exchanged, doubled, or put in."""
    data = bytearray(content)
    for _ in range(rng.choice((0, 1, 1, 2, 4))):
        at = rng.randrange(len(data) + 1)
        kind = rng.randrange(5)
        if kind == 0:
            del data[at:]
        elif kind == 1 and data:
            data[at % len(data)] = rng.randrange(256)
        elif kind == 2:
            data[at:at] = bytes(rng.randrange(256) for _ in range(rng.choice((1, 3, 50))))
        elif kind == 3:
            data[at:at] = data[at : at + 40]
        else:
            del data[at : at + rng.choice((1, 8, 60))]
    return bytes(data)


def _odd_json(rng: random.Random, value: Any) -> Any:
    """The same tree with one of its values exchanged."""
    odd_values = (
        None,
        [],
        {},
        "x",
        -1,
        2.5,
        1e400,
        10**400,
        True,
        [[1]],
        "1e-9",
        {"a": 1},
        "\ud800",
    )
    if rng.random() < 0.3 or not isinstance(value, (dict, list)) or not value:
        return rng.choice(odd_values)
    made = dict(value) if isinstance(value, dict) else list(value)
    key = rng.choice(list(made)) if isinstance(made, dict) else rng.randrange(len(made))
    made[key] = _odd_json(rng, made[key])
    if isinstance(made, dict) and rng.random() < 0.2:
        made[rng.choice(("nonsense", "", "cuda", "cpu"))] = rng.choice(odd_values)
    return made


def use_rates(rng: random.Random) -> Input:
    kind = rng.random()
    path: Any = odd(rng)
    text = json.dumps(_RATES)
    if kind < 0.4:
        text = json.dumps(_odd_json(rng, _RATES))
        path = _file("rates.json", text.encode())
    elif kind < 0.8:
        path = _file("rates.json", _damaged(rng, text.encode()))
    elif kind < 0.9:
        path = rng.choice((FOLDER, "", "/nowhere/at/all", str(_file("rates.json", b"")), None))

    def call() -> Any:
        try:
            polyconv.use_rates(path)
            y = polyconv.conv_transpose1d(mx.ones((1, 4, 1)), mx.ones((1, 2, 1)), 2)
            return mx.array_equal(y, mx.ones((1, 8, 1))).item()
        finally:
            polyconv.use_rates(None)

    check = lambda right: "" if right else "wrong after it"  # noqa: E731
    return Input(f"{_told('use_rates', (path,))} {_content(path)}", call, check)


def _times_file(rng: random.Random) -> Any:
    """Times of a layer on this machine, or something like that."""
    problem = problem_of("conv_transpose1d", (1, 4, 1), (1, 2, 1), "float32", {"stride": 2})
    text = file_of([entry(problem, "per_phase", "stacked", packed=rng.random() < 0.5)])
    kind = rng.random()
    if kind < 0.4:
        return _file("tuning.json", json.dumps(_odd_json(rng, json.loads(text))).encode())
    if kind < 0.8:
        return _file("tuning.json", _damaged(rng, text.encode()))
    return rng.choice((FOLDER, "", "/nowhere/at/all", str(_file("tuning.json", b"")), odd(rng)))


def use_tuning(rng: random.Random) -> Input:
    path = None if rng.random() < 0.05 else _times_file(rng)
    kwargs = {"allow_unfold": odd(rng)} if rng.random() < 0.1 else {}

    def call() -> Any:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of a device that is none
                polyconv.use_tuning(path, **kwargs)
            y = polyconv.conv_transpose1d(mx.ones((1, 4, 1)), mx.ones((1, 2, 1)), 2)
            return mx.array_equal(y, mx.ones((1, 8, 1))).item()
        finally:
            polyconv.use_tuning(None)

    check = lambda right: "" if right else "wrong after it"  # noqa: E731
    return Input(f"{_told('use_tuning', (path,), kwargs)} {_content(path)}", call, check)


def tune(rng: random.Random) -> Input:
    op = rng.choice(_OPS)
    x_shape, w_shape, options = legal(rng, op)
    given: dict[str, Any] = {"op": op, "input": x_shape, "weight": w_shape, **options}
    is_odd = _mutated(rng, given)
    kwargs: dict[str, Any] = {"rounds": 1, "seconds": 1e-9}
    if rng.random() < 0.3:
        kwargs["path"], is_odd = _times_file(rng), True
    if rng.random() < 0.2:
        is_odd = True
        kwargs[rng.choice(("dtype", "rounds", "seconds", "allow_unfold", "progress"))] = odd(rng)
    calls: Any = [given]
    if rng.random() < 0.1:
        calls, is_odd = odd(rng), True
        calls = 3 if callable(calls) else calls  # what a model raises is its own
    call = lambda: str(polyconv.tune(calls, **kwargs))  # noqa: E731
    return Input(_told("tune", (calls,), kwargs), call, legal=not is_odd)


def _content(path: Any) -> str:
    try:
        return repr(Path(path).read_bytes()[:300]) if isinstance(path, Path) else ""
    except OSError:
        return ""


_TOML = b"""[[case]]
name = "a"
op = "conv_transpose1d"
input = [1, 8, 2]
weight = [2, 4, 2]
stride = 2

[[case]]
name = "b"
op = "conv_transpose2d"
input = [1, 3, 3, 2]
weight = [2, 2, 2, 2]
stride = [2, 2]
groups = 1
"""
_CSV = b"""model,dims,groups,N,S,C,O,K,stride,padding,output_padding,dilation
m,1,1,1,8,2,2,4,2,1,0,1
m,2,1,1,3x3,2,2,2x2,2,0,0,1
"""


def cases_file(rng: random.Random) -> Input:
    name, content = rng.choice((("c.toml", _TOML), ("c.csv", _CSV)))
    if rng.random() < 0.4:
        words = re.split(rb"(\W)", content)
        words[rng.randrange(len(words))] = rng.choice(
            (b"", b"x", b"-1", b"0", b"9" * 30, b"\x00", b"2x2x2")
        )
        content = b"".join(words)
    else:
        content = _damaged(rng, content)
    path = _file(name, content)
    read = lambda: cases.read(path)  # noqa: E731
    return Input(f"cases.read of {content[-400:]!r}", read)
