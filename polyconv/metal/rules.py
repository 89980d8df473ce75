"""In which order does MLX try its Metal kernels for a convolution, and what does each ask for?

The rules of mlx/backend/metal/conv.cpp, in its order and with the versions in which they hold.
Standard library only.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import NamedTuple, TypeAlias

from polyconv.problem.spec import Axis

Version: TypeAlias = "tuple[int, int, int]"

_FIRST: Version = (0, 31, 2)
_NEVER: Version = (10**6, 0, 0)


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


class Rule(NamedTuple):
    """A path that MLX takes where `applies` holds, from version `since` on and before `before`."""

    path: str
    applies: Callable[[Call], bool]
    because: str
    since: Version = _FIRST
    before: Version = _NEVER


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


def _is_depthwise_1d(call: Call) -> bool:
    starts_unpadded = call.axes[0].padding_lo == 0
    return call.is_depthwise and call.is_plain and starts_unpadded and not call.flip


def _is_depthwise_2d(call: Call) -> bool:
    small = all(a.kernel_size <= 7 and a.stride <= 2 and a.kernel_dilation == 1 for a in call.axes)
    aligned = call.in_channels % 16 == 0
    return call.groups > 1 and call.is_depthwise and call.is_undilated and small and aligned


def _is_old_depthwise_2d(call: Call) -> bool:
    return _is_depthwise_2d(call) and all(axis.output_size % 8 == 0 for axis in call.axes)


def _is_winograd_2d(call: Call) -> bool:
    plain = call.groups == 1 and call.is_plain and not call.flip and call.kernel == (3, 3)
    aligned = call.in_channels % 32 == 0 and call.out_channels % 32 == 0
    large = call.batch * prod(axis.size for axis in call.axes) >= 4096
    worth = large and call.in_channels + call.out_channels >= 256
    return plain and aligned and worth and call.winograd_step > 0


def _pads_in_channels_2d(call: Call) -> bool:
    worth = call.groups == 1 and call.rows >= 256 and prod(call.kernel) >= 9
    unaligned = not call.is_aligned and fits_out(call.out_channels)
    return call.is_undilated and call.is_unstrided and worth and unaligned


def _suits_general_2d(call: Call) -> bool:
    aligned = call.in_channels % 16 == 0 and call.out_channels % 16 == 0
    return aligned or call.rows >= 256


def _ignores_groups_2d(call: Call) -> bool:
    return call.groups > 1 and not call.is_undilated


def _pads_channels_3d(call: Call) -> bool:
    return not (call.in_channels % 16 == 0 and fits_out(call.out_channels))


def _is_small_depth_3d(call: Call) -> bool:
    depth = call.axes[0]
    plain = depth.stride == depth.kernel_dilation == 1 and depth.padding_lo == 0
    return call.is_undilated and call.batch == 1 and depth.kernel_size <= 7 and plain


_ALIGNED = "input_dilation 1, and C up to 4 or in 16s, O up to 16 or in 16s"
_MISFIT = "channels of a group not up to 4 (in) or 16 (out) nor in 16s"
_IGNORED = "input_dilation above 1; before 0.32.0 this kernel ignores the groups (wrong values)"

_EXPLICIT = (
    Rule(
        "explicit_gemm_group_nd",
        lambda call: call.groups > 1 and not call.is_undilated,
        "grouped, input_dilation above 1",
    ),
    Rule("explicit_gemm_group_nd", lambda call: call.groups > 1, f"grouped, {_MISFIT}"),
    Rule("explicit_gemm_nd", lambda call: not call.is_undilated, "input_dilation above 1"),
    Rule("explicit_gemm_nd", lambda call: True, _MISFIT),
)

_RULES_1D = (
    Rule("depthwise_1d", _is_depthwise_1d, "depthwise, plain, no padding in front, not flipped"),
    Rule("as_2d", lambda call: call.is_undilated and call.is_aligned, _ALIGNED),
    *_EXPLICIT,
)

_RULES_2D = (
    Rule(
        "implicit_gemm_2d_general",
        lambda call: _ignores_groups_2d(call) and _suits_general_2d(call),
        _IGNORED,
        before=(0, 32, 0),
    ),
    Rule("explicit_gemm_nd", _ignores_groups_2d, _IGNORED, before=(0, 32, 0)),
    Rule(
        "depthwise_2d",
        _is_old_depthwise_2d,
        "depthwise, at most 7 by 7, stride at most 2, C in 16s, outputs in 8s",
        before=(0, 32, 0),
    ),
    Rule(
        "depthwise_2d",
        _is_depthwise_2d,
        "depthwise, at most 7 by 7, stride at most 2, C in 16s",
        since=(0, 32, 0),
    ),
    Rule("winograd_2d", _is_winograd_2d, "3 by 3, plain, not flipped, C and O in 32s, large"),
    Rule(
        "pad_in_channels_2d",
        _pads_in_channels_2d,
        "C above 4 and not in 16s: MLX pads it, from 9 taps and 256 outputs on",
        since=(0, 32, 1),
    ),
    Rule("implicit_gemm_2d", lambda call: call.is_undilated and call.is_aligned, _ALIGNED),
    Rule(
        "implicit_gemm_2d_general",
        lambda call: call.groups == 1 and _suits_general_2d(call),
        "no groups; C and O in 16s, or at least 256 outputs",
    ),
    *_EXPLICIT,
)

_RULES_3D = (
    Rule(
        "pad_and_slice_3d",
        lambda call: call.is_undilated and _pads_channels_3d(call),
        "input_dilation 1, channels not in 16s: MLX pads them",
    ),
    Rule(
        "small_kd_3d",
        _is_small_depth_3d,
        "batch 1, at most 7 taps in depth, none padded in front",
        since=(0, 32, 1),
    ),
    Rule("implicit_gemm_3d", lambda call: call.is_undilated, "input_dilation 1"),
    Rule("explicit_gemm_nd", lambda call: True, "input_dilation above 1"),
)

# The function of conv.cpp that decides, and its rules, by the number of spatial axes.
DISPATCH = {
    1: ("conv_1D_gpu", _RULES_1D),
    2: ("dispatch_conv_2D_gpu", _RULES_2D),
    3: ("dispatch_conv_3D_gpu", _RULES_3D),
}
