"""Which plans can be timed for a convolution, and which was the fastest? No MLX."""

from __future__ import annotations

from polyconv.planning.allowed import is_by_taps_alone, may_be_taken
from polyconv.planning.devices import Device
from polyconv.planning.methods import METHODS, by_taps
from polyconv.planning.plan import ConvPlan
from polyconv.problem.spec import ConvSpec


def candidates(
    spec: ConvSpec, device: Device, allow_unfold: bool = False, packed: bool = False
) -> list[ConvPlan]:
    """All that tuning compares: each form of each method, and MLX's own op where it is right.

    Unless `allow_unfold` none of them unfolds on a GPU.
    """
    if spec.dtype == "float64" and not device.backend.keeps_float64:
        return []  # no GPU has it
    lowered = by_taps(spec, device)
    if not is_by_taps_alone(spec, device):
        lowered += [lower(spec, device) for name, lower in METHODS.items() if name != "taps"]
    plans = [each for each in lowered if isinstance(each, ConvPlan)]
    if packed:
        plans = [each.with_turned_weight() for each in plans]
    return [each for each in plans if may_be_taken(each, allow_unfold)]


def tuned_plan(spec: ConvSpec, device: Device, packed: bool) -> ConvPlan | None:
    """The plan that was the fastest where the convolution, or one of another size, was timed.

    None if there is no such plan, or no product or convolution is needed.
    """
    tuning = device.tuning
    entry = None if tuning is None else tuning.nearest(spec, packed)
    if tuning is None or entry is None:
        return None
    known = {each.label: each for each in candidates(spec, device, tuning.allow_unfold, packed)}
    found = next((known[label] for label in entry.labels if label in known), None)
    return None if found is None or found.is_zero else found
