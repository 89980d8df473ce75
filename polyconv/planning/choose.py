"""Which method is taken for a convolution, and why not the others? Standard library only."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

from polyconv.planning.axis_methods import per_phase_axis
from polyconv.planning.axis_plan import Rejection
from polyconv.planning.candidates import (
    is_by_taps_alone,
    shares_plans,
    tuned_plan,
    with_reasons,
)
from polyconv.planning.cost import n_frames, n_weights, on_metal
from polyconv.planning.devices import CPU, Device
from polyconv.planning.methods import (
    METHODS,
    by_taps,
    lower_native,
    lower_per_phase,
    lower_stacked,
    lower_taps,
)
from polyconv.planning.plan import ConvPlan
from polyconv.planning.rates import si
from polyconv.problem.arguments import choice, refuse
from polyconv.problem.spec import ConvSpec

# How much more than the ideal multiply-accumulates `auto` spends on Metal where it need not.
MOST_MACS = 1.15


def plan(
    spec: ConvSpec,
    method: str = "auto",
    op: str = "plan",
    device: Device = CPU,
    reasons: bool = True,
    packed: bool = False,
) -> ConvPlan:
    """Plans a convolution.

    Args:
        spec (ConvSpec): The convolution.
        method (str): ``"auto"``, or one of `METHODS` to force it.
        op (str): The name that errors are reported under.
        device (Metal or Host, optional): What to plan for. Default: a CPU.
        reasons (bool, optional): Say why the other methods are not taken. Without, the same plan is
            found sooner, as what cannot be taken is not planned. Default: ``True``.
        packed (bool, optional): Whether the weight is packed already. Default: ``False``.

    Returns:
        ConvPlan: With ``"auto"`` what the device's tuning found the fastest, where it knows the
        layer; else the cheapest. MLX's own convolution takes part where no axis has
        an input dilation, on CUDA only if nothing is flipped either. On Metal it is taken there if
        its kernel is safe and nothing is flipped. Otherwise Metal has the cheapest method that
        spends at most `MOST_MACS` times the `ideal` arithmetic, if one does.

    Raises:
        ValueError: If `method` is unknown or cannot compute `spec`.
    """
    if method != "auto":
        return _forced(spec, method, op, device)
    tuned = tuned_plan(spec, device, packed)
    if tuned is not None:
        untuned = replace(device, tuning=None)
        other = plan(spec, method, op, untuned, reasons=False) if reasons else tuned
        return with_reasons(tuned, other, packed) if reasons else tuned
    if is_by_taps_alone(spec, device):
        return _in_float64(spec, device)
    if spec.dtype == "float64" and not _has_float64(spec):  # no GPU has it
        refuse(op, "dtype must be float16, bfloat16 or float32 (as for MLX)", spec.dtype)
    direct: ConvPlan | Rejection | None = None
    if reasons or not spec.is_input_dilated:  # else it neither stays nor competes
        direct = lower_native(spec, device)
    if isinstance(direct, ConvPlan) and _stays_native(direct):
        return direct
    return _cheapest(spec, direct, op, device, reasons)


def _forced(spec: ConvSpec, method: str, op: str, device: Device) -> ConvPlan:
    choice(op, "method", method, ("auto", *METHODS))
    forced = METHODS[method](spec, device)
    if spec.dtype == "float64" and method != "taps" and not _has_float64(spec):
        forced = Rejection(method, "MLX has no convolution of float64 here")
    if isinstance(forced, Rejection):
        refuse(op, "method must suit the arguments", f"{method!r}: {forced.reason}")
    return forced


def _cheapest(
    spec: ConvSpec, direct: ConvPlan | Rejection | None, op: str, device: Device, reasons: bool
) -> ConvPlan:
    """The cheapest of all that `auto` may take, with the reasons against the others if asked."""
    lowered = _lowered(spec, device, reasons)
    plans = [each for each in lowered if isinstance(each, ConvPlan) and _suits(each)]
    if isinstance(direct, ConvPlan) and _competes(direct):
        plans.insert(0, direct)
    if not plans:
        told = {other.reason for other in lowered if isinstance(other, Rejection)}
        refuse(op, "some method other than native must apply", "; ".join(sorted(told)))
    nothing = next((each for each in plans if each.is_zero), None)
    if nothing is not None:
        return nothing
    if device.backend.predicts_kernels and len(plans) > 1:
        most = MOST_MACS * ideal(spec)
        plans = [each for each in plans if each.cost.macs <= most] or plans
    best = min(plans, key=lambda candidate: candidate.seconds)
    if best is direct or direct is None or not reasons:
        return best
    return _explained(best, lowered, direct)


def _lowered(spec: ConvSpec, device: Device, reasons: bool) -> list[ConvPlan | Rejection]:
    """What is compared, besides MLX's own op; without `reasons` no more than may be taken."""
    names = [name for name in METHODS if name != "native"]
    if not reasons and not device.backend.takes_products:
        names.remove("taps")
    if not reasons and device.backend.predicts_kernels:
        stacked = lower_stacked(spec, device)
        if isinstance(stacked, ConvPlan) and _beats_phases(stacked):
            return [stacked]
    return [METHODS[name](spec, device) for name in names]


def _beats_phases(stacked: ConvPlan) -> bool:
    """Whether one convolution costs less than phase by phase can at best, on Metal.

    That is with kernels that need no more than the ideal arithmetic, and copy nothing.
    """
    spec = stacked.problem
    if stacked.is_zero or stacked.cost.macs > MOST_MACS * ideal(spec):
        return False
    best = on_metal(spec, [per_phase_axis(axis) for axis in spec.axes])
    return stacked.seconds < best.seconds(stacked.device.rates)


def alternatives(spec: ConvSpec, device: Device = CPU) -> list[ConvPlan]:
    """All that `auto` compares on a `Host`, each form of `taps` by itself."""
    lowered = by_taps(spec, device)
    if not is_by_taps_alone(spec, device):
        lowered += [lower_per_phase(spec, device), lower_stacked(spec, device)]
    plans = [each for each in lowered if isinstance(each, ConvPlan)]
    direct = lower_native(spec, device)
    if isinstance(direct, ConvPlan) and _competes(direct):
        plans.append(direct)
    return plans


def _in_float64(spec: ConvSpec, device: Device) -> ConvPlan:
    reason = "MLX's convolutions of float64 are as accurate as those of float32"
    found = lower_taps(spec, device)
    assert isinstance(found, ConvPlan)  # each phase may have a window of its own
    others = [Rejection(name, reason) for name in METHODS if name != found.method]
    return replace(found, rejected=tuple(others))


def _has_float64(spec: ConvSpec) -> bool:
    """Whether MLX computes it by a matrix product. Its loops on the CPU know no float64."""
    is_dilated = any(max(axis.input_dilation, axis.kernel_dilation) > 1 for axis in spec.axes)
    return not is_dilated and (spec.groups == 1 or (spec.ndim == 1 and not spec.flip))


def ideal(spec: ConvSpec) -> int:
    """Multiply-accumulates of all phases with their own taps and the channels as they are."""
    if spec.is_empty:
        return 0
    axes = [per_phase_axis(axis) for axis in spec.axes]
    return n_frames(spec, axes) * n_weights(spec, axes)


@lru_cache(256)
def plan_for_gradients(spec: ConvSpec, device: Device) -> ConvPlan:
    """The plan of which both gradients are products: one window for all phases, or one per phase.

    The taps of one window lie in the kernel as they come. To put those of several blocks together
    takes some four copies of the kernel more. So one window is taken unless the zeros in it cost
    more than these copies.
    """
    own, shared = lower_per_phase(spec, device), lower_stacked(spec, device)
    assert isinstance(own, ConvPlan)  # anything can be computed phase by phase
    if isinstance(shared, Rejection):
        return own
    rates = device.rates
    copies = 4 * 4 * spec.n_weights * rates.per_byte_moved
    zeros = (shared.cost.macs - own.cost.macs) * max(rates.per_mac, rates.per_panel_mac)
    return shared if zeros <= copies else own


def _stays_native(direct: ConvPlan) -> bool:
    """Whether MLX's own convolution is taken at once, without a look at the other methods.

    It is where its kernel is known and no input is dilated, as polyconv has nothing to add there.
    It is not if it would unfold, read outside its input, or flip the kernel: MLX's fastest kernels
    do not flip. On a `Host` it is one of several, compared by cost.
    """
    if direct.problem.is_input_dilated or not direct.device.backend.predicts_kernels:
        return False
    return not direct.problem.flip and direct.first.issued.is_safe


def _competes(direct: ConvPlan) -> bool:
    """Whether `auto` may take MLX's own convolution for its cost.

    It may not where it would multiply inserted zeros on a CPU, or where it may be wrong on CUDA.
    """
    if is_by_taps_alone(direct.problem, direct.device):
        return False
    backend = direct.device.backend
    if backend.shares_cudnn_plans:
        return not shares_plans(direct.problem)
    return not backend.predicts_kernels and not direct.problem.is_input_dilated


def _suits(candidate: ConvPlan) -> bool:
    """Whether `auto` may take it. Products are for a CPU: no kernel taken on a GPU unfolds."""
    return candidate.device.backend.takes_products or not candidate.products


def _explained(
    best: ConvPlan, lowered: list[ConvPlan | Rejection], direct: ConvPlan | Rejection
) -> ConvPlan:
    rejected = [
        other if isinstance(other, Rejection) else Rejection(other.method, _dearer(other, best))
        for other in lowered
        if other is not best
    ]
    if isinstance(direct, ConvPlan):
        direct = Rejection("native", _not_native(direct, best))
    return replace(best, rejected=(*rejected, direct))


def _not_native(direct: ConvPlan, best: ConvPlan) -> str:
    backend = direct.device.backend
    if backend.shares_cudnn_plans and shares_plans(direct.problem):
        return "MLX on CUDA may compute it by cuDNN's plan for another input_dilation"
    if not backend.predicts_kernels and direct.cost.macs_in_loops:
        return "MLX computes it on the CPU by loops over single samples"
    if not backend.predicts_kernels:
        return _dearer(direct, best)
    if direct.problem.is_input_dilated:
        return "MLX's fast kernels need input_dilation 1, no zeros between the samples"
    if not direct.first.issued.is_safe:
        return "its kernel unfolds or reads outside its input"
    return "MLX calls it with flip=True, which its fastest kernels do not take"


def _dearer(other: ConvPlan, best: ConvPlan) -> str:
    a, b = other.cost, best.cost
    if not _suits(other):
        return "it spares the copies of MLX's CPU convolutions, which no kernel makes on a GPU"
    if a == b:
        return f"does the same as {best.method}"
    if other.seconds < best.seconds:
        return f"{a.macs / b.macs:.2f} times the multiply-accumulates"
    if best.seconds:
        estimated = f"estimated {other.seconds / best.seconds:.3g} times the cost"
    else:  # by rates that are 0, as a calibration may find them
        estimated = f"estimated to take {other.seconds:.3g} s against 0"
    return (
        f"{estimated}: {a.n_convs} convolutions against {b.n_convs}, "
        f"{si(a.macs).strip()} MACs against {si(b.macs).strip()}, "
        f"{si(a.bytes_moved)}B moved against {si(b.bytes_moved)}B"
    )
