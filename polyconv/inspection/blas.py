"""Which BLAS do MLX's products on a CPU run on, and where is a fast one?

MLX's Linux wheel brings the reference BLAS along, some 30 times slower than OpenBLAS. A library
that the process has loaded for all (`LD_PRELOAD`) is taken before it. Macs have Apple's own.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import mlx.core as mx

from polyconv.execution.loaded_blas import in_force
from polyconv.inspection.elf import without_prefix
from polyconv.problem.arguments import refuse, shown

__all__ = ["INSTALL", "find", "in_force", "is_slow", "preloaded"]

INSTALL = "pip install scipy-openblas32"
_WHEEL, _PREFIX = "scipy-openblas32", b"scipy_"
# Where Linux distributions and conda put an OpenBLAS that computes on several threads.
_FOLDERS = ("/usr/lib/*/openblas-pthread", "/usr/lib64", "/usr/lib", "/usr/lib/*")
_NAMES = ("libopenblas.so.0", "libopenblasp.so.0", "libopenblas.so")


def is_slow() -> bool:
    """Whether products are computed by the BLAS of MLX's Linux wheel."""
    is_on_cpu = mx.default_device().type == mx.cpu
    return platform.system() == "Linux" and is_on_cpu and not in_force()


def find() -> Path | None:
    """A fast BLAS of this machine that a process can be started with.

    In this order: what the environment variable ``POLYCONV_BLAS`` names, the wheel of the extra
    ``openblas``, this Python environment's own (conda), the system's. Each is first tried in a
    process of its own, since a library for another processor would end this one.

    Raises:
        ValueError: If what ``POLYCONV_BLAS`` names cannot be used.
    """
    named = os.environ.get("POLYCONV_BLAS")
    if named:
        if not _works(Path(named)):
            must = "it must name a library with cblas_sgemm that can be loaded"
            refuse("POLYCONV_BLAS", must, shown(named))
        return Path(named)
    return _of_wheel() or _of_system()


def _of_wheel() -> Path | None:
    try:
        wheel = distribution(_WHEEL)
    except PackageNotFoundError:
        return None
    found = [file for file in wheel.files or () if file.match("lib/libscipy_openblas*.so*")]
    if not found:
        return None
    source = Path(str(wheel.locate_file(found[0])))
    for folder in _folders():
        try:
            copy = _plain_copy(source, wheel.version, folder)
        except (ValueError, OSError):  # an unknown layout, or a folder without write access
            continue
        if _works(copy):
            return copy
    return None


def _folders() -> Iterator[Path]:
    """Where a copy may be kept: the user's cache, or else a temporary folder.

    `LD_PRELOAD` takes no path with a space or a colon.
    """
    with suppress(RuntimeError):  # there is no home
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache").absolute()
        if not {" ", ":"} & set(str(cache)):
            yield cache / "polyconv"
    mine = Path(tempfile.gettempdir()).absolute() / f"polyconv-{os.getuid()}"
    with suppress(OSError):
        mine.mkdir(mode=0o700, exist_ok=True)
        if mine.stat().st_uid == os.getuid() and not mine.stat().st_mode & 0o077:
            yield mine  # nobody else can put a library there


def _plain_copy(source: Path, version: str, folder: Path) -> Path:
    """The wheel's library under the names that MLX asks for, made once for each version."""
    status = source.stat()
    copy = folder / f"{status.st_size}-{status.st_mtime_ns}" / f"libopenblas-{version}.so"
    if not copy.exists():
        copy.parent.mkdir(parents=True, exist_ok=True)
        part = copy.with_suffix(f".{os.getpid()}")
        part.write_bytes(without_prefix(source.read_bytes(), _PREFIX))
        part.replace(copy)  # no other process sees a part of it
    return copy


def _of_system() -> Path | None:
    conda = Path(sys.prefix, "lib")
    folders = [conda, *(each for pattern in _FOLDERS for each in Path("/").glob(pattern[1:]))]
    for path in (folder / name for folder in folders for name in _NAMES):
        if path.exists() and _works(path):
            return path
    return None


def _works(path: Path) -> bool:
    """Whether a process that is started with this library finds `cblas_sgemm`."""
    code = "import ctypes; ctypes.CDLL(None).cblas_sgemm"
    command, env = [sys.executable, "-I", "-S", "-c", code], {**os.environ, "LD_PRELOAD": str(path)}
    done = subprocess.run(command, env=env, capture_output=True, check=False)
    return path.is_file() and done.returncode == 0


def preloaded() -> list[str]:
    """What `LD_PRELOAD` lists."""
    return os.environ.get("LD_PRELOAD", "").replace(":", " ").split()
