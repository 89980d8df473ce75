"""Which BLAS has the process loaded for all? MLX's products on a CPU run on it."""

from __future__ import annotations

import ctypes
import os


def in_force() -> str | None:
    """The file of the BLAS that is loaded for all of this process. None if there is none."""
    symbol = getattr(ctypes.CDLL(None), "cblas_sgemm", None)
    if symbol is None:
        return None
    info = _DlInfo()
    ctypes.CDLL(None).dladdr(symbol, ctypes.byref(info))
    return os.fsdecode(info.file or b"linked in")


class _DlInfo(ctypes.Structure):
    """What the C library's `dladdr` says of an address."""

    _fields_ = (
        ("file", ctypes.c_char_p),
        ("base", ctypes.c_void_p),
        ("name", ctypes.c_char_p),
        ("address", ctypes.c_void_p),
    )
