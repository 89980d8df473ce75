"""What runs for each chunk: functions of samples, and nodes that remember."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import mlx.core as mx

from polyconv.execution.packing import evaluate
from polyconv.streaming.fused import Local, Slot, fused
from polyconv.streaming.items import Items
from polyconv.streaming.nodes import Chunk, Node


class OfPieces(NamedTuple):
    """A function of pieces, run once, as soon as all are known."""

    function: Callable[..., Any]
    inputs: tuple[Slot, ...]
    outputs: tuple[Slot, ...]


class Remembering(NamedTuple):
    """A node."""

    node: Node
    inputs: tuple[Slot, ...]
    outputs: tuple[Slot, ...]


class Program:
    """Instructions in order. Slot 0 is the input."""

    def __init__(self) -> None:
        self._n_slots = 0
        self._instructions: list[Local | OfPieces | Remembering] = []
        self.constants: dict[Slot, mx.array] = {}
        self._pieces: set[Slot] = set()  # slots whose value stays
        self._known: dict[Slot, Chunk] = {}
        self.items: dict[Slot, Items | None] = {}  # where they are in a slot, if that is known

    def input(self) -> Slot:
        return self._new(1)[0]

    def constant(self, array: mx.array) -> Slot:
        (slot,) = self._new(1)
        self.constants[slot] = array
        return slot

    def add_local(self, function: Callable[..., Any], inputs: Sequence[Slot], n: int) -> list[Slot]:
        return self._add(Local(function, tuple(inputs), tuple(self._new(n))))

    def add_piece(self, function: Callable[..., Any], inputs: Sequence[Slot], n: int) -> list[Slot]:
        slots = self._add(OfPieces(function, tuple(inputs), tuple(self._new(n))))
        self._pieces |= set(slots)
        return slots

    def add_node(self, node: Node, inputs: Sequence[Slot], n: int) -> list[Slot]:
        slots = self._add(Remembering(node, tuple(inputs), tuple(self._new(n))))
        for k, slot in enumerate(slots):
            self.items[slot] = self.items.get(inputs[node.input_of(k)])
        if node.gives_piece:
            self._pieces |= set(slots)
        return slots

    def fuse(self, out: Slot) -> None:
        """Takes functions together that always run together, to be compiled by MLX."""
        self._instructions = fused(self._instructions, {*self.constants, *self._pieces}, out)

    def run(self, x: Chunk, ended: bool, out: Slot) -> Chunk:
        """What is known of the slot `out` with a chunk of the input."""
        values: list[Chunk] = [None] * self._n_slots
        values[0] = x
        for slot, array in self.constants.items():
            values[slot] = array
        for slot, known in self._known.items():
            values[slot] = known
        for each in self._instructions:
            if values[each.outputs[0]] is not None:  # a piece that is known
                continue
            given = [values[slot] for slot in each.inputs]
            if isinstance(each, Remembering):
                found = each.node.run(given, ended)
            elif any(one is None for one in given):
                continue
            else:
                found = each.function(*given)
            self._keep(values, each.outputs, found)
        return values[out]

    def _keep(self, values: list[Chunk], slots: tuple[Slot, ...], found: Any) -> None:
        for slot, value in zip(slots, found if isinstance(found, list) else [found], strict=True):
            if value is None:
                continue
            values[slot] = value
            if slot in self._pieces:
                self._known[slot] = value

    def reset(self) -> None:
        self._known = {}
        for node, _ in self._nodes:
            node.reset()

    @property
    def held(self) -> list[mx.array]:
        """All that is remembered."""
        found = [each for each in self._known.values() if each is not None]
        return found + [each for node, _ in self._nodes for each in node.held]

    @property
    def moment(self) -> tuple[Any, ...]:
        """Alike in two copies that give as many samples for all that may come."""
        known = [(slot, each.shape) for slot, each in self._known.items() if each is not None]
        return (sorted(known), *[node.moment for node, _ in self._nodes])

    @property
    def keeps_items_apart(self) -> bool:
        """Whether it is known of all that is remembered to which item it belongs."""
        read = [inputs[node.input_of(k)] for node, inputs in self._nodes for k in node.places]
        return all(self.items.get(slot) is not None for slot in (*read, *self._pieces))

    def take(self, which: mx.array, other: Program) -> None:
        """Of some items keeps what the other program does, which is at the same moment."""

        def chosen(slot: Slot, new: mx.array, old: mx.array) -> mx.array:
            items = self.items[slot]
            assert items is not None
            return items.chosen(which, new, old)

        for slot, new in other._known.items():
            old = self._known[slot]
            if new is not None and old is not None:
                self._known[slot] = chosen(slot, new, old)
        for (node, inputs), (theirs, _) in zip(self._nodes, other._nodes, strict=True):
            node.take(theirs, partial(_of_input, chosen, inputs))

    @property
    def _nodes(self) -> list[tuple[Node, tuple[Slot, ...]]]:
        return [(e.node, e.inputs) for e in self._instructions if isinstance(e, Remembering)]

    def copied(self) -> Program:
        """The same program at the same point, to go on by itself. Constants are shared."""
        made = copy.copy(self)
        made._known = dict(self._known)
        made._instructions = [
            each._replace(node=copy.copy(each.node)) if isinstance(each, Remembering) else each
            for each in self._instructions
        ]
        return made

    def evaluate(self) -> None:
        """Evaluates the constants, so that any thread may go on."""
        evaluate(list(self.constants.values()))

    def _new(self, n: int) -> list[Slot]:
        slots = list(range(self._n_slots, self._n_slots + n))
        self._n_slots += n
        return slots

    def _add(self, instruction: Local | OfPieces | Remembering) -> list[Slot]:
        self._instructions.append(instruction)
        return list(instruction.outputs)


def _of_input(
    chosen: Callable[[Slot, mx.array, mx.array], mx.array],
    inputs: tuple[Slot, ...],
    k: int,
    new: mx.array,
    old: mx.array,
) -> mx.array:
    return chosen(inputs[k], new, old)
