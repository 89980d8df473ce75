"""For which devices can be planned, and what must a plan know of each?

What holds for all devices of a kind stands in a `Backend`; of Apple's GPUs also what Metal reports.
Standard library only.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Any, Literal, TypeAlias, TypeVar

from polyconv.metal.calls import DeviceLimits
from polyconv.metal.gpus import Gpu, gpu_of
from polyconv.metal.kernels import NEWEST, RuleSet
from polyconv.metal.seconds import FITTED, Parameters
from polyconv.planning.rates import CPU_RATES, CUDA_RATES, Rates
from polyconv.planning.tuned import Tuning
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
    """MLX's kernel is known for each convolution, and its time is predicted by the time model.

    So `auto` may take MLX's own op where its kernel is safe.
    """

    takes_products: bool = False
    """`auto` may take the method `taps`."""

    rounds_halves_once: bool = False
    """A product of halves is summed in float32, and its sums are rounded once."""

    takes_shared_filter: bool = False
    """One filter for all channels is multiplied as one matrix (`shared_filter.py`)."""

    takes_gradient_plans: bool = False
    """Gradients are products by a plan of their own (`plan_for_gradients` of `choose.py`)."""

    spares_operations: bool = False
    """Operations are dear and copies cheap, so gradients are computed by few operations.

    That of the input is a convolution. That of the weight is one product of what each output reads,
    copied, where the call or its transpose is a convolution without input dilation and flip.
    """

    convolves_for_weights: bool = False
    """Its convolutions compute that product, too, and copy nothing (`weight_gradient.py`)."""

    gathers_points: bool = False
    """A convolution in 3D of a single tap is slower than one in 1D of as many points."""

    keeps_float64: bool = False
    """Matrix products of float64 are computed in float64; convolutions nowhere are."""

    copies_windows: bool = False
    """Its convolutions copy what each output reads before they multiply."""

    convolves_rows: bool = False
    """Input and weight must lie row by row in memory, without what negative padding drops.

    Or they lie as cuDNN reads them once MLX has exchanged their axes (`cudnn_plans.py`).

    On CUDA MLX 0.32.4 keeps what cuDNN prepares by the alignment of the array that it is given. But
    cuDNN prepares it for the copy that MLX makes of an array that does not lie row by row, such as
    a crop or any other view. A later input of that alignment fails as a misaligned pointer
    (mlx/backend/cuda/conv.cpp).
    """

    shares_cudnn_plans: bool = False
    """A convolution may be computed by cuDNN's plan for another input dilation.

    `cudnn_plans.py` says which, and how to avoid it.
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
        convolves_for_weights=True,
        gathers_points=True,
        convolves_rows=True,
        shares_cudnn_plans=True,
        misreads_steps=True,
        has_own_memory=True,
    ),
    "metal": Backend(
        cost_model="metal",
        predicts_kernels=True,
        takes_products=True,
        rounds_halves_once=True,
        takes_shared_filter=True,
    ),
}


T = TypeVar("T", bound=type)


def _pickled_without_tuning(cls: T) -> T:
    """Has its objects pickled as they were before there was tuning, which is of a process."""

    def state(device: Any) -> list[Any]:
        return [getattr(device, each.name) for each in fields(cls) if each.name != "tuning"]

    def set_state(device: Any, given: Iterable[Any]) -> None:
        found = dict(zip([each.name for each in fields(cls)], given))
        for each in fields(cls):
            object.__setattr__(device, each.name, found.get(each.name, each.default))

    # Once the class is made: Python 3.10 gives one that is frozen and has slots its own.
    for name, function in (("__getstate__", state), ("__setstate__", set_state)):
        setattr(cls, name, function)
    return cls


@_pickled_without_tuning
@dataclass(frozen=True, slots=True)
class Metal:
    """A device that runs MLX's Metal backend in a version of it: what plans may depend on.

    With `rounds_products` MLX makes products of float32 by TF32, and nobody allowed it to. `auto`
    then makes none. `parameters` are those of the time model. With a `tuning`, `auto` takes what
    was timed there.
    """

    name: str
    limits: DeviceLimits
    rules: RuleSet = NEWEST
    rounds_products: bool = False
    parameters: Parameters = FITTED
    tuning: Tuning | None = None

    def __hash__(self) -> int:  # as each call asks for it, and the name tells most
        return hash(self.name)

    @property
    def gpu(self) -> Gpu:
        return gpu_of(self.name, self.limits.architecture)

    @property
    def backend(self) -> Backend:
        return BACKENDS["metal"]


@_pickled_without_tuning
@dataclass(frozen=True, slots=True)
class Host:
    """A device whose kernels are not predicted. Its name is a key of `BACKENDS`."""

    name: str
    rates: Rates
    tuning: Tuning | None = None

    def __hash__(self) -> int:
        return hash(self.name)

    @property
    def rounds_products(self) -> bool:
        return False

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
# hosted macOS runners have: "Apple Paravirtual device", of architecture air64_v27. The M2 Pro is
# given what other machines of 16 GB have.
DEVICES = {
    "a18-pro-8gb": DeviceLimits(4_294_967_296, 5_726_633_984, "p"),
    "paravirtual-7gb": DeviceLimits(3_758_096_384, 5_010_795_178, "7"),
    "m1-16gb": DeviceLimits(8_589_934_592, 11_453_251_584, "g"),
    "m2-16gb": DeviceLimits(9_534_832_640, 12_713_115_648, "g"),
    "m2-pro-16gb": DeviceLimits(9_534_832_640, 12_713_115_648, "s"),
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

# The first device of each chip, by the name of the chip.
_CHIPS = {each.rpartition("-")[0]: each for each in reversed(DEVICES) if each[-2:] == "gb"}


def any_device(op: str, name: object, rules: RuleSet = NEWEST) -> Device:
    """As `device`, also one of `HOSTS`."""
    known = choice(op, "device", _with_memory(name), (*HOSTS, *DEVICES))
    return HOSTS[known] if known in HOSTS else device(op, known, rules)


def device(op: str, name: object, rules: RuleSet = NEWEST) -> Metal:
    """The device of a name in `DEVICES`. Without its memory, as ``"m2"``, the first of that chip.

    Of an M5 it rounds products, as MLX does by default.
    """
    known = choice(op, "device", _with_memory(name), DEVICES)
    rounds = gpu_of(known).has_accelerators
    return Metal(known, DEVICES[known], rules, rounds_products=rounds)


def _with_memory(name: object) -> object:
    """A device's whole name, of one that does not tell the memory, or has capitals."""
    name = name.lower() if isinstance(name, str) else name
    return _CHIPS.get(name, name) if isinstance(name, str) and name not in DEVICES else name
