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
    bytes alone has no arithmetic. `n_times` such run one after the other. `kind` is a key of
    `TESTED`, by default the family's.
    """

    family: Family
    n_bytes: float
    macs: float = 0.0
    loads: float = 0.0
    n_tiles: float = 0.0
    n_launches: int = 1
    kind: str = ""
    n_times: int = 1

    @property
    def tested_as(self) -> str:
        return self.kind or _KINDS.get(self.family, self.family)


# How well the model is tested: by kind of kernel, or of all kernels of a path, how many published
# timings there are, and the factor by which nine in ten are missed at most, each device left out of
# the fit. As `make metal-fit` writes them.
TESTED: dict[str, tuple[int, float]] = {
    "concat": (68, 1.19),
    "copy": (99, 1.2),
    "depthwise 2D": (6, 2.98),
    "explicit": (49, 1.81),
    "general 2D": (12, 2.51),
    "general 2D, transposed": (1, 1.37),
    "implicit 2D": (8, 1.7),
    "implicit 2D, C up to 4 or O up to 16": (33, 1.65),
    "implicit 2D, one channel a group": (1, 1.88),
    "implicit 3D": (2, 1.41),
    "matmul": (160, 1.45),
    "matmul, NAX": (6, 1.06),
    "vector product": (13, 2.64),
}
_KINDS = {
    "gemm": "matmul",
    "nax_gemm": "matmul, NAX",
    "implicit_2d": "implicit 2D",
    "general_2d": "general 2D",
    "implicit_3d": "implicit 3D",
    "depthwise": "depthwise 2D",
    "copy_32": "copy",
    "copy_16": "copy",
}
# Fewer timings tell nothing: the factor is taken to be this one at least.
_FEW, _UNTESTED = 5, 2.5

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
        return kernel.n_times * (launches + moving)
    shares: list[float] = [getattr(parameters, name) if name else 0.0 for name in names[:3]]
    efficiency, load, fill = shares
    work = kernel.macs + load * kernel.loads + parameters.tile * kernel.n_tiles
    filled = kernel.n_tiles / (kernel.n_tiles + fill * gpu.cores)
    computing = work / (gpu.tflops * 1e12 / 2 * efficiency * filled)
    together: float = (computing**2 + moving**2) ** 0.5
    return kernel.n_times * (launches + together)


@dataclass(frozen=True, slots=True)
class Prediction:
    """The time of a call, and between which bounds it lies nine times in ten.

    Bounds are from the errors of each kind of kernel that takes a tenth of the time or more.
    `n_timings` are the published timings of the least tested of these.
    """

    seconds: float
    least: float
    most: float
    n_timings: int
    n_launches: int


def predicted(kernels: Iterable[Kernel], gpu: Gpu, parameters: Parameters = FITTED) -> Prediction:
    """The time of all kernels of a call, with bounds."""
    times: dict[str, float] = {}
    launches = 0
    for kernel in kernels:
        spent = kernel_seconds(kernel, gpu, parameters)
        times[kernel.tested_as] = times.get(kernel.tested_as, 0.0) + spent
        launches += kernel.n_times * kernel.n_launches
    total = sum(times.values())
    least = sum(spent / factor_of(kind) for kind, spent in times.items())
    most = sum(spent * factor_of(kind) for kind, spent in times.items())
    counts = [_tested(kind)[0] for kind, spent in times.items() if spent >= total / 10]
    return Prediction(total, least, most, min(counts, default=0), launches)


def factor_of(kind: str) -> float:
    """By which factor the time of a kind of kernel may be missed."""
    n, factor = _tested(kind)
    return factor if n >= _FEW else max(factor, _UNTESTED)


def _tested(kind: str) -> tuple[int, float]:
    return TESTED.get(kind, (0, _UNTESTED))


def call_seconds(kernels: Iterable[Kernel], gpu: Gpu, parameters: Parameters = FITTED) -> float:
    """The time of all kernels of a call, one after the other. MLX may run some at once."""
    return sum(kernel_seconds(kernel, gpu, parameters) for kernel in kernels)
