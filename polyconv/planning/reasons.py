"""Why is a plan taken, and why not the other methods? Standard library only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from polyconv.planning.allowed import shares_plans, suits
from polyconv.planning.axis_plan import Rejection
from polyconv.planning.estimate import NEAR, bytes_of, seconds_of
from polyconv.planning.methods import METHODS
from polyconv.planning.plan import ConvPlan
from polyconv.planning.rates import si
from polyconv.planning.tuned import Entry
from polyconv.problem.spec import ConvSpec


def explained(
    best: ConvPlan, lowered: list[ConvPlan | Rejection], direct: ConvPlan | Rejection
) -> ConvPlan:
    rejected = [
        other if isinstance(other, Rejection) else Rejection(other.method, _dearer(other, best))
        for other in lowered
        if other is not best
    ]
    if direct is best:
        return replace(best, rejected=tuple(rejected))
    if isinstance(direct, ConvPlan):
        direct = Rejection("native", _not_native(direct, best))
    return replace(best, rejected=(*rejected, direct))


def _not_native(direct: ConvPlan, best: ConvPlan) -> str:
    backend = direct.device.backend
    if shares_plans(direct):
        return "MLX on CUDA may compute it by cuDNN's plan for another input_dilation"
    if not backend.predicts_kernels and direct.cost.macs_in_loops:
        return "MLX computes it on the CPU by loops over single samples"
    if not backend.predicts_kernels:
        return _dearer(direct, best)
    if direct.first.issued.is_safe:
        return _dearer(direct, best)
    kernel = direct.first.issued.kernel
    if kernel is not None and not (kernel.is_explicit or kernel.hazard):
        return "its kernel was read from MLX's binaries; those that were recorded unfold"
    if direct.problem.is_input_dilated:
        return "MLX's fast kernels need input_dilation 1, no zeros between the samples"
    return "its kernel unfolds or reads outside its input"


def _dearer(other: ConvPlan, best: ConvPlan) -> str:
    if not suits(other):
        if other.device.rounds_products:
            return "MLX makes products of float32 by TF32 here (MLX_ENABLE_TF32=1 allows them)"
        return "it spares the copies of MLX's CPU convolutions, which no kernel makes on a GPU"
    if other.device.backend.predicts_kernels:
        return _predicted_dearer(other, best)
    a, b, seconds, least = other.cost, best.cost, seconds_of(other), seconds_of(best)
    if a == b:
        return f"does the same as {best.method}"
    if least:
        estimated = f"estimated {seconds / least:.3g} times the cost"
    else:  # by rates that are 0, as a calibration may find them
        estimated = f"estimated to take {seconds:.3g} s against 0"
    return (
        f"{estimated}: {a.n_convs} convolutions against {b.n_convs}, "
        f"{si(a.macs).strip()} MACs against {si(b.macs).strip()}, "
        f"{si(a.bytes_moved)}B moved against {si(b.bytes_moved)}B"
    )


def _predicted_dearer(other: ConvPlan, best: ConvPlan) -> str:
    ratio = seconds_of(other) / seconds_of(best)
    if ratio <= NEAR:
        needed = f"{si(bytes_of(other))}B against {si(bytes_of(best))}B"
        return f"predicted to be as fast as {best.method}, and allocates {needed}"
    return f"predicted to take {ratio:.3g} times as long as {best.method}"


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
