"""For which devices can be planned, and what does Metal report of Apple's?

Standard library only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from polyconv.metal.kernels import NEWEST, RuleSet
from polyconv.metal.rules import DeviceLimits
from polyconv.planning.rates import CPU_RATES, CUDA_RATES, METAL_RATES, Rates
from polyconv.problem.arguments import refuse, shown


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


@dataclass(frozen=True, slots=True)
class Host:
    """A device whose convolutions are not predicted but estimated: ``"cpu"`` or ``"cuda"``."""

    name: str
    rates: Rates

    def __hash__(self) -> int:
        return hash(self.name)


Device: TypeAlias = "Metal | Host"

CPU, CUDA = Host("cpu", CPU_RATES), Host("cuda", CUDA_RATES)


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
    """As `device`, also ``"cpu"`` and ``"cuda"``."""
    hosts = {host.name: host for host in (CPU, CUDA)}
    if isinstance(name, str) and name in hosts:
        return hosts[name]
    if not isinstance(name, str) or name not in DEVICES:
        refuse(op, f"device must be one of {', '.join((*hosts, *DEVICES))}", shown(name))
    return device(op, name, rules)


def device(op: str, name: object, rules: RuleSet = NEWEST) -> Metal:
    """The device of a name in `DEVICES`."""
    if not isinstance(name, str) or name not in DEVICES:
        refuse(op, f"device must be one of {', '.join(DEVICES)}", shown(name))
    return Metal(name, DEVICES[name], rules)
