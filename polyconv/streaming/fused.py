"""Functions of samples that always have samples at the same time, taken together as one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

import mlx.core as mx

Slot: TypeAlias = int


class Local(NamedTuple):
    """A function of what has come, run whenever something has."""

    function: Callable[..., Any]
    inputs: tuple[Slot, ...]
    outputs: tuple[Slot, ...]


class Fused:
    """Several of these in their order. MLX compiles them for shapes that come again."""

    def __init__(
        self, parts: Sequence[Local], inputs: tuple[Slot, ...], outputs: tuple[Slot, ...]
    ) -> None:
        self._parts, self._inputs, self._outputs = tuple(parts), inputs, outputs
        self._seen: set[tuple[Any, ...]] = set()
        self._compiled = mx.compile(self._computed)

    def __call__(self, *arrays: mx.array) -> list[mx.array]:
        key = tuple([(each.shape, each.dtype) for each in arrays])
        if key in self._seen:
            found: list[mx.array] = self._compiled(*arrays)
            return found
        if len(self._seen) < _MOST_SHAPES:
            self._seen.add(key)
        return self._computed(*arrays)

    def _computed(self, *arrays: mx.array) -> list[mx.array]:
        values = dict(zip(self._inputs, arrays, strict=True))
        for part in self._parts:
            made = part.function(*[values[slot] for slot in part.inputs])
            values.update(zip(part.outputs, made if isinstance(made, list) else [made]))
        return [values[slot] for slot in self._outputs]


# Chunks of more lengths than these are not compiled, as nobody knows which will come again.
_MOST_SHAPES = 8


def fused(instructions: Sequence[Any], still: set[Slot], out: Slot) -> list[Any]:
    """The instructions with all functions of the same samples together.

    What a node gives has samples at moments of its own, and so has all that is made of it by
    functions alone. These can be run together behind the node. `still` are constants and pieces.
    """
    moments: dict[Slot, int] = {0: -1}
    groups: dict[int, list[Local]] = {}
    for i, each in enumerate(instructions):
        is_local = isinstance(each, Local)
        moment = i
        if is_local:
            moment = next(moments[s] for s in each.inputs if s not in still)
            groups.setdefault(moment, []).append(each)
        moments.update(dict.fromkeys(each.outputs, moment))
    first = {id(parts[0]): parts for parts in groups.values()}
    rest = {id(part) for parts in groups.values() for part in parts}
    found: list[Any] = []
    for each in instructions:
        if id(each) in first:
            parts = first[id(each)]
            mine = {id(part) for part in parts}
            others = [other for other in instructions if id(other) not in mine]
            found.append(_together(parts, others, out) if len(parts) > 1 else each)
        elif id(each) not in rest:
            found.append(each)
    return found


def _together(parts: Sequence[Local], others: Sequence[Any], out: Slot) -> Local:
    made = {slot for part in parts for slot in part.outputs}
    wanted = {slot for each in others for slot in each.inputs} | {out}
    inputs = tuple(dict.fromkeys([s for part in parts for s in part.inputs if s not in made]))
    outputs = tuple([s for part in parts for s in part.outputs if s in wanted])
    return Local(Fused(parts, inputs, outputs), inputs, outputs)
