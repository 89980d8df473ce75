"""In which order does MLX try its Metal kernels for a convolution, and what does each ask for?

The rules of mlx/backend/metal/conv.cpp, in its order and with the versions in which they hold.
Standard library only.
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import NamedTuple, TypeAlias

from polyconv.metal.calls import Call, fits_in, fits_out

Version: TypeAlias = "tuple[int, int, int]"

_FIRST: Version = (0, 31, 2)
_NEVER: Version = (10**6, 0, 0)


class Rule(NamedTuple):
    """A path that MLX takes where `applies` holds, from version `since` on and before `before`."""

    path: str
    applies: Callable[[Call], bool]
    because: str
    since: Version = _FIRST
    before: Version = _NEVER


def _fits_8(call: Call) -> bool:
    """Whether a group suits the kernels of 0.32.4 for 1D and for groups, which know 8 channels."""
    inputs, outputs = call.in_channels // call.groups, call.out_channels // call.groups
    return (fits_in(inputs) or inputs == 8) and fits_out(outputs)


def _is_depthwise_1d(call: Call) -> bool:
    starts_unpadded = call.axes[0].padding_lo == 0
    return call.is_depthwise and call.is_plain and starts_unpadded and not call.flip


def _is_depthwise_2d(call: Call) -> bool:
    small = all(a.kernel_size <= 7 and a.stride <= 2 and a.kernel_dilation == 1 for a in call.axes)
    aligned = call.in_channels % 8 == 0
    return call.groups > 1 and call.is_depthwise and call.is_undilated and small and aligned


def _is_depthwise_2d_in_16s(call: Call) -> bool:
    return _is_depthwise_2d(call) and call.in_channels % 16 == 0


def _is_depthwise_2d_in_eighths(call: Call) -> bool:
    outputs = all(axis.output_size % 8 == 0 for axis in call.axes)
    return _is_depthwise_2d_in_16s(call) and outputs


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


def _doubles_3d(call: Call) -> bool:
    """Whether it is MLX's `conv_transpose3d` with kernel and stride 2, and exactly doubles."""
    plain = call.flip and call.is_unstrided and call.groups == 1
    return plain and all(
        (axis.kernel_size, axis.input_dilation, axis.kernel_dilation) == (2, 2, 1)
        and axis.padding_lo == 1
        and axis.output_size == 2 * axis.size
        for axis in call.axes
    )


def _is_small_depth_3d(call: Call) -> bool:
    depth = call.axes[0]
    plain = depth.stride == depth.kernel_dilation == 1 and depth.padding_lo == 0
    return call.is_undilated and call.batch == 1 and depth.kernel_size <= 7 and plain


_ALIGNED = "input_dilation 1, and C up to 4 or in 16s, O up to 16 or in 16s"
_ALIGNED_8 = "input_dilation 1, and C up to 4, 8 or in 16s, O up to 16 or in 16s"
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
    Rule(
        "as_2d",
        lambda call: call.is_undilated and call.is_aligned,
        _ALIGNED,
        before=(0, 32, 4),
    ),
    Rule(
        "as_2d",
        lambda call: call.is_undilated and _fits_8(call),
        _ALIGNED_8,
        since=(0, 32, 4),
    ),
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
        _is_depthwise_2d_in_eighths,
        "depthwise, at most 7 by 7, stride at most 2, C in 16s, outputs in 8s",
        before=(0, 32, 0),
    ),
    Rule(
        "depthwise_2d",
        _is_depthwise_2d_in_16s,
        "depthwise, at most 7 by 7, stride at most 2, C in 16s",
        since=(0, 32, 0),
        before=(0, 32, 4),
    ),
    Rule(
        "depthwise_2d",
        _is_depthwise_2d,
        "depthwise, at most 7 by 7, stride at most 2, C in 8s",
        since=(0, 32, 4),
    ),
    Rule(
        "implicit_gemm_2d",
        lambda call: call.groups > 1 and call.is_undilated and _fits_8(call),
        f"groups; {_ALIGNED_8}",
        since=(0, 32, 4),
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
    Rule(
        "phase_gemms_3d",
        _doubles_3d,
        "kernel 2, stride 2, an output of exactly twice the input: a product per phase",
        since=(0, 32, 3),
    ),
    Rule("explicit_gemm_nd", lambda call: True, "input_dilation above 1"),
)

# The function of conv.cpp that decides, and its rules, by the number of spatial axes.
DISPATCH = {
    1: ("conv_1D_gpu", _RULES_1D),
    2: ("dispatch_conv_2D_gpu", _RULES_2D),
    3: ("dispatch_conv_3D_gpu", _RULES_3D),
}
