"""Which plans can be timed for a convolution, and which of them may `auto` take? No MLX."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from polyconv.metal.kernels import RECORDED, predict
from polyconv.planning.axis_plan import Rejection
from polyconv.planning.devices import Device, Metal
from polyconv.planning.methods import METHODS, by_taps
from polyconv.planning.plan import ConvPlan, SubConv
from polyconv.planning.tuned import Entry
from polyconv.problem.spec import ConvSpec


def candidates(spec: ConvSpec, device: Device, allow_unfold: bool = False) -> list[ConvPlan]:
    """All that tuning compares: each form of each method, and MLX's own op where it is right.

    Unless `allow_unfold` none of them unfolds on a GPU.
    """
    if spec.dtype == "float64" and not device.backend.keeps_float64:
        return []  # no GPU has it
    lowered = by_taps(spec, device)
    if not is_by_taps_alone(spec, device):
        lowered += [lower(spec, device) for name, lower in METHODS.items() if name != "taps"]
    plans = [each for each in lowered if isinstance(each, ConvPlan)]
    return [each for each in plans if _may_be_taken(each, allow_unfold)]


def tuned_plan(spec: ConvSpec, device: Device, packed: bool) -> ConvPlan | None:
    """The plan that was the fastest where the convolution, or one of another size, was timed.

    None if there is no such plan, or no product or convolution is needed.
    """
    tuning = device.tuning
    entry = None if tuning is None else tuning.nearest(spec, packed)
    if tuning is None or entry is None:
        return None
    known = {each.label: each for each in candidates(spec, device, tuning.allow_unfold)}
    found = next((known[label] for label in entry.labels if label in known), None)
    return None if found is None or found.is_zero else found


def with_reasons(found: ConvPlan, other: ConvPlan, packed: bool) -> ConvPlan:
    """A tuned plan that says why it is taken. `other` is what would be without tuning."""
    device = found.device
    assert device.tuning is not None  # as the plan is tuned
    entry = device.tuning.nearest(found.problem, packed)
    assert entry is not None
    reasons = [_reason(method, found, entry) for method in METHODS if method != found.method]
    return replace(found, rejected=tuple(reasons), tuned=_told(found, other, entry))


def _told(found: ConvPlan, other: ConvPlan, entry: Entry) -> str:
    best, before = entry.ms[found.label], entry.ms.get(other.label)
    where = "" if entry.problem == found.problem else f" for {_size(entry.problem)}"
    told = f"tuned: {best:.3g} ms{where}"
    if other.label == found.label:
        return f"{told}, as estimated too"
    return told if before is None else f"{told} against {before:.3g} ms of {other.label}"


def _size(problem: ConvSpec) -> str:
    sizes = (problem.batch, *[axis.size for axis in problem.axes], problem.in_channels)
    return f"x of shape {sizes}, the nearest that was timed"


def _reason(method: str, found: ConvPlan, entry: Entry) -> Rejection:
    lowered = METHODS[method](found.problem, found.device)
    if isinstance(lowered, Rejection):
        return lowered
    least = _least_of(method, entry.ms)
    if least is None:
        return Rejection(method, "tuning did not time it")
    return Rejection(method, f"tuned: {least:.3g} ms against {entry.ms[found.label]:.3g} ms")


def _least_of(method: str, ms: Mapping[str, float]) -> float | None:
    """The least of a method's forms."""
    return min([t for label, t in ms.items() if label.split()[0] == method], default=None)


def _may_be_taken(plan: ConvPlan, allow_unfold: bool) -> bool:
    """Whether the plan gives the right numbers and keeps the promise of memory.

    On a CPU all do: MLX's convolutions copy windows there too, and what does not fit is computed in
    tiles. On a GPU kernels must not unfold, and products must read the input where it lies, unless
    `auto` takes products there by itself.
    """
    backend = plan.device.backend
    if plan.is_native and backend.shares_cudnn_plans and shares_plans(plan.problem):
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


def is_by_taps_alone(spec: ConvSpec, device: Device) -> bool:
    """Whether only products may compute it: convolutions compute float64 in float32."""
    return spec.dtype == "float64" and device.backend.keeps_float64


def shares_plans(spec: ConvSpec) -> bool:
    """Whether cuDNN's plan may be that of another stride, as for all transposed convolutions.

    `Backend.shares_cudnn_plans` says why. A transposed convolution of stride 1 is among them, as it
    is flipped like the others. polyconv's other calls on CUDA neither dilate nor flip.
    """
    return spec.is_input_dilated or spec.flip
