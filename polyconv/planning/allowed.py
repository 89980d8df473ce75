"""Which plans may `auto` take: right numbers, and no more memory than is promised? No MLX."""

from __future__ import annotations

from polyconv.metal.kernels import RECORDED, predict
from polyconv.planning.devices import Device, Metal
from polyconv.planning.plan import ConvPlan, SubConv
from polyconv.problem.spec import ConvSpec


def is_by_taps_alone(spec: ConvSpec, device: Device) -> bool:
    """Whether only products may compute it: convolutions compute float64 in float32."""
    return spec.dtype == "float64" and device.backend.keeps_float64


def has_float64(spec: ConvSpec) -> bool:
    """Whether MLX computes it by a matrix product. Its loops on the CPU know no float64."""
    is_dilated = any(max(axis.input_dilation, axis.kernel_dilation) > 1 for axis in spec.axes)
    return not is_dilated and (spec.groups == 1 or (spec.ndim == 1 and not spec.flip))


def shares_plans(direct: ConvPlan) -> bool:
    """Whether MLX's own op may run cuDNN's plan of another stride (`cudnn_plans.py`).

    It may for transposed convolutions that are not marked. One of stride 1 is flipped like the
    others.
    """
    is_safe = not (direct.problem.is_input_dilated or direct.problem.flip)
    is_safe = is_safe or direct.first.issued.form.lift == "marked"
    return direct.device.backend.shares_cudnn_plans and not is_safe


def may_compete(spec: ConvSpec, device: Device) -> bool:
    """Whether it is worth while to plan MLX's own op, as `stays_native` or `competes` may hold."""
    backend = device.backend
    return not spec.is_input_dilated or backend.predicts_kernels or backend.shares_cudnn_plans


def stays_native(direct: ConvPlan) -> bool:
    """Whether MLX's own convolution is taken at once, without a look at the other methods.

    It is where its kernel is known and no input is dilated, as polyconv has nothing to add there.
    It is not if it would unfold, read outside its input, or flip the kernel: MLX's fastest kernels
    do not flip. On a `Host` it is one of several, compared by cost.
    """
    if direct.problem.is_input_dilated or not direct.device.backend.predicts_kernels:
        return False
    return not direct.problem.flip and direct.first.issued.is_safe


def competes(direct: ConvPlan) -> bool:
    """Whether `auto` may take MLX's own convolution for its cost.

    It may not where it would multiply inserted zeros on a CPU, where it may be wrong on CUDA, or
    where its kernel on Metal unfolds or reads outside its input.
    """
    if is_by_taps_alone(direct.problem, direct.device):
        return False
    backend = direct.device.backend
    if backend.shares_cudnn_plans:
        return not shares_plans(direct)
    if backend.predicts_kernels:
        spec = direct.problem
        if spec.is_input_dilated and (spec.ndim != 2 or spec.groups > 1):
            return False  # found sooner: by no recorded rule is it anything but unfolded
        return direct.first.issued.is_safe
    return not direct.problem.is_input_dilated


def suits(candidate: ConvPlan) -> bool:
    """Whether `auto` may take it, for its products."""
    if not candidate.products or candidate.products == "scaled":
        return not candidate.products or candidate.device.backend.takes_products
    return takes_products(candidate.problem, candidate.device)


def takes_products(spec: ConvSpec, device: Device) -> bool:
    """Whether `auto` may multiply matrices. It does not where MLX would round float32 to TF32."""
    rounds = device.rounds_products and spec.dtype == "float32"
    return device.backend.takes_products and not rounds


def may_be_taken(plan: ConvPlan, allow_unfold: bool) -> bool:
    """Whether the plan gives the right numbers and keeps the promise of memory.

    On a CPU all do: MLX's convolutions copy windows there too, and what does not fit is computed in
    tiles. On a GPU kernels must not unfold, and products must read the input where it lies, unless
    `auto` takes products there by itself.
    """
    backend = plan.device.backend
    if plan.is_native and shares_plans(plan):
        return False
    if backend.copies_windows:
        return True
    if plan.products and plan.device.rounds_products and plan.problem.dtype == "float32":
        return False  # it would be less exact
    if plan.products:
        return allow_unfold or backend.takes_products or plan.products == "flat"
    if not backend.predicts_kernels or not plan.is_native or plan.first.issued.is_safe:
        return True  # of polyconv's own all forms are safe
    return allow_unfold and _is_right(plan.first)


def _is_right(sub: SubConv) -> bool:
    """Whether MLX neither reads outside the input nor raises an error, by all rules."""
    device, given = sub.device, sub.issued.spec
    assert isinstance(device, Metal)  # as its kernels are predicted
    kernels = [predict(given, device.limits, rules) for rules in (device.rules, RECORDED)]
    return not any(each.hazard or each.error for each in kernels)
