"""What can each Apple GPU do, and does it round products of float32? Standard library only."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache


@dataclass(frozen=True, slots=True)
class Gpu:
    """What a GPU can do: cores, float32 TFLOP/s at its peak, and GB/s of its memory.

    With `has_accelerators` products of halves run on units of their own, as on an M5. With
    `is_assumed` nothing was published of it, and these are another one's numbers.
    """

    cores: int
    tflops: float
    bandwidth: float
    has_accelerators: bool = False
    is_assumed: bool = False

    @property
    def is_small(self) -> bool:
        """Whether MLX takes it for one of the small ones, whose products have other tiles."""
        return self.cores <= 10


# As collected in public tables, logs and issues. A chip was sold with several numbers of cores, and
# MLX does not tell them: these are the most. M1: README of philipturner/metal-benchmarks, and the
# M2 Max and Ultra from its rate of a core. M3 to M5: huggingface.js #1044 and
# huggingface.co/hardware. Bandwidths: ggml-org/llama.cpp #1642 (M1, M2), philipturner/applegpuinfo
# #1, #4 and #12, youssofal/MTPLX #64, mlx 2b2718bf8 (M4 Pro), and Andyyyy64/whichllm #92 (M5).
CHIPS = {
    "m1": Gpu(8, 2.617, 68.2),
    "m1 pro": Gpu(16, 5.308, 204.8),
    "m1 max": Gpu(32, 10.617, 409.6),
    "m1 ultra": Gpu(64, 21.233, 819.2),
    "m2": Gpu(10, 3.579, 102.4),
    "m2 pro": Gpu(19, 6.8, 204.8),
    "m2 max": Gpu(38, 13.6, 409.6),
    "m2 ultra": Gpu(76, 27.2, 800.0),
    "m3": Gpu(10, 4.1, 100.0),
    "m3 pro": Gpu(18, 6.39, 150.0),
    "m3 max": Gpu(40, 14.2, 409.6),
    "m3 ultra": Gpu(80, 28.4, 819.0),
    "m4": Gpu(10, 4.6, 120.0),
    "m4 pro": Gpu(20, 9.2, 273.0),
    "m4 max": Gpu(40, 18.4, 546.0),
    "m5 max": Gpu(40, 22.8, 614.0, has_accelerators=True),
}
# What stands for a chip that is not in the table, by the last letter of its architecture.
_ALIKE = {"s": "m4 max", "d": "m3 ultra"}


def chip_of(name: str) -> str:
    """``"m4 max"`` of ``"Apple M4 Max"``, ``"m4-max"`` or ``"m4-max-128gb"``."""
    words = re.split(r"[\s-]+", name.lower())
    return " ".join(word for word in words if word != "apple" and not re.fullmatch(r"\d+gb", word))


@lru_cache
def gpu_of(name: str, architecture: str = "g") -> Gpu:
    """What a GPU can do, by the name that Metal or `planning/devices.py` gives it.

    Args:
        name (str): Such as ``"Apple M2 Pro"`` or ``"m2-pro-16gb"``.
        architecture (str, optional): The letter by which an unknown one is likened to a known one.
            Default: that of a base model.
    """
    found = CHIPS.get(chip_of(name))
    if found is not None:
        return found
    alike = CHIPS[_ALIKE.get(architecture, "m4")]
    accelerated = chip_of(name).startswith(("m5", "m6", "m7"))
    return Gpu(alike.cores, alike.tflops, alike.bandwidth, accelerated, is_assumed=True)


# From these GPUs and this macOS on, MLX multiplies by neural accelerators (mlx/backend/metal).
_ACCELERATED, _ACCELERATED_PHONE, _ACCELERATED_MACOS = 17, 18, (26, 2)


def multiplies_by_tf32(architecture: str, macos: str) -> bool:
    """Whether MLX makes products of float32 by TF32 there, unless it is told not to.

    Args:
        architecture (str): As Metal names it, such as ``"applegpu_g17s"``.
        macos (str): The version of the system, such as ``"26.2"``.
    """
    found = re.fullmatch(r"applegpu_g(\d+)(\w)", architecture)
    least = _ACCELERATED_PHONE if found and found[2] == "p" else _ACCELERATED
    known = tuple([int(part) for part in macos.split(".") if part.isdigit()])
    return bool(found and int(found[1]) >= least and known >= _ACCELERATED_MACOS)
