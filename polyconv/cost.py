"""How expensive is a plan?

The constants by which `auto` compares methods and forms, each with where it comes from. Standard
library only.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Rates:
    """Seconds per unit of a `Cost`."""

    per_mac: float
    per_conv: float
    per_byte_moved: float
    per_product: float = 0.0
    per_mac_in_loops: float = 0.0


# From a fit to times of some 40 layers, most of them in docs/benchmarks/cases.toml (2 cores, MLX
# 0.32.4, float32, OpenBLAS preloaded). They rank methods that do nearly the same arithmetic, so
# only their proportions matter. In docs/benchmarks/rivals.json the method of least cost takes at
# most 1.15 times as long as the fastest on 35 of 39 layers; it is not an independent grid.
CPU_RATES = Rates(
    per_mac=1 / 90e9,
    per_conv=15e-6,
    per_byte_moved=1 / 3.4e9,
    per_product=15e-6,
    per_mac_in_loops=1 / 0.4e9,
)

# Round numbers of the order of a large Apple GPU. Assumed: nothing was measured on Metal.
METAL_RATES = Rates(per_mac=1 / 5e12, per_conv=5e-6, per_byte_moved=1 / 300e9)


@dataclass(frozen=True, slots=True)
class Cost:
    """What one call of a plan does.

    `macs` counts multiply-accumulates, those on zeros included, and `macs_in_loops` the part of
    them that MLX's CPU does by loops over single samples; `n_convs` the convolutions issued, and
    `n_products` the matrix products in them; `bytes_moved` what is copied: windows or padded
    inputs, packed weights, sums, and outputs brought into their final order.
    """

    macs: int
    n_convs: int
    bytes_moved: int
    n_products: int = 0
    macs_in_loops: int = 0

    def seconds(self, rates: Rates) -> float:
        return (
            self.macs * rates.per_mac
            + self.n_convs * rates.per_conv
            + self.bytes_moved * rates.per_byte_moved
            + self.n_products * rates.per_product
            + self.macs_in_loops * rates.per_mac_in_loops
        )


def si(number: float) -> str:
    """Three digits and a prefix, with a space before the unit: ``21.1 M``, ``512 ``."""
    for unit in ("", "k", "M", "G", "T"):
        if number < 1000:
            return f"{number:.3g} {unit}" if unit else f"{int(number)} "
        number /= 1000
    return f"{number:.3g} P"
