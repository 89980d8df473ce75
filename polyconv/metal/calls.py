"""What reaches Metal of a convolution, and what MLX asks of it: its sizes, and whether they fit.

Standard library only.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from polyconv.problem.spec import Axis


@dataclass(frozen=True, slots=True)
class DeviceLimits:
    """What Metal says of a device.

    `max_buffer_bytes` is `maxBufferLength`, the bytes of its largest buffer. `working_set_bytes` is
    `recommendedMaxWorkingSetSize`. `architecture` is the last letter of the GPU's, as MLX reads it:
    `s` for a Max, `d` for an Ultra, `p` for a phone, `g` for the others. MLX takes any other letter
    as `g`.
    """

    max_buffer_bytes: int
    working_set_bytes: int
    architecture: str = "s"


@dataclass(frozen=True, slots=True)
class Call:
    """A convolution as it reaches Metal. `mlx/ops.cpp` has cropped what negative padding drops."""

    batch: int
    in_channels: int
    out_channels: int
    groups: int
    axes: tuple[Axis, ...]
    flip: bool
    itemsize: int
    limits: DeviceLimits
    winograd_tiles_batch: bool = True

    @property
    def is_undilated(self) -> bool:
        return all(axis.input_dilation == 1 for axis in self.axes)

    @property
    def is_unstrided(self) -> bool:
        return all(axis.stride == 1 for axis in self.axes)

    @property
    def is_plain(self) -> bool:
        """No stride and no dilation."""
        undilated = self.is_undilated and all(a.kernel_dilation == 1 for a in self.axes)
        return undilated and self.is_unstrided

    @property
    def kernel(self) -> tuple[int, ...]:
        return tuple(axis.kernel_size for axis in self.axes)

    @property
    def rows(self) -> int:
        """Rows of the product that computes it: one per output position."""
        return self.batch * prod(axis.output_size for axis in self.axes)

    @property
    def input_bytes(self) -> int:
        return self.itemsize * self.batch * self.in_channels * prod(a.size for a in self.axes)

    @property
    def weight_bytes(self) -> int:
        per_output = self.in_channels // self.groups * prod(self.kernel)
        return self.itemsize * self.out_channels * per_output

    @property
    def output_bytes(self) -> int:
        return self.itemsize * self.rows * self.out_channels

    @property
    def is_aligned(self) -> bool:
        """Whether the channels of a group fill the tiles of the implicit GEMM kernels."""
        return fits_in(self.in_channels // self.groups) and fits_out(
            self.out_channels // self.groups
        )

    @property
    def is_depthwise(self) -> bool:
        return self.groups == self.in_channels == self.out_channels

    @property
    def winograd_step(self) -> int:
        """How many batch items winograd transforms at once. 0 if its scratch would not fit."""
        if not self.winograd_tiles_batch:
            return self.batch
        fixed = self.input_bytes + self.output_bytes + winograd_filter_bytes(self)
        budget = max(self.limits.working_set_bytes // 4 * 3 - fixed, 0)
        step = min(budget // winograd_item_bytes(self), self.batch)
        if step < self.batch and step * winograd_tiles(self) < 32:
            return 0
        return step


def fits_in(channels: int) -> bool:
    """Whether input channels of a group suit the implicit GEMM kernels."""
    return channels <= 4 or channels % 16 == 0


def fits_out(channels: int) -> bool:
    """Whether output channels of a group suit the implicit GEMM kernels."""
    return channels <= 16 or channels % 16 == 0


def up16(channels: int) -> int:
    return -(-channels // 16) * 16


def winograd_padded(axis: Axis) -> int:
    """Samples of an axis in winograd's padded copy. MLX takes `padding_lo` for both sides."""
    return 6 * -(-(axis.size + 2 * axis.padding_lo - 2) // 6) + 2


def winograd_tiles(call: Call) -> int:
    return prod(-(-axis.output_size // 6) for axis in call.axes)


def winograd_filter_bytes(call: Call) -> int:
    return call.itemsize * 64 * call.in_channels * call.out_channels


def winograd_item_bytes(call: Call) -> int:
    """Scratch for one batch item: its padded copy and both transforms."""
    padded = prod(winograd_padded(axis) for axis in call.axes) * call.in_channels
    transforms = 64 * winograd_tiles(call) * (call.in_channels + call.out_channels)
    return call.itemsize * (padded + transforms)
