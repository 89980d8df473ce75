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
from polyconv.planning.cost import n_frames, n_weights
from polyconv.planning.devices import CPU, Device, Host
from polyconv.planning.estimate import fastest, seconds_of
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
from polyconv.planning.workspace import allocated
from polyconv.problem.arguments import choice, refuse
from polyconv.problem.spec import ConvSpec

# Predicted times so near each other are taken for equal: the plan that needs less memory is taken.
NEAR = 1.05


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
        ConvPlan: With ``"auto"`` the fastest, as far as is known: what the device's tuning found,
        where it knows the layer, or else what is estimated. MLX's own convolution takes part
        where no axis has an input dilation, on CUDA only if nothing is flipped either. On Metal it
        takes part wherever its kernel neither unfolds nor reads outside its input. Without dilation
        and flip it is taken there at once. Of plans that are predicted to be equally fast on Metal,
        within `NEAR`, it is the one that allocates least.

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
    if reasons or not spec.is_input_dilated or device.backend.predicts_kernels:
        direct = lower_native(spec, device)  # elsewhere a dilated one neither stays nor competes
    if isinstance(direct, ConvPlan) and _stays_native(direct):
        return direct
    return _cheapest(spec, direct, op, device, reasons, packed)


def _forced(spec: ConvSpec, method: str, op: str, device: Device) -> ConvPlan:
    choice(op, "method", method, ("auto", *METHODS))
    forced = METHODS[method](spec, device)
    if spec.dtype == "float64" and method != "taps" and not _has_float64(spec):
        forced = Rejection(method, "MLX has no convolution of float64 here")
    if isinstance(forced, Rejection):
        refuse(op, "method must suit the arguments", f"{method!r}: {forced.reason}")
    return forced


def _cheapest(
    spec: ConvSpec,
    direct: ConvPlan | Rejection | None,
    op: str,
    device: Device,
    reasons: bool,
    packed: bool,
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
    best = _fastest(plans, packed)
    if direct is None or not reasons:
        return best
    return _explained(best, lowered, direct)


def _lowered(spec: ConvSpec, device: Device, reasons: bool) -> list[ConvPlan | Rejection]:
    """What is compared, besides MLX's own op; without `reasons` no more than may be taken."""
    names = [name for name in METHODS if name != "native"]
    if not reasons and not _takes_products(spec, device):
        names.remove("taps")
    return [METHODS[name](spec, device) for name in names]


def _fastest(plans: list[ConvPlan], packed: bool) -> ConvPlan:
    """The one of the least time. Predictions tell no difference within `NEAR`: bytes do."""
    if len(plans) == 1:
        return plans[0]
    if not plans[0].device.backend.predicts_kernels:
        return fastest(plans)[0]
    near = fastest(plans, packed, NEAR)
    return near[0] if len(near) == 1 else min(near, key=_bytes)


def _bytes(candidate: ConvPlan) -> int:
    """What it allocates besides arguments and result."""
    return sum(allocated(candidate).values())


def alternatives(spec: ConvSpec, device: Device = CPU) -> list[ConvPlan]:
    """All that `auto` compares, each form of `taps` by itself."""
    lowered = by_taps(spec, device)
    if not is_by_taps_alone(spec, device):
        lowered += [lower_per_phase(spec, device), lower_stacked(spec, device)]
    plans = [each for each in lowered if isinstance(each, ConvPlan) and _suits(each)]
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
    assert isinstance(device, Host)  # only such take gradient plans
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

    It may not where it would multiply inserted zeros on a CPU, where it may be wrong on CUDA, or
    where its kernel on Metal unfolds or reads outside its input.
    """
    if is_by_taps_alone(direct.problem, direct.device):
        return False
    backend = direct.device.backend
    if backend.shares_cudnn_plans:
        return not shares_plans(direct.problem)
    if backend.predicts_kernels:
        spec = direct.problem
        if spec.is_input_dilated and (spec.ndim != 2 or spec.groups > 1):
            return False  # found sooner: by no recorded rule is it anything but unfolded
        return direct.first.issued.is_safe
    return not direct.problem.is_input_dilated


def _suits(candidate: ConvPlan) -> bool:
    """Whether `auto` may take it, for its products."""
    if not candidate.products or candidate.products == "scaled":
        return not candidate.products or candidate.device.backend.takes_products
    return _takes_products(candidate.problem, candidate.device)


def _takes_products(spec: ConvSpec, device: Device) -> bool:
    """Whether `auto` may multiply matrices. It does not where MLX would round float32 to TF32."""
    rounds = device.rounds_products and spec.dtype == "float32"
    return device.backend.takes_products and not rounds


def _explained(
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
    if backend.shares_cudnn_plans and shares_plans(direct.problem):
        return "MLX on CUDA may compute it by cuDNN's plan for another input_dilation"
    if not backend.predicts_kernels and direct.cost.macs_in_loops:
        return "MLX computes it on the CPU by loops over single samples"
    if not backend.predicts_kernels:
        return _dearer(direct, best)
    if direct.first.issued.is_safe:
        return _dearer(direct, best)
    if direct.problem.is_input_dilated:
        return "MLX's fast kernels need input_dilation 1, no zeros between the samples"
    return "its kernel unfolds or reads outside its input"


def _dearer(other: ConvPlan, best: ConvPlan) -> str:
    if not _suits(other):
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
        needed = f"{si(_bytes(other))}B against {si(_bytes(best))}B"
        return f"predicted to be as fast as {best.method}, and allocates {needed}"
    return f"predicted to take {ratio:.3g} times as long as {best.method}"
