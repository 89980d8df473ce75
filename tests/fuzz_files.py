"""Generators of inputs for files, devices, explanations and the command line."""

from __future__ import annotations

import contextlib
import io
import json
import os
import pickle
import random
import re
import struct
import tempfile
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import checkpoint
import hifigan
import mlx.core as mx
import numpy as np
import torch_file
from fuzz_calls import legal
from fuzz_inputs import no_array, odd, shown
from fuzz_judge import Input
from fuzz_models import _mutated, _told

import polyconv
from polyconv import cases
from polyconv.__main__ import main
from polyconv.devices import DEVICES

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

    return Input(_told("pack", (w,)), call, legal=isinstance(w, mx.array))


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


# ---- checkpoints


class _Runs:
    """What a pickle of this names is called when it is read."""

    def __init__(self, function: Any, *args: Any) -> None:
        self._call = function, args

    def __reduce__(self) -> Any:
        return self._call


class _Name(str):
    """Pickled as the global of this name: module and name, a blank between."""


class _Stored(NamedTuple):
    pid: Any


class _Tensor(NamedTuple):
    args: tuple[Any, ...]


class _Pickler(pickle._Pickler):  # type: ignore[name-defined]
    """The one in Python, which can be made to write the names of classes that are not here."""

    def save_global(self, obj: Any, name: Any = None) -> None:
        self.write(pickle.GLOBAL + f"{obj.__module__}\n{obj.__name__}\n".encode())

    def save_name(self, obj: _Name) -> None:
        module, name = obj.split(" ")
        self.write(pickle.GLOBAL + f"{module}\n{name}\n".encode())

    def save_tensor(self, obj: _Tensor) -> None:
        self.save(_Name("torch._utils _rebuild_tensor_v2"))
        self.save(obj.args)
        self.write(pickle.REDUCE)

    def persistent_id(self, obj: Any) -> Any:
        return obj.pid if isinstance(obj, _Stored) else None

    dispatch: ClassVar = {**pickle._Pickler.dispatch, _Name: save_name, _Tensor: save_tensor}  # type: ignore[attr-defined]


def _pickled(obj: Any) -> bytes:
    buffer = io.BytesIO()
    _Pickler(buffer, 2).dump(obj)
    return buffer.getvalue()


def torch_bytes(tree: Any, storages: dict[str, bytes], compress: bool = False) -> bytes:
    """A checkpoint as `torch.save` writes it, of any tree."""
    buffer = io.BytesIO()
    how = zipfile.ZIP_DEFLATED if compress else zipfile.ZIP_STORED
    with zipfile.ZipFile(buffer, "w", how) as archive:
        archive.writestr("archive/data.pkl", _pickled(tree))
        archive.writestr("archive/byteorder", "little")
        for key, data in storages.items():
            archive.writestr(f"archive/data/{key}", data)
        archive.writestr("archive/version", "3\n")
    return buffer.getvalue()


def legacy_bytes(tree: Any, storages: dict[str, bytes], itemsize: int = 4) -> bytes:
    parts = [pickle.dumps(torch_file.LEGACY_MAGIC, 2), pickle.dumps(1001, 2)]
    parts += [pickle.dumps({"little_endian": True}, 2), _pickled(tree)]
    parts.append(pickle.dumps(list(storages), 2))
    parts += [struct.pack("<q", len(data) // itemsize) + data for data in storages.values()]
    return b"".join(parts)


def tensor(key: str, shape: tuple[Any, ...], numel: int | None = None, **odd_parts: Any) -> Any:
    parts = {"kind": "FloatStorage", "offset": 0, "tag": "storage", **odd_parts}
    n = int(np.prod(shape)) if numel is None else numel
    strides = parts.get("strides") or tuple(int(np.prod(shape[i + 1 :])) for i in range(len(shape)))
    stored = _Stored((parts["tag"], _Name(f"torch {parts['kind']}"), key, "cpu", n))
    return _Tensor((stored, parts["offset"], shape, strides, False, OrderedDict()))


def _touch(path: str) -> None:
    Path(path).touch()


def _torch_content(rng: random.Random) -> tuple[str, bytes]:
    data = np.arange(6, dtype=np.float32).tobytes()
    writer = rng.choice((torch_bytes, legacy_bytes))
    kind = rng.randrange(9)
    shape: tuple[Any, ...] = (2, 3)
    tree: Any = OrderedDict(a=tensor("0", shape))
    if kind == 0:
        FOLDER.mkdir(exist_ok=True)
        evil = rng.choice(
            (
                _Runs(os.system, f"touch {TRACE}"),
                _Runs(_touch, str(TRACE)),
                _Runs(eval, f"open({str(TRACE)!r}, 'w')"),
                _Runs(open, str(TRACE), "w"),
                _Runs(exec, f"open({str(TRACE)!r}, 'w')"),
            )
        )
        return "runs code", writer(rng.choice(({"a": evil}, [tree, evil], evil)), {"0": data})
    if kind == 1:
        size = rng.choice((2**40, 2**62, -1, 0, 7, 10**30))
        return "declares sizes", writer({"a": tensor("0", (size,), size)}, {"0": data})
    if kind == 2:
        odd_parts = rng.choice(
            (
                {"offset": rng.choice((-1, 1, 2**62, "x"))},
                {"strides": rng.choice(((-1, 1), (2**61, 1), (0, 0), (1,), (1, 2, 3), ("a", 1)))},
                {"kind": rng.choice(("NoStorage", "BoolStorage", "DoubleStorage", "os"))},
                {"tag": rng.choice(("module", 1, None))},
            )
        )
        return f"odd {odd_parts}", writer({"a": tensor("0", shape, **odd_parts)}, {"0": data})
    if kind == 3:
        return "missing storage", writer(tree, {})
    if kind == 4:
        return "zip bomb", torch_bytes({"a": tensor("0", (2**26,))}, {"0": bytes(2**20)}, True)
    if kind == 5:
        nested: Any = []
        for _ in range(rng.choice((10, 500, 3000, 100_000))):
            nested = [nested]
        with contextlib.suppress(RecursionError):
            return "nested", writer(nested, {})
        return "nested", b"\x80\x02" + b"]" * 10**5 + b"a" * (10**5 - 1) + b"."
    if kind == 6:
        return "random", bytes(rng.randrange(256) for _ in range(rng.choice((0, 1, 30, 900))))
    if kind == 7:
        ops = rng.choice(
            (b"\x80\x02.", b"(d.", b"]q\x00h\x00.", b"\x80\x02]q\x00h\x00a.", b"I1\n.")
        )
        return "pickle", ops
    return "whole", writer(tree, {"0": data})


def torch_reader(rng: random.Random) -> Input:
    told, content = _torch_content(rng)
    if rng.random() < 0.5:
        told, content = f"{told}, damaged", _damaged(rng, content)
    path = _file("model.pt", content)

    def call() -> Any:
        try:
            return torch_file.load_torch_file(path)
        finally:
            assert not TRACE.exists(), "a pickle was executed"

    return Input(f"torch_file of {told}: {content[:200]!r}", call, allowed=(_EXAMPLE,))


# Examples have no `[op]`: theirs is `path: what is wrong`, in one line.
_EXAMPLE = (ValueError, r"(?s)^[^\n]{1,80}model\.(pt|safetensors): [^\n]{1,300}$")
_GENERATOR = hifigan.GeneratorConfig((4, 2), (8, 4), 4, 2, (3,), ((1, 3),))


def checkpoint_reader(rng: random.Random) -> Input:
    generator = hifigan.Generator(_GENERATOR)
    from mlx.utils import tree_flatten

    arrays = {k: np.array(v) for k, v in tree_flatten(generator.parameters())}
    flipped = {k: checkpoint._torch_shape(k, v.shape) for k, v in arrays.items()}
    tensors = {k: np.resize(v, flipped[k]) for k, v in arrays.items()}
    kind = rng.randrange(6)
    key = rng.choice(list(tensors))
    if kind == 0:
        tensors[key] = tensors[key].reshape(-1)[: rng.choice((0, 1))]
    elif kind == 1:
        del tensors[key]
    elif kind == 2:
        tensors[rng.choice(("x", "a\nb", "", "weight_g", "ups.0.weight_v"))] = np.ones(
            2, np.float32
        )
    elif kind == 3:
        tensors[key] = np.full_like(tensors[key], rng.choice((np.nan, np.inf)))
    safetensors = rng.random() < 0.5
    FOLDER.mkdir(exist_ok=True)
    if safetensors:
        path = FOLDER / "model.safetensors"
        mx.save_safetensors(str(path), {k: mx.array(v) for k, v in tensors.items()})
    else:
        tree = {k: tensor(str(i), v.shape) for i, (k, v) in enumerate(tensors.items())}
        storages = {str(i): v.tobytes() for i, v in enumerate(tensors.values())}
        path = _file("model.pt", torch_bytes({"generator": tree}, storages))
    damaged = rng.random() < 0.5
    if damaged:
        path.write_bytes(_damaged(rng, path.read_bytes()))
    call = lambda: checkpoint.load_checkpoint(generator, path)  # noqa: E731
    told = f"checkpoint {path.suffix} kind {kind} {key} damaged {damaged}"
    return Input(told, call, legal=kind > 3 and not damaged, allowed=(_EXAMPLE,))


# ---- the command line

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


def command_line(command: str) -> Any:
    def draw(rng: random.Random) -> Input:
        argv = _bench_argv(rng) if command == "bench" else _argv(rng, command)
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
