"""How expensive is a plan?

The constants by which `auto` compares the polyphase methods, each with its measurement, and
nothing else. Standard library only.
"""

from __future__ import annotations

from dataclasses import dataclass

# Set so that the estimates of both methods lie near the times measured for the layers of
# docs/benchmarks/layers.json (2 cores, MLX 0.32.4, float32, OpenBLAS preloaded). They rank methods
# that do nearly the same arithmetic, so only their proportions matter.
SECONDS_PER_MAC = 1 / 60e9
SECONDS_PER_CONV = 15e-6
SECONDS_PER_BYTE_MOVED = 1 / 5e9


@dataclass(frozen=True, slots=True)
class Cost:
    """What one call of a plan does.

    `macs` counts multiply-accumulates, those on zeros included; `n_convs` the convolutions issued;
    `bytes_moved` the windows of input that these read (MLX's CPU convolution copies them), the
    weights packed, and the copies that bring the outputs into their final order.
    """

    macs: int
    n_convs: int
    bytes_moved: int

    @property
    def seconds(self) -> float:
        return (
            self.macs * SECONDS_PER_MAC
            + self.n_convs * SECONDS_PER_CONV
            + self.bytes_moved * SECONDS_PER_BYTE_MOVED
        )
