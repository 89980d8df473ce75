"""Which plan computes each of the three maps of a call, and does it fit? Standard library only."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from math import inf
from typing import Literal, TypeAlias

from polyconv.planning.choose import plan, plan_for_gradients
from polyconv.planning.devices import Device
from polyconv.planning.methods import lower_ordinary, reads_in_lines
from polyconv.planning.plan import ConvPlan
from polyconv.planning.tiling import (
    Room,
    Tiling,
    arranged,
    least_room,
    others_than,
    workspace,
)
from polyconv.problem.arguments import NoRoomError
from polyconv.problem.spec import ConvSpec, adjoint

# The kind of a map's result: the output, or the gradient of the input or of the weight.
Kind: TypeAlias = Literal["x", "w", "y"]
KINDS: tuple[Kind, ...] = ("x", "w", "y")


@dataclass(frozen=True, slots=True)
class Request:
    """What to compute for which op, by which method, planned for which device.

    With `packed` the weight is. `max_workspace` bytes may be allocated besides arguments and
    result. With `least_otherwise` the call can also be computed without a plan, by so many bytes.
    An error then tells no larger number to be enough.
    """

    op: str
    spec: ConvSpec
    method: str
    device: Device
    max_workspace: int | None = None
    least_otherwise: int | None = None
    packed: bool = False


class Way:
    """The plan of one of the maps: whole where it fits, in tiles where it does not."""

    def __init__(self, kind: Kind, request: Request) -> None:
        self._request = request
        self.plan = _plan_for(kind, request)
        # The gradient of the input may be a convolution like any other, of `y`.
        is_convolved = kind == "x" and self.plan.problem != request.spec
        self._kind: Kind = "y" if is_convolved else kind
        self._takes_others = kind == "y" and request.method == "auto"
        self._arranged: dict[Room, tuple[ConvPlan, Tiling | None]] = {}
        # What a device must have for the plan to need no tiles.
        self.least = least_room(self.plan, self._kind, request.max_workspace)

    def fits(self, room: Room) -> bool:
        """Whether the plan needs no tiles."""
        return self.least.largest <= room.largest and self.least.total <= room.total

    def arranged(self, room: Room) -> tuple[ConvPlan, Tiling | None]:
        """The plan that is taken, and its tiles if it needs any.

        Raises:
            NoRoomError: If not even the tiles fit.
        """
        if self.fits(room):
            return self.plan, None
        if room not in self._arranged:
            self._arranged = {
                room: self._arrange(room)
            }  # the newest alone is kept: it is asked for again
        return self._arranged[room]

    def _arrange(self, room: Room) -> tuple[ConvPlan, Tiling | None]:
        asked, spec = self._request, self.plan.problem
        return arranged(
            asked.op,
            self.plan,
            self._kind,
            workspace(asked.op, spec, self._kind, room, asked.max_workspace),
            others_than if self._takes_others else None,
            most=workspace(asked.op, spec, self._kind, room, None),
            otherwise=asked.least_otherwise,
        )


def check_room(ways: Iterable[Way], room: Room) -> None:
    """Refuses the way that needs most, if one does not fit. Its number is enough for all."""
    errors = []
    for way in ways:
        try:
            way.arranged(room)
        except NoRoomError as error:
            errors.append(error)
    if errors:
        raise max(errors, key=lambda error: inf if error.least is None else error.least)


def check_method(request: Request) -> None:
    """Refuses a method that is unknown or cannot compute it, under the op's name."""
    _planned(request.spec, request.method, request.op, request.device, request.packed)


def _plan_for(kind: Kind, request: Request) -> ConvPlan:
    spec, device, op = request.spec, request.device, request.op
    if kind == "y":
        return _plan_of(request)
    if kind == "w":
        return _plan_for_weight(request)
    backend = device.backend
    if backend.takes_gradient_plans and not backend.spares_operations and reads_in_lines(spec):
        return plan_for_gradients(spec, device)
    # The weight's channels are exchanged for it, so they lie exchanged already.
    found = _planned(adjoint(spec), "auto", op, device)
    return found.with_turned_weight() if spec.ndim == 1 else found  # in 2D it may be mapped


def _plan_for_weight(request: Request) -> ConvPlan:
    """The plan of the weight's gradient. If it is native, it is one product or one convolution.

    Its problem is then the call's, or the adjoint, of which input and cotangent are exchanged.
    """
    spec, device = request.spec, request.device
    if device.backend.spares_operations:
        for each in (spec, adjoint(spec)):
            ordinary = lower_ordinary(each, device)
            if ordinary is not None:
                return ordinary
    if device.backend.takes_gradient_plans:
        return plan_for_gradients(spec, device)
    chosen = _plan_of(request)
    return _planned(spec, "per_phase", request.op, device) if chosen.is_native else chosen


@lru_cache(1024)
def _planned(
    spec: ConvSpec, method: str, op: str, device: Device, packed: bool = False
) -> ConvPlan:
    return plan(spec, method, op, device, reasons=False, packed=packed)


def _plan_of(request: Request) -> ConvPlan:
    try:
        return _planned(request.spec, request.method, request.op, request.device, request.packed)
    except ValueError:  # the forced method cannot take what `mx.vmap` made of the call
        return _planned(request.spec, "auto", request.op, request.device, request.packed)
