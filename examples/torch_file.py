"""Reads the tensors of a PyTorch checkpoint without PyTorch and without running its code.

Answers: which arrays does this ``.pt`` file hold? ``torch.save`` writes a pickle, and a pickle
can call any function it names; the unpickler here knows the few names a state_dict needs,
gives each a harmless stand-in, and refuses every other. Formats: torch/serialization.py.
"""

from __future__ import annotations

import io
import pickle
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

# First pickle of a file written before PyTorch 1.6 (torch/serialization.py, MAGIC_NUMBER).
LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
LEGACY_PROTOCOL = 1001

# Byte order as numpy.dtype and struct write it.
Mark = Literal["<", ">"]
_MARKS: dict[str, Mark] = {"little": "<", "big": ">"}

# NumPy has no bfloat16: read its bits, and widen them in `_as_numpy`.
_BFLOAT16 = "bfloat16"
_STORAGE_DTYPES = {
    "FloatStorage": "f4",
    "DoubleStorage": "f8",
    "HalfStorage": "f2",
    "BFloat16Storage": _BFLOAT16,
    "LongStorage": "i8",
    "IntStorage": "i4",
    "ShortStorage": "i2",
    "CharStorage": "i1",
    "ByteStorage": "u1",
    "BoolStorage": "?",
}


# The stand-ins are tuples because a pickle can set attributes on ordinary objects, frozen
# dataclasses included, and so undo a bounds check after it passed.


class StorageType(NamedTuple):
    """Stands in for a ``torch.*Storage`` class while unpickling."""

    dtype: str

    @property
    def itemsize(self) -> int:
        """Bytes of one element."""
        return 2 if self.dtype == _BFLOAT16 else np.dtype(self.dtype).itemsize


class Storage(NamedTuple):
    """A flat buffer named by the pickle; its bytes are read afterwards."""

    type: StorageType
    key: str
    numel: int


class PendingTensor(NamedTuple):
    """A strided view into a storage, as the pickle describes it (counts in elements)."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def load_torch_file(path: Path) -> Any:
    """The object that ``torch.save`` wrote, with NumPy arrays in place of tensors.

    Args:
        path: file in PyTorch's zip format (1.6 and later) or in the legacy one.

    Returns:
        Nested dicts, lists and tuples; bfloat16 comes back as float32.

    Raises:
        ValueError: if the pickle names anything but tensors and plain containers, or the
            file is truncated, damaged or not a PyTorch checkpoint.
    """
    try:
        with path.open("rb") as file:
            if zipfile.is_zipfile(file):
                return _load_zip(file)
            file.seek(0)
            # Zip's magic without its directory, which sits at the end: a cut-off download.
            if file.read(4) == b"PK\x03\x04":
                raise ValueError("the zip archive is truncated")
            file.seek(0)
            return _load_legacy(file)
    except OSError:
        raise
    except ValueError as error:
        raise ValueError(f"{path}: {_one_line(error)}") from error
    except Exception as error:
        # The pickle machine meets hostile or cut-off bytes with almost any exception type.
        raise ValueError(
            f"{path}: damaged or not a PyTorch checkpoint"
            f" ({type(error).__name__}: {_one_line(error)})"
        ) from error


def _one_line(error: Exception) -> str:
    """Its text, which may quote any bytes of the file."""
    return " ".join(str(error).split())[:200]


class _Unpickler(pickle.Unpickler):
    """Resolves the names a state_dict needs; storages stay descriptions."""

    def __init__(self, file: Any) -> None:
        super().__init__(file)
        self.item_sizes: dict[str, int] = {}

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            # A fresh function each time: a pickle may set attributes on what it gets.
            return lambda *args: _pending_tensor(*args)
        if (module, name) == ("torch", "Size"):
            return lambda sizes=(): tuple(sizes)
        if module == "torch" and name in _STORAGE_DTYPES:
            return StorageType(_STORAGE_DTYPES[name])
        raise ValueError(
            f"refused to load: the pickle names {module}.{name}, which a state_dict does not need"
        )

    def persistent_load(self, pid: Any) -> Storage:
        tag, storage_type, key, _location, numel, *view = pid
        if tag != "storage" or not isinstance(storage_type, StorageType):
            raise ValueError(f"the pickle refers to something that is not a storage: {tag!r}")
        if any(part is not None for part in view):
            raise ValueError("storages that are views of others (PyTorch before 0.4) are not read")
        self.item_sizes[str(key)] = storage_type.itemsize
        return Storage(storage_type, str(key), int(numel))


def _pending_tensor(
    storage: Storage, offset: int, shape: tuple[int, ...], strides: tuple[int, ...], *_rest: Any
) -> PendingTensor:
    """Check a tensor's extent against its storage before any memory is allocated for it."""
    if not isinstance(storage, Storage) or len(shape) != len(strides):
        raise ValueError("the pickle describes a malformed tensor")
    count = 1
    for size in shape:
        count *= size
    if min((*shape, *strides, offset)) < 0 or count > storage.numel:
        raise ValueError(f"a tensor of shape {tuple(shape)} does not fit its storage")
    last = offset + sum((n - 1) * step for n, step in zip(shape, strides))
    if count and last >= storage.numel:
        raise ValueError(f"a tensor of shape {tuple(shape)} reaches beyond its storage")
    return PendingTensor(storage, offset, tuple(shape), tuple(strides))


def _as_numpy(tensor: PendingTensor, data: bytes, byteorder: Mark) -> np.ndarray:
    dtype = tensor.storage.type.dtype
    if len(data) != tensor.storage.numel * tensor.storage.type.itemsize:
        raise ValueError(
            f"storage {tensor.storage.key} has {len(data)} bytes where "
            f"{tensor.storage.numel} elements of {dtype} were announced"
        )
    bits = np.dtype("u2" if dtype == _BFLOAT16 else dtype).newbyteorder(byteorder)
    flat = np.frombuffer(data, bits)[tensor.offset :]
    steps = tuple(step * bits.itemsize for step in tensor.strides)
    view = np.lib.stride_tricks.as_strided(flat, tensor.shape, steps, writeable=False)
    array = view.astype(bits.newbyteorder("="))
    if dtype == _BFLOAT16:
        # bfloat16 is the upper half of a float32.
        array = (array.astype(np.uint32) << 16).view(np.float32)
    return array


def _resolve(node: Any, fetch: Callable[[PendingTensor], np.ndarray]) -> Any:
    if isinstance(node, PendingTensor):
        return fetch(node)
    if isinstance(node, dict):
        return {key: _resolve(value, fetch) for key, value in node.items()}
    if isinstance(node, (list, tuple)):
        return type(node)(_resolve(value, fetch) for value in node)
    return node


def _load_zip(file: io.BufferedReader) -> Any:
    with zipfile.ZipFile(file) as archive:
        pickles = [name for name in archive.namelist() if name.endswith("/data.pkl")]
        if len(pickles) != 1:
            raise ValueError("a zip archive, but not one that torch.save wrote (no data.pkl)")
        if any(info.compress_type != zipfile.ZIP_STORED for info in archive.infolist()):
            # torch.save never compresses, and a small entry could inflate to any size.
            raise ValueError("the zip archive is compressed, which torch.save never does")
        prefix = pickles[0][: -len("data.pkl")]
        tree = _Unpickler(io.BytesIO(archive.read(pickles[0]))).load()
        order = "little"
        if f"{prefix}byteorder" in archive.namelist():
            order = archive.read(f"{prefix}byteorder").decode()
        mark = _MARKS[order]

        def fetch(tensor: PendingTensor) -> np.ndarray:
            return _as_numpy(tensor, archive.read(f"{prefix}data/{tensor.storage.key}"), mark)

        return _resolve(tree, fetch)


def _load_legacy(file: io.BufferedReader) -> Any:
    """Four pickles (magic, protocol, system, object), the storage keys, then the storages."""
    if _Unpickler(file).load() != LEGACY_MAGIC:
        raise ValueError("not a PyTorch checkpoint")
    if _Unpickler(file).load() != LEGACY_PROTOCOL:
        raise ValueError("a legacy checkpoint of an unknown protocol version")
    mark = _MARKS["little" if _Unpickler(file).load()["little_endian"] else "big"]
    unpickler = _Unpickler(file)
    tree = unpickler.load()
    contents = {}
    for key in _Unpickler(file).load():
        contents[str(key)] = _read_storage(file, unpickler.item_sizes.get(str(key)), mark)

    def fetch(tensor: PendingTensor) -> np.ndarray:
        return _as_numpy(tensor, contents[tensor.storage.key], mark)

    return _resolve(tree, fetch)


def _read_storage(file: io.BufferedReader, item_size: int | None, mark: Mark) -> bytes:
    if item_size is None:
        raise ValueError("the file holds a storage that no tensor uses")
    (count,) = struct.unpack(f"{mark}q", file.read(8))
    size = count * item_size
    data = file.read(size) if count >= 0 else b""
    if len(data) != size:
        raise ValueError("the file is truncated")
    return data
