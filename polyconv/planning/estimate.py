"""How long does a plan take on its device, as far as is known? Standard library only."""

from __future__ import annotations

from polyconv.planning.devices import Metal
from polyconv.planning.metal_seconds import plan_seconds
from polyconv.planning.plan import ConvPlan


def seconds_of(plan: ConvPlan, packed: bool = False) -> float:
    """The estimated time of a plan. Only those for the same device can be compared.

    On Metal by the time model, where packed weights need no packing. Elsewhere by the rates of the
    device, which were fitted to calls that pack.
    """
    device = plan.device
    if isinstance(device, Metal):
        return plan_seconds(plan, device.gpu, packed=packed, parameters=device.parameters)
    return plan.cost.seconds(device.rates)
