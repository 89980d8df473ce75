"""Which Metal kernel does MLX pick for a convolution, because of which rule, and what unfolds?

A model of MLX's dispatch (mlx/backend/metal/conv.cpp) as rules in its order. The device is an
argument, so that a Mac can be asked about where there is none. Standard library only.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import prod
from typing import NamedTuple

from polyconv.spec import ITEMSIZE, Axis, ConvSpec

RULE_SET = "mlx 0.32.2"


@dataclass(frozen=True, slots=True)
class DeviceLimits:
    """What Metal says of a device: `maxBufferLength`, the bytes of its largest buffer."""

    max_buffer_bytes: int


DEVICES = {"m4-max": DeviceLimits(max_buffer_bytes=86_586_540_032)}


@dataclass(frozen=True, slots=True)
class KernelChoice:
    """The path that MLX takes, the rule that decided and the function that holds it.

    `unfold_bytes` is the buffer into which an explicit path copies its input window by window; it
    is filled as often as needed, since it never exceeds the device's largest buffer.
    """

    path: str
    because: str
    source: str
    unfold_bytes: int
    rule_set: str = RULE_SET


class Rule(NamedTuple):
    path: str
    applies: Callable[[_Call], bool]
    because: str


@dataclass(frozen=True, slots=True)
class _Call:
    """A convolution as it reaches Metal, after `mlx/ops.cpp` cropped what is padded negatively."""

    batch: int
    in_channels: int
    out_channels: int
    groups: int
    axes: tuple[Axis, ...]
    flip: bool

    @property
    def is_undilated(self) -> bool:
        return all(axis.input_dilation == 1 for axis in self.axes)

    @property
    def is_plain(self) -> bool:
        """No stride and no dilation."""
        return self.is_undilated and all(a.stride == a.kernel_dilation == 1 for a in self.axes)

    @property
    def kernel(self) -> tuple[int, ...]:
        return tuple(axis.kernel_size for axis in self.axes)

    @property
    def rows(self) -> int:
        """Rows of the product that computes it: one per output position."""
        return self.batch * prod(axis.output_size for axis in self.axes)

    @property
    def is_aligned(self) -> bool:
        """Whether the channels of a group fill the tiles of the implicit GEMM kernels."""
        return _fits_in(self.in_channels // self.groups) and _fits_out(
            self.out_channels // self.groups
        )

    @property
    def is_depthwise(self) -> bool:
        return self.groups == self.in_channels == self.out_channels


def predict(spec: ConvSpec, limits: DeviceLimits) -> KernelChoice:
    """What MLX does on Metal with one convolution, given as it is, whoever issues it.

    Args:
        spec (ConvSpec): The convolution, in float16, bfloat16 or float32. Grouped 3D, which MLX
            refuses before it reaches Metal, is answered as the ungrouped one.
        limits (DeviceLimits): The device, such as ``DEVICES["m4-max"]``.

    Returns:
        KernelChoice: By the rules of MLX 0.32.2, which agree with 2,310 recorded calls of its
        dispatch code (tests/data/metal_golden.md); no hardware ran them.
    """
    call = _call(spec)
    source, rules = _DISPATCH[len(call.axes)]
    rule = _first(rules, call)
    if rule.path == "as_2d":
        call = replace(call, axes=(*call.axes, Axis(size=1, kernel_size=1)))
        source, rules = _DISPATCH[2]
        rule = _first(rules, call)
    unfolded = 0
    if rule.path.startswith("explicit"):
        row = prod(call.kernel) * call.in_channels * ITEMSIZE[spec.dtype]
        unfolded = row * min(call.rows, limits.max_buffer_bytes // row)
    return KernelChoice(rule.path, rule.because, f"conv.cpp: {source}", unfolded)


def _call(spec: ConvSpec) -> _Call:
    axes = []
    for axis in spec.axes:
        lo, hi = axis.padding_lo, axis.padding_hi
        size = axis.size + min(lo, 0) + min(hi, 0)
        axes.append(replace(axis, size=size, padding_lo=max(lo, 0), padding_hi=max(hi, 0)))
    channels = (spec.in_channels, spec.out_channels, spec.groups)
    return _Call(spec.batch, *channels, tuple(axes), spec.flip)


def _first(rules: tuple[Rule, ...], call: _Call) -> Rule:
    return next(rule for rule in rules if rule.applies(call))


def _fits_in(channels: int) -> bool:
    return channels <= 4 or channels % 16 == 0


def _fits_out(channels: int) -> bool:
    return channels <= 16 or channels % 16 == 0


def _is_depthwise_1d(call: _Call) -> bool:
    starts_unpadded = call.axes[0].padding_lo == 0
    return call.is_depthwise and call.is_plain and starts_unpadded and not call.flip


def _is_depthwise_2d(call: _Call) -> bool:
    small = all(a.kernel_size <= 7 and a.stride <= 2 and a.kernel_dilation == 1 for a in call.axes)
    aligned = call.in_channels % 16 == 0
    return call.groups > 1 and call.is_depthwise and call.is_undilated and small and aligned


def _is_winograd_2d(call: _Call) -> bool:
    plain = call.groups == 1 and call.is_plain and not call.flip and call.kernel == (3, 3)
    aligned = call.in_channels % 32 == 0 and call.out_channels % 32 == 0
    inputs = call.batch * prod(axis.size for axis in call.axes)
    return plain and aligned and inputs >= 4096 and call.in_channels + call.out_channels >= 256


def _pads_in_channels_2d(call: _Call) -> bool:
    unstrided = call.is_undilated and all(axis.stride == 1 for axis in call.axes)
    worth = call.groups == 1 and call.rows >= 256 and prod(call.kernel) >= 9
    return unstrided and worth and not call.is_aligned and _fits_out(call.out_channels)


def _is_general_2d(call: _Call) -> bool:
    aligned = call.in_channels % 16 == 0 and call.out_channels % 16 == 0
    return call.groups == 1 and (aligned or call.rows >= 256)


def _is_small_depth_3d(call: _Call) -> bool:
    depth = call.axes[0]
    plain = depth.stride == depth.kernel_dilation == 1 and depth.padding_lo == 0
    return call.is_undilated and call.batch == 1 and depth.kernel_size <= 7 and plain


_MISFIT = "channels that do not fill the tiles of the fast kernels"
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
        "input_dilation 1 and channels that fill the tiles",
    ),
    *_EXPLICIT,
)

_RULES_2D = (
    Rule("depthwise_2d", _is_depthwise_2d, "depthwise, at most 7 by 7, stride at most 2, C % 16"),
    Rule("winograd_2d", _is_winograd_2d, "3 by 3, plain, not flipped, C and O % 32, large"),
    Rule("pad_in_channels_2d", _pads_in_channels_2d, "only C does not fill the tiles, 9 taps on"),
    Rule(
        "implicit_gemm_2d",
        lambda call: call.is_undilated and call.is_aligned,
        "input_dilation 1 and channels that fill the tiles",
    ),
    Rule("implicit_gemm_2d_general", _is_general_2d, "C and O % 16, or 256 outputs; not grouped"),
    *_EXPLICIT,
)

_RULES_3D = (
    Rule(
        "pad_and_slice_3d",
        lambda call: (
            call.is_undilated and not (call.in_channels % 16 == 0 and _fits_out(call.out_channels))
        ),
        "input_dilation 1, channels are padded until they fill the tiles",
    ),
    Rule("small_kd_3d", _is_small_depth_3d, "batch 1, at most 7 taps in depth, none padded there"),
    Rule("implicit_gemm_3d", lambda call: call.is_undilated, "input_dilation 1"),
    Rule("explicit_gemm_nd", lambda call: True, "input_dilation above 1"),
)

_DISPATCH = {
    1: ("conv_1D_gpu", _RULES_1D),
    2: ("dispatch_conv_2D_gpu", _RULES_2D),
    3: ("conv_3D_gpu", _RULES_3D),
}
