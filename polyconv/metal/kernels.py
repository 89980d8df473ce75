"""Which Metal kernel does MLX pick for a convolution, by which rule, and what does it allocate?

A model of MLX's dispatch (mlx/backend/metal/conv.cpp). Version and device are arguments, so that a
Mac can be asked about where there is none. Standard library only.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import prod
from typing import TypeAlias

from polyconv.metal.calls import (
    Call,
    DeviceLimits,
    up16,
    winograd_filter_bytes,
    winograd_item_bytes,
    winograd_padded,
)
from polyconv.metal.rules import DISPATCH, Rule, Version
from polyconv.problem.spec import INT32_MAX, ITEMSIZE, Axis, ConvSpec


@dataclass(frozen=True, slots=True)
class RuleSet:
    """The rules of one version of MLX.

    With `unfolds_in_tiles` (0.32.1 on, mlx #3845) an explicit path fills one buffer of the largest
    size again and again; else it asks for all rows at once, which fails above that size. With
    `winograd_tiles_batch` winograd takes as many items of the batch at once as fit into memory,
    else all.
    """

    version: Version
    unfolds_in_tiles: bool = True
    winograd_tiles_batch: bool = True

    @property
    def number(self) -> str:
        return ".".join(map(str, self.version))

    @property
    def name(self) -> str:
        return f"mlx {self.number}"


# 0.31.2 to 0.32.2 were read from their sources, and 0.32.2 was checked against recorded calls.
# 0.32.3 and 0.32.4 were read from the binaries of their macOS wheels; nothing checks them.
RULE_SETS = (
    RuleSet((0, 31, 2), unfolds_in_tiles=False, winograd_tiles_batch=False),
    RuleSet((0, 32, 0), unfolds_in_tiles=False, winograd_tiles_batch=False),
    RuleSet((0, 32, 1), winograd_tiles_batch=False),
    RuleSet((0, 32, 2)),
    RuleSet((0, 32, 3)),
    RuleSet((0, 32, 4)),
)
NEWEST = RULE_SETS[-1]
RECORDED = next(rules for rules in RULE_SETS if rules.version == (0, 32, 2))


@dataclass(frozen=True, slots=True)
class KernelChoice:
    """The path that MLX takes, the rule that decided, and the function of conv.cpp that holds it.

    An explicit path copies its input window by window into a buffer of `unfold_bytes`, and fills
    that `n_tiles` times. `temporaries` are the bytes of all else besides the output, by purpose.
    `hazard` says where the kernel reads outside its input, and `error` why MLX raises. Both are
    empty as a rule.
    """

    path: str
    because: str
    source: str
    unfold_bytes: int = 0
    n_tiles: int = 1
    temporaries: tuple[tuple[str, int], ...] = ()
    hazard: str = ""
    error: str = ""
    rule_set: str = NEWEST.name

    @property
    def is_explicit(self) -> bool:
        return self.path.startswith("explicit")

    @property
    def temporary_bytes(self) -> int:
        """All bytes beyond inputs, weights and output."""
        return self.unfold_bytes + sum(size for _, size in self.temporaries)


def rules_for(version: Version) -> RuleSet:
    """The newest rule set that is not newer than a version of MLX, or else the oldest."""
    known = [rules for rules in RULE_SETS if rules.version <= version]
    return known[-1] if known else RULE_SETS[0]


def predict(
    spec: ConvSpec,
    limits: DeviceLimits,
    rules: RuleSet = NEWEST,
    *,
    contiguous: tuple[bool, bool] = (True, True),
) -> KernelChoice:
    """What MLX does on Metal with one convolution that is issued as it is.

    Args:
        spec (ConvSpec): The convolution, in float16, bfloat16 or float32. MLX refuses grouped 3D
            before it reaches Metal; here it is answered as if it were not grouped.
        limits (DeviceLimits): The device, such as ``DEVICES["m4-max"]``.
        rules (RuleSet, optional): The version of MLX, one of `RULE_SETS`. Default: the newest.
        contiguous (tuple(bool), optional): Whether input and weight are row-contiguous. MLX copies
            what is not. Default: both are.

    Returns:
        KernelChoice: What the rules say. Those of MLX 0.32.2 agree with 2,310 recorded calls of its
        dispatch code in path and all bytes (tests/data/metal_golden.md). Those of older versions
        were read from the source only, those of 0.32.3 and 0.32.4 from the binaries of their
        wheels. No hardware ran any of them.
    """
    call = _call(spec, limits, rules)
    source, found = _first(call, rules)
    if found.path == "as_2d":
        call = replace(call, axes=(*call.axes, Axis(size=1, kernel_size=1)))
        source, found = _first(call, rules)
    choice = KernelChoice(
        found.path,
        found.because,
        f"conv.cpp: {source}",
        temporaries=_copies(call, found.path, contiguous),
        rule_set=rules.name,
    )
    if call.rows > INT32_MAX:
        choice = replace(choice, error=f"{call.rows} output positions do not fit in int32")
    if choice.is_explicit:
        return _unfolded(choice, call, rules)
    return _with_scratch(choice, call, rules)


def _call(spec: ConvSpec, limits: DeviceLimits, rules: RuleSet) -> Call:
    axes = []
    for axis in spec.axes:
        lo, hi = axis.padding_lo, axis.padding_hi
        if lo < 0 or hi < 0:
            size = axis.size + min(lo, 0) + min(hi, 0)
            axis = replace(axis, size=size, padding_lo=max(lo, 0), padding_hi=max(hi, 0))
        axes.append(axis)
    channels = (spec.in_channels, spec.out_channels, spec.groups)
    itemsize = ITEMSIZE[spec.dtype]
    tiles = rules.winograd_tiles_batch
    return Call(spec.batch, *channels, tuple(axes), spec.flip, itemsize, limits, tiles)


def _first(call: Call, rules: RuleSet) -> tuple[str, Rule]:
    source, table = DISPATCH[len(call.axes)]
    version = rules.version
    in_force = (rule for rule in table if rule.since <= version < rule.before)
    return source, next(rule for rule in in_force if rule.applies(call))


def _copies(call: Call, path: str, contiguous: tuple[bool, bool]) -> tuple[tuple[str, int], ...]:
    """Copies of views. What gets channels padded in 3D is copied anyway, and only once."""
    sizes = [call.input_bytes, call.weight_bytes]
    needed = [not flag for flag in contiguous]
    if path == "pad_and_slice_3d":
        pads_input = call.in_channels % 16 != 0
        pads_weight = pads_input or call.out_channels % 16 != 0
        needed = [needed[0] and not pads_input, needed[1] and not pads_weight]
    copied = sum(size for size, copies in zip(sizes, needed, strict=True) if copies)
    return (("contiguous_copy", copied),) if copied else ()


def _unfolded(choice: KernelChoice, call: Call, rules: RuleSet) -> KernelChoice:
    row = prod(call.kernel) * call.in_channels * call.itemsize
    largest = call.limits.max_buffer_bytes
    fit = largest // row if row else call.rows
    rows = min(call.rows, fit) if rules.unfolds_in_tiles else call.rows
    error = choice.error
    if rows * row > largest:
        error = error or f"the unfold buffer of {rows * row} bytes exceeds the largest, {largest}"
    grouped = choice.path == "explicit_gemm_group_nd"
    extra = (
        (("group_weight_transpose", call.weight_bytes),) if grouped else _split_k(call, rows, row)
    )
    return replace(
        choice,
        unfold_bytes=rows * row,
        n_tiles=-(-call.rows // rows) if rows else 1,
        temporaries=(*choice.temporaries, *extra),
        error=error,
    )


def _split_k(call: Call, rows: int, row_bytes: int) -> tuple[tuple[str, int], ...]:
    """float32 partial sums of a product that is small but deep (mlx/backend/metal/matmul.cpp).

    GPUs with neural accelerators (M5 on) split otherwise, which is not modelled.
    """
    depth, width = row_bytes // call.itemsize, call.out_channels
    most = 2048 if call.limits.architecture in "sd" else 1024
    total = 0
    for tile in {rows, call.rows % rows} - {0} if rows else ():
        if -(-tile // 16) * -(-width // 16) > most or depth < max(128, tile, width):
            continue
        share = depth // 16 // (-(-tile // 32) * -(-width // 32))
        parts = min(max(2, 1 << max(share - 1, 0).bit_length()), 32)
        n_tiles = call.rows // rows if tile == rows else 1
        total += n_tiles * parts * tile * width * 4
    return (("splitk", total),) if total else ()


def _with_scratch(choice: KernelChoice, call: Call, rules: RuleSet) -> KernelChoice:
    if choice.path not in _SCRATCH:
        return choice
    extra, hazard = _SCRATCH[choice.path](call, rules)
    return replace(choice, temporaries=(*choice.temporaries, *extra), hazard=hazard)


_Scratch: TypeAlias = "tuple[tuple[tuple[str, int], ...], str]"


def _depthwise(call: Call, rules: RuleSet) -> _Scratch:
    behind = call.axes[0].padding_hi
    return (), f"reads {behind} samples past each sequence" if behind > 0 else ""


def _winograd(call: Call, rules: RuleSet) -> _Scratch:
    scratch = winograd_filter_bytes(call) + call.winograd_step * winograd_item_bytes(call)
    needed = [6 * -(-axis.output_size // 6) + 2 for axis in call.axes]
    outside = any(n > winograd_padded(a) for n, a in zip(needed, call.axes, strict=True))
    return (("winograd", scratch),), "the last tile reads outside its padding" if outside else ""


def _pad_in_channels(call: Call, rules: RuleSet) -> _Scratch:
    taps = call.out_channels * prod(call.kernel)
    inputs = call.batch * prod(axis.size for axis in call.axes)
    return (("channel_pad", call.itemsize * up16(call.in_channels) * (inputs + taps)),), ""


def _pad_and_slice(call: Call, rules: RuleSet) -> _Scratch:
    """The output is a slice of one with more channels, `output_oversize` bytes larger."""
    channels, outputs = up16(call.in_channels), up16(call.out_channels)
    padded = 0
    if channels != call.in_channels:
        padded += call.batch * prod(axis.size for axis in call.axes) * channels
    if channels != call.in_channels or outputs != call.out_channels:
        padded += outputs * prod(call.kernel) * channels
    oversize = (outputs - call.out_channels) * call.rows
    sizes = (("channel_pad", padded), ("output_oversize", oversize))
    return tuple((role, call.itemsize * size) for role, size in sizes if size), ""


def _small_depth(call: Call, rules: RuleSet) -> _Scratch:
    """One 2D convolution per tap in depth, over views of the input from that frame on."""
    depth, *plane = call.axes
    extra = {"contiguous_copy": call.weight_bytes, "op_output": call.output_bytes}
    if depth.kernel_size > 1:
        extra["small_kd_frame_out"] = (depth.kernel_size - 1) * call.output_bytes
    hazard = f"reads {depth.padding_hi} frames past the input" if depth.padding_hi > 0 else ""
    flat = replace(call, batch=depth.output_size, axes=tuple(plane))
    path = _first(flat, rules)[1].path
    if path == "winograd_2d":
        ((_, scratch),), outside = _winograd(flat, rules)
        extra["winograd"] = depth.kernel_size * scratch
        hazard = hazard or outside
    return tuple(extra.items()), hazard


def _phase_gemms(call: Call, rules: RuleSet) -> _Scratch:
    """Eight products into buffers of their own, each then copied to where its outputs lie."""
    rows = call.batch * prod(axis.size for axis in call.axes)
    phase = replace(call, batch=1, axes=(Axis(size=rows, kernel_size=1),))
    split = _split_k(phase, rows, call.in_channels * call.itemsize)
    return (("phase_products", call.output_bytes), *((role, 8 * n) for role, n in split)), ""


# By path, the bytes beside the output and the hazard.
_SCRATCH: dict[str, Callable[[Call, RuleSet], _Scratch]] = {
    "winograd_2d": _winograd,
    "pad_in_channels_2d": _pad_in_channels,
    "pad_and_slice_3d": _pad_and_slice,
    "small_kd_3d": _small_depth,
    "depthwise_1d": _depthwise,
    "phase_gemms_3d": _phase_gemms,
}
