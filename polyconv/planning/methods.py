"""Which methods are there, and what plan does each make of a convolution?

A method is a function of a problem and a device, entered in `METHODS`: the plan, or why there is
none. Standard library only.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product
from math import lcm

from polyconv.planning.axis_methods import (
    grouped_axis,
    native_axis,
    per_phase_axis,
    stacked_axis,
    zero_axis,
)
from polyconv.planning.axis_plan import AxisPlan, Rejection
from polyconv.planning.cost import Products
from polyconv.planning.devices import Device
from polyconv.planning.estimate import fastest
from polyconv.planning.plan import ConvPlan
from polyconv.problem.phases import phase_stride
from polyconv.problem.spec import INT32_MAX, ConvSpec


def lower_per_phase(spec: ConvSpec, device: Device) -> ConvPlan | Rejection:
    if spec.is_empty:
        return _nothing(spec, "per_phase", device)
    return _plan_of(spec, "per_phase", [per_phase_axis(axis) for axis in spec.axes], device)


def lower_stacked(spec: ConvSpec, device: Device) -> ConvPlan | Rejection:
    if spec.is_empty:
        return _nothing(spec, "stacked", device)
    axes = []
    for axis in spec.axes:
        lowered = stacked_axis(axis)
        if isinstance(lowered, Rejection):
            return lowered
        axes.append(lowered)
    return _plan_of(spec, "stacked", axes, device)


def lower_taps(spec: ConvSpec, device: Device) -> ConvPlan | Rejection:
    lowered = by_taps(spec, device, in_question=True)
    plans = [each for each in lowered if isinstance(each, ConvPlan)]
    if not plans:
        return next(each for each in lowered if isinstance(each, Rejection))
    return fastest(plans)[0]


def by_taps(
    spec: ConvSpec, device: Device, in_question: bool = False
) -> list[ConvPlan | Rejection]:
    """Each way to multiply tap by tap, or each that may cost least.

    Per axis: one window for all phases, or one per group of phases with equal tap counts. Where
    frames advance by one sample, each tap reads a slice of the padded input (``"flat"``). What it
    reads can always be gathered instead. Which is less work depends on the margins.
    """
    if spec.is_empty:
        return [_nothing(spec, "taps", device)]
    # On a line, or on Metal, where padding and margins cost little beside a launch.
    is_plain = spec.ndim == spec.groups == 1 or device.backend.predicts_kernels
    cuts: list[list[AxisPlan]] = []
    for axis in spec.axes:
        own, shared = grouped_axis(axis), stacked_axis(axis)
        if isinstance(shared, Rejection) or own.n_blocks == 1:
            cuts.append([own])
        elif in_question and is_plain and shared.block_taps == own.block_taps:
            cuts.append([shared])  # it multiplies no zeros, in fewer products and copies
        else:
            cuts.append([shared, own])
    ways: list[Products]
    if spec.in_channels == spec.groups:
        ways = ["scaled"]
    elif not reads_in_lines(spec):
        ways = ["gathered"]
    else:
        is_flat = spec.ndim == 1 and spec.batch == 1
        is_flat = is_flat or (in_question and device.backend.predicts_kernels)
        ways = ["flat"] if is_flat else ["flat", "gathered"]
    return [_plan_of(spec, "taps", axes, device, way) for axes in product(*cuts) for way in ways]


def reads_in_lines(spec: ConvSpec) -> bool:
    """Whether each tap reads a slice of the padded input: one group, frames a sample apart."""
    return spec.groups == 1 and all(phase_stride(axis) == 1 for axis in spec.axes)


def lower_native(spec: ConvSpec, device: Device) -> ConvPlan | Rejection:
    if spec.groups > 1 and spec.ndim == 3:
        return Rejection("native", "MLX has no groups in 3D")
    if spec.is_empty:
        return Rejection("native", "MLX fails on arrays without elements")
    if device.backend.misreads_steps and _is_misread(spec):
        return Rejection("native", "MLX on CUDA may overlook a stride or dilation of it")
    axes = tuple(native_axis(axis) for axis in spec.axes)
    for axis in [lowered.blocks[0].axis for lowered in axes]:
        cropped = min(axis.padding_lo, axis.padding_hi)
        if cropped < 0 and axis.input_dilation > 1:
            return Rejection("native", "MLX crops before it dilates where padding is negative")
        if cropped <= -axis.size:
            return Rejection("native", "MLX miscounts where negative padding crops a whole axis")
        common = (
            lcm(axis.input_dilation, axis.stride),
            lcm(axis.input_dilation, axis.kernel_dilation),
        )
        if axis.input_dilation > 1 and max(common) > INT32_MAX:
            return Rejection("native", "MLX counts common multiples of its steps in int32")
    return ConvPlan(spec, "native", axes, flip=spec.flip, device=device)


def lower_ordinary(spec: ConvSpec, device: Device) -> ConvPlan | None:
    """MLX's own convolution where it dilates no input and flips no kernel, if it has one."""
    if spec.is_input_dilated or spec.flip:
        return None
    found = lower_native(spec, device)
    return found if isinstance(found, ConvPlan) else None


def _is_misread(spec: ConvSpec) -> bool:
    """Whether cuDNN may be asked for another convolution; `Backend.misreads_steps` says why."""
    if spec.flip:
        return any(axis.stride > 1 for axis in spec.axes)
    return spec.is_input_dilated


def _nothing(spec: ConvSpec, method: str, device: Device) -> ConvPlan:
    """The plan of an empty problem. Its phases are not looked for."""
    return _plan_of(spec, method, [zero_axis(axis) for axis in spec.axes], device)


def _plan_of(
    spec: ConvSpec, method: str, axes: Sequence[AxisPlan], device: Device, products: Products = ""
) -> ConvPlan:
    return ConvPlan(spec, method, tuple(axes), flip=False, device=device, products=products)


METHODS: dict[str, Callable[[ConvSpec, Device], ConvPlan | Rejection]] = {
    "per_phase": lower_per_phase,
    "stacked": lower_stacked,
    "taps": lower_taps,
    "native": lower_native,
}
