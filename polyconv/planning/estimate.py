"""How long does a plan take on its device, as far as is known? Standard library only."""

from __future__ import annotations

from math import inf, prod

from polyconv.metal.seconds import call_seconds
from polyconv.planning.cost import n_frames, n_weights
from polyconv.planning.devices import Metal
from polyconv.planning.metal_seconds import around, plan_seconds
from polyconv.planning.plan import ConvPlan
from polyconv.planning.workspace import allocated

# Predicted times so near each other are taken for equal: the plan that needs less memory is taken.
NEAR = 1.05


def seconds_of(plan: ConvPlan, packed: bool = False) -> float:
    """The estimated time of a plan. Only those for the same device can be compared.

    On Metal by the time model, where packed weights need no packing. Elsewhere by the rates of the
    device, which were fitted to calls that pack.
    """
    device = plan.device
    if isinstance(device, Metal):
        return plan_seconds(plan, device.gpu, packed=packed, parameters=device.parameters)
    return plan.cost.seconds(device.rates)


def fastest(plans: list[ConvPlan], packed: bool = False, near: float = 1.0) -> list[ConvPlan]:
    """The plan that takes least, and others that take at most `near` times as long, in order."""
    if len(plans) == 1:
        return plans
    bounds = [least_seconds(each, packed) for each in plans]
    found: list[tuple[float, int]] = []
    least = inf
    for i in sorted(range(len(plans)), key=bounds.__getitem__):
        if bounds[i] <= near * least:
            found.append((seconds_of(plans[i], packed), i))
            least = min(least, found[-1][0])
    return [plans[i] for seconds, i in sorted(found) if seconds <= near * least]


def least_seconds(plan: ConvPlan, packed: bool = False) -> float:
    """A bound that the time of a plan never falls below, and that is found sooner on a Mac.

    There it is all but the arithmetic, and that with a launch each at the GPU's peak.
    """
    device = plan.device
    if plan.is_zero or not isinstance(device, Metal):
        return 0.0
    spec, gpu, parameters = plan.problem, device.gpu, device.parameters
    macs = n_frames(spec, plan.axes) * n_weights(spec, plan.axes)
    if plan.is_native:
        macs //= prod(axis.input_dilation for axis in spec.axes)
    peak = gpu.tflops * 1e12 / 2
    if gpu.has_accelerators:
        peak *= parameters.nax_gemm
    n = plan.n_taps if plan.products else prod(axis.n_blocks for axis in plan.axes)
    return call_seconds(around(plan, packed), gpu, parameters) + n * parameters.launch + macs / peak


def best_of(plans: list[ConvPlan], packed: bool) -> ConvPlan:
    """The one of the least time. Predictions tell no difference within `NEAR`: bytes do."""
    if len(plans) == 1:
        return plans[0]
    if not plans[0].device.backend.predicts_kernels:
        return fastest(plans)[0]
    near = fastest(plans, packed, NEAR)
    return near[0] if len(near) == 1 else min(near, key=bytes_of)


def bytes_of(candidate: ConvPlan) -> int:
    """What it allocates besides arguments and result."""
    return sum(allocated(candidate).values())
