"""How long does a kernel take on an Apple GPU, and all kernels of a call?

A model fitted to timings that others published (docs/benchmarks/metal_fit.md); nothing was measured
here. A kernel takes a launch, and the root of the summed squares of two times: that of its
arithmetic and that of its bytes. Standard library only.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Literal, TypeAlias

from polyconv.metal.gpus import Gpu

Family: TypeAlias = Literal[
    "gemm",
    "nax_gemm",
    "implicit_2d",
    "general_2d",
    "implicit_3d",
    "depthwise",
    "copy_32",
    "copy_16",
    "concat",
    "unfold_wide",
    "unfold_narrow",
]


@dataclass(frozen=True, slots=True)
class Parameters:
    """What the model was fitted to. Each is a share of a peak, but where a unit is named.

    * `launch` is in seconds, between two kernels of a graph. It was published, not fitted.
    * `gemm`, `nax_gemm`, `implicit_2d`, `general_2d` and `implicit_3d` are shares of the float32
      peak that large calls reach. `nax_gemm` is that of halves on the accelerators of an M5.
    * `implicit_load` and `general_load` are multiply-accumulates that a loaded value costs.
    * `tile` is multiply-accumulates that a tile costs beside its own.
    * `gemm_fill` and `conv_fill` are tiles a core with which half of the peak is reached.
    * `conv_bytes`, `depthwise`, `copy_32`, `copy_16`, `concat`, `unfold_wide` and `unfold_narrow`
      are shares of the bandwidth: of convolutions, of depthwise ones, of what is read and written
      in order in float32 or in halves, of rows interleaved, and of MLX's unfolding with 32
      channels and more or with fewer.
    """

    launch: float
    gemm: float
    nax_gemm: float
    implicit_2d: float
    general_2d: float
    implicit_3d: float
    implicit_load: float
    general_load: float
    tile: float
    gemm_fill: float
    conv_fill: float
    conv_bytes: float
    depthwise: float
    copy_32: float
    copy_16: float
    concat: float
    unfold_wide: float
    unfold_narrow: float


NAMES = tuple(field.name for field in fields(Parameters))

# As `make metal-fit` writes them into docs/benchmarks/metal_fit.json.
FITTED = Parameters(
    launch=2.6e-06,
    gemm=0.758,
    nax_gemm=2.56,
    implicit_2d=0.8,
    general_2d=0.359,
    implicit_3d=0.8,
    implicit_load=8.36,
    general_load=3.4,
    tile=66900.0,
    gemm_fill=2.67,
    conv_fill=3.09,
    conv_bytes=0.782,
    depthwise=0.165,
    copy_32=0.915,
    copy_16=0.779,
    concat=0.852,
    unfold_wide=0.314,
    unfold_narrow=0.134,
)

# How many published timings have a kernel that asks for it.
N_TIMINGS = {
    "gemm": 234,
    "nax_gemm": 6,
    "implicit_2d": 61,
    "general_2d": 13,
    "implicit_3d": 2,
    "implicit_load": 63,
    "general_load": 13,
    "tile": 316,
    "gemm_fill": 240,
    "conv_fill": 76,
    "conv_bytes": 76,
    "depthwise": 6,
    "copy_32": 390,
    "copy_16": 50,
    "concat": 68,
    "unfold_wide": 30,
    "unfold_narrow": 39,
}


@dataclass(frozen=True, slots=True)
class Kernel:
    """The work of a kernel, or of several alike.

    `macs` are multiply-accumulates of whole tiles, and `loads` the values that these load from the
    memory of a threadgroup. `n_bytes` are read and written, each once. A family whose kernels move
    bytes alone has no arithmetic.
    """

    family: Family
    n_bytes: float
    macs: float = 0.0
    loads: float = 0.0
    n_tiles: float = 0.0
    n_launches: int = 1


# By family: the share of the arithmetic's peak, what a load costs, fill, share of the bandwidth.
_BY_FAMILY: dict[str, tuple[str, str, str, str]] = {
    "gemm": ("gemm", "", "gemm_fill", "copy_32"),
    "nax_gemm": ("nax_gemm", "", "gemm_fill", "copy_32"),
    "implicit_2d": ("implicit_2d", "implicit_load", "conv_fill", "conv_bytes"),
    "general_2d": ("general_2d", "general_load", "conv_fill", "conv_bytes"),
    "implicit_3d": ("implicit_3d", "implicit_load", "conv_fill", "conv_bytes"),
}


def used_by(family: Family) -> tuple[str, ...]:
    """The names of the parameters that the time of a kernel of a family depends on."""
    if family not in _BY_FAMILY:
        return ("launch", family)
    return ("launch", "tile", *(name for name in _BY_FAMILY[family] if name))


def kernel_seconds(kernel: Kernel, gpu: Gpu, parameters: Parameters = FITTED) -> float:
    """The time of a kernel, or of several alike, within a graph: without the evaluation's own.

    Args:
        kernel (Kernel): The work.
        gpu (Gpu): The device, such as ``CHIPS["m4 max"]``.
        parameters (Parameters, optional): The model's. Default: those that were fitted.
    """
    launches = kernel.n_launches * parameters.launch
    names = _BY_FAMILY.get(kernel.family)
    share: float = getattr(parameters, names[3] if names else kernel.family)
    moving = kernel.n_bytes / (gpu.bandwidth * 1e9 * share)
    if names is None:
        return launches + moving
    shares: list[float] = [getattr(parameters, name) if name else 0.0 for name in names[:3]]
    efficiency, load, fill = shares
    work = kernel.macs + load * kernel.loads + parameters.tile * kernel.n_tiles
    filled = kernel.n_tiles / (kernel.n_tiles + fill * gpu.cores)
    computing = work / (gpu.tflops * 1e12 / 2 * efficiency * filled)
    together: float = (computing**2 + moving**2) ** 0.5
    return launches + together


def call_seconds(kernels: Iterable[Kernel], gpu: Gpu, parameters: Parameters = FITTED) -> float:
    """The time of all kernels of a call, one after the other. MLX may run some at once."""
    return sum(kernel_seconds(kernel, gpu, parameters) for kernel in kernels)
