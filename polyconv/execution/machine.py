"""What is this machine called? What was timed on another says nothing of it."""

from __future__ import annotations

import os
import platform
from functools import cache
from pathlib import Path
from typing import Any

import mlx.core as mx

from polyconv.metal.gpus import multiplies_by_tf32


@cache
def names() -> dict[str, str]:
    """The CPU, and the GPU that MLX can use, each by its name in `BACKENDS`.

    Times are those of products too. So a CPU has the name of the BLAS and its threads, and a GPU
    says where it multiplies float32 by TF32.
    """
    found = {"cpu": _cpu()}
    if mx.metal.is_available():
        info = info_of(mx.gpu)
        by = multiplies_by_tf32(str(info["architecture"]), platform.mac_ver()[0])
        told = _tf32() if by else ""
        found["metal"] = f"{info.get('device_name', 'this Mac')}{told}"
    elif mx.is_available(mx.gpu):
        found["cuda"] = f"{info_of(mx.gpu).get('device_name', 'a GPU')}{_tf32()}"
    return found


def info_of(kind: mx.DeviceType) -> dict[str, Any]:
    """What MLX says of a device. Older versions know Apple's GPUs alone, by another name."""
    if hasattr(mx, "device_info"):
        return dict(mx.device_info(kind))
    return dict(mx.metal.device_info()) if kind == mx.gpu else {}


def _cpu() -> str:
    name = info_of(mx.cpu).get("device_name") or platform.processor() or "CPU"
    told = f"{name}, {platform.machine()}"
    if platform.system() != "Linux":
        return told
    asked = [os.environ.get(f"{kind}_NUM_THREADS", "") for kind in ("OPENBLAS", "OMP")]
    told = f"{told}, {next(filter(None, asked), os.cpu_count())} threads"
    from polyconv.execution.loaded_blas import in_force  # when it is needed: ctypes takes long

    blas = in_force()
    return f"{told}, {Path(blas).name if blas else 'the BLAS of the wheel of MLX'}"


def _tf32() -> str:
    return "" if os.environ.get("MLX_ENABLE_TF32", "1") == "0" else ", TF32"
