"""Which numbers of what a model computes belong to which item of its batch?

Read from a trace alone, operation by operation. What mixes items, or is not known to keep them
apart, is told as such, and nothing is guessed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Any, NamedTuple

import mlx.core as mx

from polyconv.streaming import primitives
from polyconv.streaming.traced import Operation, Trace


class Items(NamedTuple):
    """Items lie along `axis`, which is counted from behind, inside of `outer` other things."""

    axis: int
    outer: int = 1

    def chosen(self, which: mx.array, new: mx.array, old: mx.array) -> mx.array:
        """`new` of the items for which `which` is true, and `old` of the others."""
        n, size = which.shape[0], new.shape[self.axis]
        along = mx.broadcast_to(which[:, None], (self.outer, n, size // (self.outer * n)))
        return mx.where(along.reshape(-1, *[1] * (-self.axis - 1)), new, old)


# What depends on no item. What depends on several at once is None instead.
NONE = Items(0)


def items_of(traces: Sequence[Trace], has_items: bool) -> list[Items | None]:
    """Where the items are in each value, if they are along axis 0 of the input."""
    first = traces[0]
    if has_items and first.shapes[0][0] == 1:  # all is of the only one
        return [Items(-1)] * len(first.shapes)
    found: list[Items | None] = [NONE] * len(first.shapes)
    found[0] = Items(-len(first.shapes[0])) if has_items else None
    for i, operation in enumerate(first.operations):
        made = _Seen(traces, [each.operations[i] for each in traces], found).made()
        for number in operation.outputs:
            found[number] = made
    return found


class _Seen:
    """An operation, as it is seen from the items."""

    def __init__(
        self, traces: Sequence[Trace], operations: Sequence[Operation], known: list[Items | None]
    ) -> None:
        first = operations[0]
        self.name = first.name
        self.n_items = traces[0].shapes[0][0]
        self.arguments = [each.arguments for each in operations]
        self.into = [[trace.shapes[number] for trace in traces] for number in first.inputs]
        self.out = [trace.shapes[first.outputs[0]] for trace in traces]
        self.items = [known[number] for number in first.inputs]

    def made(self) -> Items | None:
        if None in self.items:
            return None
        if all(each == NONE for each in self.items):
            return NONE
        rule = _RULES.get(self.name)
        if rule is not None:
            return rule(self)
        return self.alike if primitives.pointwise(self.name, self.arguments[0]) else None

    @property
    def alike(self) -> Items | None:
        """Where the items are in all inputs that have some."""
        some = {each for each in self.items if each != NONE}
        return some.pop() if len(some) == 1 else None

    @property
    def axis(self) -> int:
        """The axis of the items in the first input that has some, which is no other's."""
        for items, shapes in zip(self.items, self.into, strict=True):
            if items is not None and items != NONE:
                return len(shapes[0]) + items.axis
        raise AssertionError  # an operation that no item reaches is not asked

    def are_only_in(self, j: int) -> bool:
        return all(each == NONE for i, each in enumerate(self.items) if i != j)

    def beside(self, axes: Sequence[int]) -> Items | None:
        """Where the items are if they do not lie along one of these axes of the inputs."""
        ndim = len(self.into[0][0])
        return None if self.axis in [axis % ndim for axis in axes] else self.alike


def _reshaped(seen: _Seen) -> Items | None:
    """`flat // inner % n_items` is the item of a number that lies there in both shapes."""
    (items,), axis = seen.items, seen.axis
    assert items is not None
    found = set()
    for into, out in zip(seen.into[0], seen.out, strict=True):
        inner = prod(into[axis:]) // (items.outer * seen.n_items)
        found.add(_place(out, inner, seen.n_items))
    return found.pop() if len(found) == 1 else None


def _place(shape: tuple[int, ...], inner: int, n: int) -> Items | None:
    """In which axis are `n` items, behind each of which `inner` numbers lie?"""
    behind = 1
    for axis in range(-1, -len(shape) - 1, -1):
        size = shape[axis]
        if inner % behind == 0 and (behind * size) % (inner * n) == 0:
            return Items(axis, behind * size // (inner * n))
        behind *= size
    return None


def _transposed(seen: _Seen) -> Items | None:
    (order,), (items,) = seen.arguments[0], seen.items
    assert items is not None
    return items._replace(axis=order.index(seen.axis) - len(order))


def _whole(seen: _Seen, first: int) -> Items | None:
    """Of slices, told from argument `first` on, which must leave the axis as it is."""
    items = seen.alike
    for arguments, shape in zip(seen.arguments, seen.into[0], strict=True):
        if items is None:
            return None
        part, n = primitives.slices(arguments[first:], shape)[items.axis], shape[items.axis]
        if part.indices(n) != (0, n, 1):
            return None
    return items


def _padded(seen: _Seen) -> Items | None:
    axes, lo, hi = seen.arguments[0]
    around = [axis for axis, *widths in zip(axes, lo, hi) if any(widths)]
    return seen.beside(around) if seen.are_only_in(0) else None


def _convolved(seen: _Seen) -> Items | None:
    return seen.alike if seen.are_only_in(0) and seen.axis == 0 else None


def _product(seen: _Seen) -> Items | None:
    """The last axis of the first factor, and the last but one of the second, are summed over."""
    summed = [items for items, axis in zip(seen.items, (-1, -2)) if items and items.axis == axis]
    return None if summed else seen.alike


def _gathered(seen: _Seen) -> Items | None:
    """`(*I, *S)`, of a table `S` and indices `I`."""
    axes, _ = seen.arguments[0]
    if len(seen.items) == 2 and seen.are_only_in(1):
        _, items = seen.items
        assert items is not None
        return items._replace(axis=items.axis - len(seen.into[0][0]))
    return seen.beside(axes) if seen.are_only_in(0) else None


def _scattered(seen: _Seen) -> Items | None:
    """Updates `(*I, *S)` into `S`."""
    items = seen.items[-1]
    if not seen.are_only_in(len(seen.items) - 1) or items is None:
        return None
    return items if -items.axis <= len(seen.into[0][0]) else None


_RULES: dict[str, Callable[[_Seen], Items | None]] = {
    "AddMM": _product,
    "Broadcast": lambda seen: seen.alike,
    "Concatenate": lambda seen: seen.beside(seen.arguments[0]),
    "Convolution": _convolved,
    "FFT": lambda seen: seen.beside(seen.arguments[0][0]),
    "Gather": _gathered,
    "Matmul": _product,
    "Pad": _padded,
    "QuantizedMatmul": lambda seen: seen.beside([len(seen.into[0][0]) - 1]),
    "Reduce": lambda seen: seen.beside(seen.arguments[0][1]),
    "Scatter": _scattered,
    "Slice": lambda seen: _whole(seen, 0),
    "SliceUpdate": lambda seen: _whole(seen, 1),
    "Softmax": lambda seen: seen.beside([len(seen.into[0][0]) - 1]),
    "Split": lambda seen: seen.beside(seen.arguments[0][1:]),
    "Transpose": _transposed,
}


def _along(name: str) -> Any:
    return lambda seen: seen.beside([seen.arguments[0][primitives.AXIS[name]]])


_RULES |= {name: _along(name) for name in primitives.AXIS}
_RULES |= dict.fromkeys(primitives.RESHAPES, _reshaped)
