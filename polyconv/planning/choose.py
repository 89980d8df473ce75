"""Which method is taken for a convolution, and why not the others? Standard library only."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

from polyconv.planning.allowed import (
    competes,
    has_float64,
    is_by_taps_alone,
    may_compete,
    stays_native,
    suits,
    takes_products,
)
from polyconv.planning.axis_methods import per_phase_axis
from polyconv.planning.axis_plan import Rejection
from polyconv.planning.candidates import tuned_plan
from polyconv.planning.cost import n_frames, n_weights
from polyconv.planning.devices import CPU, Device, Host
from polyconv.planning.estimate import best_of
from polyconv.planning.methods import (
    METHODS,
    by_taps,
    lower_native,
    lower_per_phase,
    lower_stacked,
    lower_taps,
)
from polyconv.planning.plan import ConvPlan
from polyconv.planning.reasons import explained, with_reasons
from polyconv.problem.arguments import choice, refuse
from polyconv.problem.spec import ConvSpec


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
        where no axis has an input dilation. On CUDA it does where it can be kept right, and else
        only if nothing is flipped either (`cudnn_plans.py`). On Metal it takes part wherever its
        kernel neither unfolds nor reads outside its input. Without dilation and flip it is taken
        there at once. Of plans that are predicted to be equally fast on Metal, within
        `estimate.NEAR`, it is the one that allocates least.

    Raises:
        ValueError: If `method` is unknown or cannot compute `spec`.
    """
    if spec.dtype == "float64" and not device.backend.keeps_float64:  # no GPU has it
        refuse(op, "x must be float16, bfloat16 or float32 here, as for MLX", spec.dtype)
    if method != "auto":
        forced = _forced(spec, method, op, device)
        return forced.with_turned_weight() if packed else forced
    tuned = tuned_plan(spec, device, packed)
    if tuned is not None and reasons:
        other = plan(spec, method, op, replace(device, tuning=None), reasons=False)
        return with_reasons(tuned, other, packed)
    if tuned is not None:
        return tuned
    if is_by_taps_alone(spec, device):
        return _in_float64(spec, device)
    direct: ConvPlan | Rejection | None = None
    if reasons or may_compete(spec, device):
        direct = lower_native(spec, device)
    if isinstance(direct, ConvPlan) and packed:
        direct = direct.with_turned_weight()
    if isinstance(direct, ConvPlan) and stays_native(direct):
        return direct
    return _cheapest(spec, direct, op, device, reasons, packed)


def _forced(spec: ConvSpec, method: str, op: str, device: Device) -> ConvPlan:
    choice(op, "method", method, ("auto", *METHODS))
    forced = METHODS[method](spec, device)
    if spec.dtype == "float64" and method != "taps" and not has_float64(spec):
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
    plans = [each for each in lowered if isinstance(each, ConvPlan) and suits(each)]
    if isinstance(direct, ConvPlan) and competes(direct):
        plans.insert(0, direct)
    if not plans:
        told = {other.reason for other in lowered if isinstance(other, Rejection)}
        refuse(op, "method 'auto' must find one other than native", "; ".join(sorted(told)))
    nothing = next((each for each in plans if each.is_zero), None)
    if nothing is not None:
        return nothing
    best = best_of(plans, packed)
    if direct is None or not reasons:
        return best
    return explained(best, lowered, direct)


def _lowered(spec: ConvSpec, device: Device, reasons: bool) -> list[ConvPlan | Rejection]:
    """What is compared, besides MLX's own op; without `reasons` no more than may be taken."""
    names = [name for name in METHODS if name != "native"]
    if not reasons and not takes_products(spec, device):
        names.remove("taps")
    return [METHODS[name](spec, device) for name in names]


def alternatives(spec: ConvSpec, device: Device = CPU) -> list[ConvPlan]:
    """All that `auto` compares, each form of `taps` by itself."""
    lowered = by_taps(spec, device)
    if not is_by_taps_alone(spec, device):
        lowered += [lower_per_phase(spec, device), lower_stacked(spec, device)]
    plans = [each for each in lowered if isinstance(each, ConvPlan) and suits(each)]
    direct = lower_native(spec, device)
    if isinstance(direct, ConvPlan) and competes(direct):
        plans.append(direct)
    return plans


def _in_float64(spec: ConvSpec, device: Device) -> ConvPlan:
    reason = "MLX's convolutions of float64 are as accurate as those of float32"
    found = lower_taps(spec, device)
    assert isinstance(found, ConvPlan)  # each phase may have a window of its own
    others = [Rejection(name, reason) for name in METHODS if name != found.method]
    return replace(found, rejected=tuple(others))


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
