"""How does what MLX traced become a program that runs chunk by chunk?

The same function is traced at several lengths. An axis that grows with the length is time. A value
is a constant, which depends on no input; a piece, of a fixed size and known at some moment; or a
signal, which grows along one axis. Each operation is lowered by what its inputs are. What is not
computable chunk by chunk is refused by its name, and nothing is guessed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from math import lcm
from typing import Any, NoReturn, TypeAlias

import mlx.core as mx

from polyconv.streaming import nodes
from polyconv.streaming.fused import Slot
from polyconv.streaming.items import Items, items_of
from polyconv.streaming.nodes import Line, Node
from polyconv.streaming.program import Program
from polyconv.streaming.recurrent import Marked
from polyconv.streaming.traced import Trace

Shapes: TypeAlias = "tuple[tuple[int, ...], ...]"


class RefusedError(Exception):
    """Why an operation cannot be computed chunk by chunk; `index` is its number in the trace."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.index = -1


@dataclass(frozen=True)
class Constant:
    """Depends on no input. Axes that grow with the length have size 1 here, as all is alike.

    `spread` is the array of which this one is a broadcast, if it is one.
    """

    array: mx.array
    spread: mx.array | None = None


@dataclass(frozen=True)
class Varying:
    """Depends on the length alone, in another way: the arrays at each traced length."""

    arrays: tuple[mx.array, ...]


@dataclass(frozen=True)
class Unknown:
    """What cannot be computed here, and why."""

    reason: str


@dataclass(frozen=True)
class Piece:
    """An array of a fixed shape that is known at some moment of the stream."""

    slot: Slot


Part: TypeAlias = "tuple[int, Constant | Piece]"


@dataclass(frozen=True)
class Signal:
    """Grows along the axis `at`, in which `outer` lines lie one behind the other.

    Signals of one `clock` come in step. There are `rate` samples for one of the input. In front of
    what comes in `slot`, and behind it, there may be parts of known lengths.
    """

    slot: Slot
    at: int
    clock: tuple[int, int]
    rate: Fraction
    outer: int = 1
    front: tuple[Part, ...] = field(default=())
    behind: tuple[Part, ...] = field(default=())

    @property
    def line(self) -> Line:
        return Line(self.at, self.outer)


Value: TypeAlias = "Constant | Varying | Unknown | Piece | Signal"


# Constants of more numbers are taken for weights, which the length does not change.
_SMALL = 4096


def _equal(a: mx.array, b: mx.array) -> bool:
    return bool(mx.array_equal(a, b, equal_nan=mx.issubdtype(a.dtype, mx.inexact)).item())


def refuse(text: str) -> NoReturn:
    raise RefusedError(text)


class Lowering:
    """Lowers traces of one function at several lengths into a program."""

    def __init__(
        self, traces: Sequence[Trace], at: int, marked: Marked, weights: Sequence[mx.array] = ()
    ) -> None:
        self.traces, self.marked = traces, marked
        self.program = Program()
        self._n_clocks = 0
        first = traces[0]
        self.values: list[Value] = [Unknown("not computed")] * len(first.shapes)
        slot = self.program.input()
        self.values[0] = Signal(slot, at, self.new_clock(), Fraction(1))
        self._items = items_of(traces, at > 0)
        self.items: Items | None = None  # of the output
        self.program.items[slot] = self._items[0]
        self.apart = 1  # all rates are whole, and all periods, after multiples of so many samples
        for i, array in enumerate(weights):  # which were inputs of the traces
            self.values[1 + i] = Constant(array)
        for i, array in enumerate(first.constants):
            others = [trace.constants[i] for trace in traces]
            self.values[first.n_inputs + i] = self._constant(others, array)

    def _constant(self, arrays: Sequence[mx.array], first: mx.array) -> Value:
        """Small ones are compared: a number may be made of the length."""
        if any(each.shape != first.shape for each in arrays):
            return Varying(tuple(arrays))
        if first.size <= _SMALL and any(not _equal(each, first) for each in arrays):
            return Varying(tuple(arrays))
        return Constant(first)

    def run(self, lower: Callable[[Lowering, int], list[Value]]) -> Signal:
        """Lowers all that the output depends on, and gives the output."""
        first = self.traces[0]
        needed = _needed(first)
        for i, operation in enumerate(first.operations):
            if i in needed:
                try:
                    found = lower(self, i)
                except RefusedError as error:
                    error.index = i if error.index < 0 else error.index
                    raise
                for number, value in zip(operation.outputs, found, strict=True):
                    self._note(number, value)
        (number,) = first.outputs
        out = self.values[number]
        if not isinstance(out, Signal):
            refuse("the output does not grow with the input")
        if out.outer > 1:
            refuse("the output has samples of all times one behind the other, more than once")
        self.items = self._items[number]
        return self.whole(out)

    def _note(self, number: int, value: Value) -> None:
        self.values[number] = value
        if isinstance(value, (Signal, Piece)):
            self.program.items[value.slot] = self._items[number]
        if isinstance(value, Signal):
            self.repeats(value.rate)

    def repeats(self, periods: Fraction) -> None:
        """Something comes again so many times for one sample of the input."""
        self.apart = lcm(self.apart, periods.denominator)

    def new_clock(self) -> tuple[int, int]:
        self._n_clocks += 1
        return (self._n_clocks, 1)

    def shapes(self, number: int) -> Shapes:
        """Of a value, at each traced length."""
        return tuple([trace.shapes[number] for trace in self.traces])

    # What is added to the program.

    def node(self, node: Node, inputs: Sequence[Slot], n_outputs: int = 1) -> list[Slot]:
        return self.program.add_node(node, inputs, n_outputs)

    def local(
        self, function: Callable[..., Any], inputs: Sequence[Slot], n_outputs: int = 1
    ) -> list[Slot]:
        return self.program.add_local(function, inputs, n_outputs)

    def piece(
        self, function: Callable[..., Any], inputs: Sequence[Slot], n_outputs: int = 1
    ) -> list[Slot]:
        return self.program.add_piece(function, inputs, n_outputs)

    def piece_of(self, function: Callable[..., Any], slot: Slot) -> Piece:
        """A part of a piece, or the piece spread, in which the items lie as they did."""
        (made,) = self.piece(function, [slot])
        self.program.items[made] = self.program.items.get(slot)
        return Piece(made)

    def whole(self, signal: Signal) -> Signal:
        """With the parts in front and behind joined to it."""
        if not signal.front and not signal.behind:
            return signal
        parts = [self.slot_of(part) for _, part in (*signal.front, *signal.behind)]
        n = len(signal.front)
        inputs = [*parts[:n], signal.slot, *parts[n:]]
        (slot,) = self.node(nodes.Joined(signal.line, n), inputs)
        return replace(signal, slot=slot, clock=self.new_clock(), front=(), behind=())

    def slot_of(self, part: Constant | Piece) -> Slot:
        return part.slot if isinstance(part, Piece) else self.program.constant(part.array)

    def aligned(self, signals: Sequence[Signal]) -> list[Signal]:
        """In step with each other."""
        signals = [self.whole(each) for each in signals]
        if len({each.clock for each in signals}) < 2:
            return list(signals)
        distinct = list({each.slot: each for each in signals}.values())
        slots = self.node(
            nodes.Aligned([each.line for each in distinct]),
            [each.slot for each in distinct],
            len(distinct),
        )
        clock = self.new_clock()
        made = {
            each.slot: replace(each, slot=slot, clock=clock)
            for each, slot in zip(distinct, slots, strict=True)
        }
        return [made[each.slot] for each in signals]

    def behind_pieces(self, signal: Signal, pieces: Sequence[Piece]) -> Signal:
        """Not before the pieces are known that it meets."""
        inputs = [signal.slot, *[each.slot for each in pieces]]
        (slot,) = self.node(nodes.Waiting(signal.line), inputs)
        return replace(signal, slot=slot, clock=self.new_clock())


def _needed(trace: Trace) -> set[int]:
    """The operations that the outputs depend on."""
    wanted, needed = set(trace.outputs), set()
    for i in reversed(range(len(trace.operations))):
        operation = trace.operations[i]
        if wanted & set(operation.outputs):
            needed.add(i)
            wanted |= set(operation.inputs)
    return needed
