"""For which devices can be planned, and what must a plan know of each?

What holds for all devices of a kind stands in a `Backend`; of Apple's GPUs also what Metal reports.
Standard library only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from polyconv.metal.calls import DeviceLimits
from polyconv.metal.kernels import NEWEST, RuleSet
from polyconv.planning.rates import CPU_RATES, CUDA_RATES, METAL_RATES, Rates
from polyconv.problem.arguments import choice

CostModel: TypeAlias = Literal["cpu", "cuda", "metal"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Backend:
    """What MLX does on a kind of device, as far as plans and execution depend on it.

    Of what is left out, nothing is true.
    """

    cost_model: CostModel
    """What the work of a plan's convolutions is counted by (`COST_MODELS` of `plan.py`)."""

    predicts_kernels: bool = False
    """MLX's kernel is known for each convolution, and its rates are assumed, not measured.

    So `auto` takes MLX's own op where its kernel is safe, and bounds the arithmetic of the others.
    """

    takes_products: bool = False
    """`auto` may take the method `taps`, which is for devices that copy windows."""

    takes_shared_filter: bool = False
    """One filter for all channels is multiplied as one matrix (`shared_filter.py`)."""

    takes_gradient_plans: bool = False
    """Gradients are products by a plan of their own (`plan_for_gradients` of `choose.py`)."""

    spares_operations: bool = False
    """Operations are dear and copies cheap, so gradients are computed by few operations.

    That of the input is a convolution. That of the weight is one product of what each output reads,
    copied, where the call or its transpose is a convolution without input dilation and flip.
    """

    keeps_float64: bool = False
    """Matrix products of float64 are computed in float64; convolutions nowhere are."""

    copies_windows: bool = False
    """Its convolutions copy what each output reads before they multiply."""

    convolves_rows: bool = False
    """What is convolved must lie row by row in memory, without what negative padding drops.

    On CUDA MLX 0.32.4 keeps what cuDNN prepares by the alignment of the array that it is given. But
    cuDNN prepares it for the copy that MLX makes of an array that does not lie row by row, such as
    a crop or any other view. A later input of that alignment fails as a misaligned pointer
    (mlx/backend/cuda/conv.cpp).
    """

    shares_cudnn_plans: bool = False
    """A convolution may be computed by cuDNN's plan for another input dilation.

    MLX 0.32.4 keeps cuDNN's plans by shapes, stride, padding, kernel dilation, groups and flip, not
    by input dilation (mlx/backend/cuda/conv.cpp). Of two calls that differ in it alone the later
    one runs the plan of the earlier one, whoever made it.
    """

    misreads_steps: bool = False
    """cuDNN may be asked for another convolution that happens to have as many outputs.

    MLX 0.32.4 gives a flipped kernel to cuDNN's gradient of a convolution, without the stride, and
    any other to cuDNN's convolution, without the input dilation. It trusts cuDNN to refuse sizes
    that do not agree (mlx/backend/cuda/conv.cpp, `get_conv_settings`).
    """

    copies_transposed_slowly: bool = False
    """A transposed array is multiplied by ones faster than it is copied."""

    has_own_memory: bool = False
    """Arrays lie in memory of the device, not in that of the machine."""


BACKENDS: dict[str, Backend] = {
    "cpu": Backend(
        cost_model="cpu",
        takes_products=True,
        takes_shared_filter=True,
        takes_gradient_plans=True,
        keeps_float64=True,
        copies_windows=True,
        copies_transposed_slowly=True,
    ),
    "cuda": Backend(
        cost_model="cuda",
        takes_gradient_plans=True,
        spares_operations=True,
        convolves_rows=True,
        shares_cudnn_plans=True,
        misreads_steps=True,
        has_own_memory=True,
    ),
    "metal": Backend(cost_model="metal", predicts_kernels=True, takes_shared_filter=True),
}


@dataclass(frozen=True, slots=True)
class Metal:
    """A device that runs MLX's Metal backend in a version of it: what plans may depend on."""

    name: str
    limits: DeviceLimits
    rules: RuleSet = NEWEST

    def __hash__(self) -> int:  # as each call asks for it, and the name tells most
        return hash(self.name)

    @property
    def rates(self) -> Rates:
        return METAL_RATES

    @property
    def backend(self) -> Backend:
        return BACKENDS["metal"]


@dataclass(frozen=True, slots=True)
class Host:
    """A device whose kernels are not predicted. Its name is a key of `BACKENDS`."""

    name: str
    rates: Rates

    def __hash__(self) -> int:
        return hash(self.name)

    @property
    def backend(self) -> Backend:
        return BACKENDS[self.name]


Device: TypeAlias = "Metal | Host"

CPU, CUDA = Host("cpu", CPU_RATES), Host("cuda", CUDA_RATES)
# By name, with the rates that polyconv brings along.
HOSTS = {host.name: host for host in (CPU, CUDA)}

# (maxBufferLength, recommendedMaxWorkingSetSize), as printed by Metal on such machines in public
# logs and issues: macOS 26, but macOS 13 for the M1. Older systems report less (of 128 GB a working
# set of 103 GB instead of 115), and `iogpu.wired_limit_mb` raises the working set alone. All rows
# have maxBufferLength = 3/4 of the working set, rounded down to pages of 16 KiB. The second is what
# hosted macOS runners have: "Apple Paravirtual device", of architecture air64_v27.
DEVICES = {
    "a18-pro-8gb": DeviceLimits(4_294_967_296, 5_726_633_984, "p"),
    "paravirtual-7gb": DeviceLimits(3_758_096_384, 5_010_795_178, "7"),
    "m1-16gb": DeviceLimits(8_589_934_592, 11_453_251_584, "g"),
    "m2-16gb": DeviceLimits(9_534_832_640, 12_713_115_648, "g"),
    "m3-16gb": DeviceLimits(9_534_832_640, 12_713_115_648, "g"),
    "m4-16gb": DeviceLimits(9_534_832_640, 12_713_115_648, "g"),
    "m4-24gb": DeviceLimits(14_302_248_960, 19_069_665_280, "g"),
    "m1-max-32gb": DeviceLimits(20_100_448_256, 26_800_603_136, "s"),
    "m2-max-32gb": DeviceLimits(20_100_448_256, 26_800_603_136, "s"),
    "m3-pro-36gb": DeviceLimits(22_613_000_192, 30_150_672_384, "s"),
    "m4-pro-48gb": DeviceLimits(30_150_672_384, 40_200_896_512, "s"),
    "m1-max-64gb": DeviceLimits(41_747_087_360, 55_662_788_608, "s"),
    "m4-max": DeviceLimits(86_586_540_032, 115_448_725_504, "s"),  # 128 GB
    "m5-max-128gb": DeviceLimits(86_586_540_032, 115_448_725_504, "s"),
    "m2-ultra-192gb": DeviceLimits(129_879_801_856, 173_173_080_064, "d"),
    "m3-ultra-256gb": DeviceLimits(167_503_724_544, 223_338_299_392, "d"),
}


def any_device(op: str, name: object, rules: RuleSet = NEWEST) -> Device:
    """As `device`, also one of `HOSTS`."""
    known = choice(op, "device", name, (*HOSTS, *DEVICES))
    return HOSTS[known] if known in HOSTS else device(op, known, rules)


def device(op: str, name: object, rules: RuleSet = NEWEST) -> Metal:
    """The device of a name in `DEVICES`."""
    known = choice(op, "device", name, DEVICES)
    return Metal(known, DEVICES[known], rules)
