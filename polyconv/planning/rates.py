"""How expensive is a plan?

The constants by which `auto` compares methods and forms, each with where it comes from. Standard
library only.
"""

from __future__ import annotations

from dataclasses import astuple, dataclass

from polyconv.metal.seconds import Parameters
from polyconv.problem.arguments import refuse, shown


@dataclass(frozen=True, slots=True)
class Rates:
    """Seconds per unit of a `Cost`."""

    per_mac: float
    per_conv: float
    per_byte_moved: float
    per_panel_mac: float = 0.0
    per_product: float = 0.0
    per_mac_in_loops: float = 0.0
    per_backward_mac: float = 0.0
    per_sample_read: float = 0.0


# As `polyconv bench --calibrate` measured them (docs/benchmarks/grid.json: 2 cores, MLX 0.32.4,
# float32, OpenBLAS preloaded). They rank methods that do nearly the same arithmetic, so only their
# proportions matter. docs/benchmarks/fresh.json was measured once these were fixed.
CPU_RATES = Rates(
    per_mac=0.0,
    per_conv=0.0,
    per_byte_moved=1.51e-10,
    per_panel_mac=5.92e-12,
    per_product=1.77e-5,
    per_mac_in_loops=1.41e-9,
    per_sample_read=2.75e-11,
)

# Set by hand to docs/benchmarks/cuda.json: one H200, float32 by TF32.
CUDA_RATES = Rates(
    per_mac=0.0,
    per_conv=25e-6,
    per_byte_moved=1 / 1e12,
    per_panel_mac=1 / 180e12,
    per_product=30e-6,
    per_backward_mac=1 / 120e12,
)


_MUST = "the file must hold rates as `polyconv bench --calibrate` writes them"


def read_rates(op: str, text: str) -> dict[str, Rates | Parameters]:
    """What a file of `polyconv bench --calibrate` holds: rates by device, of Metal parameters.

    Raises:
        ValueError: If it does not, a rate is no number of seconds, or a parameter not above 0.
    """
    import json  # when it is needed: it takes long to import

    try:
        tree = json.loads(text)
    except (ValueError, RecursionError) as error:
        refuse(op, _MUST, f"no JSON: {error}")
    given = tree.get("rates") if isinstance(tree, dict) else None
    if not isinstance(given, dict) or not all(isinstance(each, dict) for each in given.values()):
        refuse(op, _MUST, shown(given))
    try:
        found = {
            name: (Parameters if name == "metal" else Rates)(**values)
            for name, values in given.items()
        }
    except TypeError:  # fields that are missing, or unknown
        refuse(op, _MUST, f"other fields, {shown([*map(list, given.values())])}")
    for name, values in found.items():
        least, most, must = 0.0, 1.0, "rates must be seconds, 0 or more and below 1"
        if name == "metal":
            least, most, must = 1e-9, 1e9, "parameters must be numbers from 1e-9 up to 1e9"
        for value in astuple(values):
            if not isinstance(value, (int, float)) or not least <= value < most:
                refuse(op, must, f"{shown(value)} for {shown(name)}")
    return found


@dataclass(frozen=True, slots=True)
class Cost:
    """What one call of a plan does.

    * `macs` are multiply-accumulates, with those on zeros.
    * `n_convs` are the convolutions issued.
    * `bytes_moved` is what is copied: windows or padded inputs, packed weights, outputs brought
      into their final order, and scaled inputs added up.
    * `panel_macs` are multiply-accumulates of matrix products, filled up to whole panels.
    * `n_products` are the matrix products on a CPU, on CUDA the convolutions and the copies.
    * `macs_in_loops` are multiply-accumulates that MLX does on a CPU by loops over samples.
    * `backward_macs` are those of cuDNN's gradient of a convolution, by which MLX computes a
      transposed one on CUDA.
    * `samples_read` are the inputs of matrix products on a CPU, counted in each product that reads
      them: BLAS copies them into panels, however few columns the product has.
    """

    macs: int
    n_convs: int
    bytes_moved: int
    panel_macs: int = 0
    n_products: int = 0
    macs_in_loops: int = 0
    backward_macs: int = 0
    samples_read: int = 0

    def seconds(self, rates: Rates) -> float:
        return (
            self.macs * rates.per_mac
            + self.n_convs * rates.per_conv
            + self.bytes_moved * rates.per_byte_moved
            + self.panel_macs * rates.per_panel_mac
            + self.n_products * rates.per_product
            + self.macs_in_loops * rates.per_mac_in_loops
            + self.backward_macs * rates.per_backward_mac
            + self.samples_read * rates.per_sample_read
        )


def si(number: float) -> str:
    """Three digits and a prefix, with a space before the unit: ``21.1 M``, ``512 ``."""
    for unit in ("", "k", "M", "G", "T"):
        if number < 1000:
            return f"{number:.3g} {unit}" if unit else f"{int(number)} "
        number /= 1000
    return f"{number:.3g} P"
