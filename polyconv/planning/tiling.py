"""Into which tiles is a convolution cut, so that what it allocates on the way stays below a limit?

A tile is a part of a plan: some items of the batch, and some frames of the longest axis. For the
gradient of the input it is some samples of that axis. A tile is computed by the plan's own
convolutions with the plan's own packed weights, so where sums are exact the numbers are the plan's.
Standard library only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from math import prod
from typing import NamedTuple, NoReturn

from polyconv.planning.axis_parts import frames_reading, outputs_of, part_of, samples_read
from polyconv.planning.axis_plan import AxisPlan
from polyconv.planning.choose import alternatives
from polyconv.planning.estimate import seconds_of
from polyconv.planning.plan import ConvPlan
from polyconv.planning.rates import si
from polyconv.planning.workspace import temporaries
from polyconv.problem.arguments import NoRoomError, refuse
from polyconv.problem.spec import INT32_MAX, ITEMSIZE, ConvSpec

Span = tuple[int, int]


class Room(NamedTuple):
    """Bytes of the largest buffer that a device has, and of all that may lie there at a time."""

    largest: int
    total: int


class Tile(NamedTuple):
    """The plan of some `items` of the batch, and of `inputs` and `outputs` on the tiled axis."""

    plan: ConvPlan
    items: Span
    inputs: Span
    outputs: Span


@dataclass(frozen=True)
class Tiling:
    """A plan in tiles of `n_items` of the batch by `n_steps` along `axis`.

    Steps are frames of the axis. For the gradient of the input, `result` ``"x"``, they are samples.
    The outputs of the tiles do not overlap for ``"y"`` and ``"w"``, their inputs for ``"x"``.
    """

    plan: ConvPlan
    result: str
    axis: int
    n_items: int
    n_steps: int
    _plans: dict[object, ConvPlan] = field(default_factory=dict, compare=False, repr=False)

    @property
    def most_items(self) -> int:
        return self.plan.problem.batch

    @property
    def most_steps(self) -> int:
        along = self._along
        return along.axis.size if self.result == "x" else along.n_frames

    @property
    def n_tiles(self) -> int:
        by_items = -(-self.most_items // self.n_items)
        return by_items * -(-self.most_steps // self.n_steps)

    def __iter__(self) -> Iterator[Tile]:
        for item in range(0, self.most_items, self.n_items):
            items = (item, min(item + self.n_items, self.most_items))
            for step in range(0, self.most_steps, self.n_steps):
                tile = self.tile(items, (step, min(step + self.n_steps, self.most_steps)))
                if tile.outputs[0] < tile.outputs[1]:  # else a gradient, zero there
                    yield tile

    def tile(self, items: Span, steps: Span) -> Tile:
        along = self._along
        if self.result == "x":
            inputs, frames = steps, frames_reading(along, *steps)
        else:
            inputs, frames = samples_read(along, *steps), steps
        return Tile(self._part(items, frames, inputs), items, inputs, outputs_of(along, frames))

    @property
    def bytes(self) -> int:
        """What the largest tile allocates besides arguments and result, at most."""
        n, items, middle = self.n_steps, (0, self.n_items), self._along.axis.size // 2
        if self.result != "x":  # tiles at the ends may read padding alone
            middle = frames_reading(self._along, middle, middle + 1)[0]
        last = (self.most_steps - 1) // n * n
        starts = {0, last, *[min(max(middle // n + i, 0) * n, last) for i in (-1, 0, 1)]}
        tiles = [self.tile(items, (at, min(at + n, self.most_steps))) for at in starts]
        return max(temporaries(tile.plan, self.result) + self._result(tile) for tile in tiles)

    @property
    def _along(self) -> AxisPlan:
        return self.plan.axes[self.axis]

    def _result(self, tile: Tile) -> int:
        """Bytes of a tile's result before it is put in place, and of a copy in the right dtype."""
        spec = tile.plan.problem
        size = _elements(spec, self.result) * (2 if self.result == "w" else 1)
        return (ITEMSIZE[spec.dtype] + max(ITEMSIZE[spec.dtype], 4)) * size

    def _part(self, items: Span, frames: Span, inputs: Span) -> ConvPlan:
        """The plan of a tile. Most tiles are alike, so it is kept by all that it depends on."""
        n, (first, behind), (a, b) = items[1] - items[0], frames, inputs
        step, scale, *_ = self._along.reach
        start, stop = outputs_of(self._along, frames)
        key = (n, behind - first, b - a, scale * a - step * first, first == 0, stop - start)
        if key not in self._plans:
            part = part_of(self._along, frames, inputs)
            axes = [part if i == self.axis else axis for i, axis in enumerate(self.plan.axes)]
            spec = replace(self.plan.problem, batch=n, axes=tuple([each.axis for each in axes]))
            self._plans[key] = replace(self.plan, problem=spec, axes=tuple(axes))
        return self._plans[key]


def workspace(op: str, spec: ConvSpec, result: str, room: Room, most: int | None) -> int:
    """Bytes that a map of this convolution may allocate besides its result.

    They are at most `most`, at most the largest buffer, and at most three quarters of what the
    result leaves of all memory, as arguments lie there too.

    Raises:
        ValueError: If the result alone does not fit.
    """
    size = ITEMSIZE[spec.dtype] * _elements(spec, result)
    if size > room.largest:
        must = "the result must fit into the largest buffer that can be had here"
        refuse(op, must, f"{si(size)}B, more than {si(room.largest)}B", NoRoomError)
    left = max(0, room.total - size) * 3 // 4
    limit = min(left, room.largest)
    return limit if most is None else min(limit, most)


def _elements(spec: ConvSpec, result: str) -> int:
    if result == "y":
        return spec.n_outputs
    return spec.n_inputs if result == "x" else spec.n_weights


def whole(plan: ConvPlan, result: str) -> Tiling:
    """All in one tile, along the axis of most outputs, or of most samples for ``"x"``."""
    along = [axis.size if result == "x" else axis.output_size for axis in plan.problem.axes]
    tiling = Tiling(plan, result, along.index(max(along)), max(plan.problem.batch, 1), 1)
    return replace(tiling, n_steps=max(tiling.most_steps, 1))


def fits(plan: ConvPlan, result: str, limit: int) -> bool:
    """Whether a plan needs no tiles."""
    if plan.is_zero:
        return True
    return _most_elements(plan) <= INT32_MAX and temporaries(plan, result) <= limit


_NOWHERE = Room(2**63, 2**63)


def least_room(plan: ConvPlan, result: str, max_workspace: int | None) -> Room:
    """What a plan needs of the largest buffer and in all, so that it needs no tiles."""
    needed = temporaries(plan, result)
    if not plan.is_zero:
        too_much = max_workspace is not None and needed > max_workspace
        if too_much or _most_elements(plan) > INT32_MAX:
            return _NOWHERE
    return least_room_for(plan.problem, result, needed)


def least_room_for(spec: ConvSpec, result: str, needed: int) -> Room:
    """As `least_room`, for what needs so many bytes besides arguments and result."""
    size = ITEMSIZE[spec.dtype] * _elements(spec, result)
    # The least `left` of which `left * 3 // 4` is enough.
    return Room(max(size, needed), size + -(-needed * 4 // 3))


def _most_elements(plan: ConvPlan) -> int:
    """Elements of the input or of all outputs of all frames. MLX counts both in int32 in places."""
    spec = plan.problem
    frames = spec.batch * prod(axis.computed_size for axis in plan.axes)
    return max(frames * spec.out_channels, spec.n_inputs)


def others_than(chosen: ConvPlan) -> list[ConvPlan]:
    """What `auto` may take if the smallest tile of a plan is too large, the fastest first."""
    return sorted(alternatives(chosen.problem, chosen.device), key=seconds_of)


def arranged(
    op: str,
    plan: ConvPlan,
    result: str,
    limit: int,
    others: Callable[[ConvPlan], list[ConvPlan]] | None = None,
    *,
    most: int | None = None,
    otherwise: int | None = None,
) -> tuple[ConvPlan, Tiling | None]:
    """A plan that allocates no more than `limit` bytes at a time, and its tiles if it has any.

    Args:
        op (str): The name that errors are reported under.
        plan (ConvPlan): What is taken, whole or in tiles, where it can be.
        result (str): The kind of the map's result.
        limit (int): In bytes.
        others (callable, optional): Gives the plans that may be taken instead, of the plan.
        most (int, optional): The bytes that can be had here, whatever is asked for. Default: more
            than any plan needs.
        otherwise (int, optional): The bytes that the call needs without a plan, if it can be
            computed so.

    Raises:
        NoRoomError: If the plan needs more, whole and in its smallest tiles, and so do the smallest
            tiles of `others`. It tells the least of all these: that is accepted, nothing below is.
    """
    if fits(plan, result, limit):
        return plan, None
    whole_at_once = _most_elements(plan) <= INT32_MAX
    least = [temporaries(plan, result)] if whole_at_once else []
    least += [] if otherwise is None else [otherwise]
    found = tiled(plan, result, limit)
    rest = iter(others(plan) if others and isinstance(found, int) else [])
    while not isinstance(found, Tiling):
        least.append(found)
        other = next(rest, None)
        if other is None:
            _refuse(op, min(least), limit, most)
        found = tiled(other, result, limit)
    return found.plan, found


def _refuse(op: str, least: int, limit: int, most: int | None) -> NoReturn:
    what, got = "max_workspace", limit
    if most is not None and most < least:
        what, got = "the memory that can be had", most
    error = partial(NoRoomError, least=least)
    refuse(op, f"{what} must be at least {least} bytes here", str(got), error)


def tiled(plan: ConvPlan, result: str, limit: int) -> Tiling | int:
    """The largest tiles of which each allocates no more than `limit` bytes.

    First the batch is cut, then the longest axis of single items. The limit is at most the bytes of
    as many elements as int32 counts, so that no array of a tile has more.

    Returns:
        Tiling or int: If the smallest tile needs more than that, what it needs.
    """
    most = whole(plan, result)
    smallest = replace(most, n_items=1, n_steps=1)
    least = smallest.bytes
    if least > limit:
        return least
    limit = min(limit, max(least, INT32_MAX * ITEMSIZE[plan.problem.dtype]))
    line = replace(most, n_items=1)
    if line.bytes <= limit:
        by_items: Callable[[int], Tiling] = lambda n: replace(line, n_items=n)  # noqa: E731
        return _largest(by_items, most.n_items, limit)
    return _largest(lambda n: replace(smallest, n_steps=n), most.n_steps, limit)


def _largest(sized: Callable[[int], Tiling], most: int, limit: int) -> Tiling:
    """The largest size up to `most` that fits, within a sixteenth, by bisection."""
    low, high = 1, most + 1  # fits, and does not
    while high - low > max(1, low // 16):
        middle = (low + high) // 2
        low, high = (middle, high) if sized(middle).bytes <= limit else (low, middle)
    return sized(low)
