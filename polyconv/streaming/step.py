"""One traced operation, and what it makes of constants and pieces."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import mlx.core as mx

from polyconv.streaming import primitives
from polyconv.streaming.lowering import (
    Constant,
    Lowering,
    Piece,
    Shapes,
    Signal,
    Unknown,
    Value,
    Varying,
    refuse,
)
from polyconv.streaming.periods import still
from polyconv.streaming.traced import Operation


class Step:
    """One operation, at each traced length."""

    def __init__(self, lowering: Lowering, index: int) -> None:
        self.lowering = lowering
        self.operations: list[Operation] = [each.operations[index] for each in lowering.traces]
        first = self.operations[0]
        self.name = first.name
        self.arguments = [each.arguments for each in self.operations]
        self.inputs: list[Value] = [lowering.values[number] for number in first.inputs]
        self.into: list[Shapes] = [lowering.shapes(number) for number in first.inputs]
        self.out: list[Shapes] = [lowering.shapes(number) for number in first.outputs]
        self.dtype = lowering.traces[0].dtypes[first.outputs[0]]

    # Constants and pieces.

    def of_constants(self) -> list[Value]:
        if self.name in primitives.RANDOM and not self._is_drawn_alike():
            reason = "random numbers are drawn, which are others in each call"
            return [Unknown(reason)] * len(self.out)
        if self.name in ("Broadcast", "Full") and isinstance(self.inputs[0], Constant):
            array = self.inputs[0].array
            return [Constant(_spread(array, self._still(0)), array)]
        does_vary = any(isinstance(each, Varying) for each in self.inputs)
        grows = any(self.grows(shapes) for shapes in (*self.into, *self.out))
        if not does_vary and not grows and len(set(map(repr, self.arguments))) == 1:
            found = self._computed(0, [each.array for each in self.inputs])  # type: ignore[union-attr]
            return found if isinstance(found[0], Unknown) else [Constant(a) for a in found]
        pointwise = primitives.pointwise(self.name, self.arguments[0])
        if pointwise is not None and not does_vary:
            return [Constant(pointwise(*[each.array for each in self.inputs]))]  # type: ignore[union-attr]
        # A GPU may add up the same numbers in another order at another place or length, and what is
        # alike or periodic in time is told by ==.
        with mx.stream(mx.cpu):
            found = [
                self._computed(k, [self._at(j, k) for j in range(len(self.inputs))])
                for k in range(len(self.operations))
            ]
            if isinstance(found[0][0], Unknown):
                return [found[0][0]] * len(self.out)
            return [still(Varying(arrays), shapes) for arrays, shapes in zip(zip(*found), self.out)]

    def _is_drawn_alike(self) -> bool:
        """Whether random numbers are those of a key of the model, and as many at each length."""
        if any(trace.draws for trace in self.lowering.traces):
            return False
        return isinstance(self.inputs[0], Constant) and not self.grows(self.out[0])

    def of_pieces(self) -> list[Value]:
        if self.name == "Broadcast":
            shape = self._still(0)
            return [Piece(self.piece(lambda a: mx.broadcast_to(a, shape))[0])]
        if any(self.grows(shapes) for shapes in (*self.into, *self.out)):
            function = primitives.pointwise(self.name, self.arguments[0])
            if function is None:
                refuse(f"{self.name} spreads a few samples over all of time")
            return [Piece(self.piece(function)[0])]
        computed = self.known()
        return [Piece(slot) for slot in self.piece(computed)]

    def piece(self, function: Callable[..., Any]) -> list[int]:
        slots = [self._slot(each) for each in self.inputs]
        return self.lowering.piece(function, slots, len(self.out))

    def _slot(self, value: Value) -> int:
        if isinstance(value, (Constant, Piece)):
            return self.lowering.slot_of(value)
        refuse(f"{self.name} meets numbers that depend on the time since the beginning")

    def _computed(self, k: int, arrays: Sequence[mx.array]) -> list[Any]:
        """What it makes of constants at the traced length `k`."""
        function = self.function(k)
        if function is None:
            return [Unknown(f"{self.name} is not known")] * len(self.out)
        found = function(*arrays)
        return list(found) if isinstance(found, (list, tuple)) else [found]

    def function(self, k: int = 0) -> Callable[..., Any] | None:
        return primitives.compute(self.name, self.arguments[k], self.out[0][k], self.dtype)

    def known(self) -> Callable[..., Any]:
        return self.function() or refuse(f"{self.name} of this kind is not known")

    def _at(self, j: int, k: int) -> mx.array:
        """An input that is constant, as it is at the traced length `k`."""
        value = self.inputs[j]
        if isinstance(value, Varying):
            return value.arrays[k]
        assert isinstance(value, Constant)
        return mx.broadcast_to(value.array, self.into[j][k])

    def grows(self, shapes: Shapes) -> bool:
        return len(set(shapes)) > 1

    def _still(self, i: int) -> tuple[int, ...]:
        """The shape of an output, with 1 for what grows."""
        first, *others = self.out[i]
        return tuple(
            [n if all(other[a] == n for other in others) else 1 for a, n in enumerate(first)]
        )

    # Signals.

    def apply(self, function: Callable[..., Any], at: int) -> list[Value]:
        """A function of what has come of all inputs, whose results grow along `at`."""
        lowering = self.lowering
        signals = lowering.aligned([each for each in self.inputs if isinstance(each, Signal)])
        pieces = [each for each in self.inputs if isinstance(each, Piece)]
        if pieces:
            signals = [lowering.behind_pieces(each, pieces) for each in signals]
            signals = lowering.aligned(signals)
        rest = iter(signals)
        slots = [
            next(rest).slot if isinstance(each, Signal) else self._slot(each)
            for each in self.inputs
        ]
        made = lowering.local(function, slots, len(self.out))
        first = signals[0]
        return [Signal(slot, at, first.clock, first.rate, first.outer) for slot in made]

    def one(self) -> Signal:
        """The only input that is a signal, the first."""
        signal = self.inputs[0]
        if not isinstance(signal, Signal) or any(isinstance(e, Signal) for e in self.inputs[1:]):
            refuse(f"{self.name} by a signal")
        return signal


def _spread(array: mx.array, shape: tuple[int, ...]) -> mx.array:
    """Broadcast; where only axes of size 1 are added, without a sum in the gradient."""
    if array.size == prod(shape):
        return array.reshape(shape)
    return mx.broadcast_to(array, shape)
