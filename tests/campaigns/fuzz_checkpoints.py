"""Generators of checkpoints: whole, damaged, and such as would run code or fill the memory."""

from __future__ import annotations

import contextlib
import io
import os
import pickle
import random
import struct
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import checkpoint
import hifigan
import mlx.core as mx
import numpy as np
import torch_file

from tests.campaigns.fuzz_files import FOLDER, _damaged, _file
from tests.campaigns.fuzz_judge import Input

TRACE = FOLDER / "executed"


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
