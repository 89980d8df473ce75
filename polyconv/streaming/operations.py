"""How is one traced operation lowered, by what its inputs are?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from math import prod
from typing import Any

import mlx.core as mx
import numpy as np

from polyconv.problem.spec import Axis
from polyconv.streaming import nodes, primitives
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
from polyconv.streaming.pieces import cropped, cut_out, filled
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

    def lowered(self) -> list[Value]:
        """The values that it makes."""
        unknown = [each for each in self.inputs if isinstance(each, Unknown)]
        signals = [each for each in self.inputs if isinstance(each, Signal)]
        pieces = [each for each in self.inputs if isinstance(each, Piece)]
        if unknown and (signals or pieces):
            refuse(unknown[0].reason)
        if unknown:
            return [unknown[0]] * len(self.out)
        if not signals:
            return self._of_pieces(pieces) if pieces else self._of_constants()
        method = getattr(self, f"_{self.name.lower()}", None)
        if self.name in primitives.RESHAPES:
            return [self._reshaped()]
        if method is not None:
            found = method()
            return found if isinstance(found, list) else [found]
        function = primitives.pointwise(self.name, self.arguments[0])
        if function is None:
            refuse(f"{self.name} of a signal is not known to go chunk by chunk")
        return [self._pointwise(function)]

    def _with_times(self) -> None:
        """Numbers that are others at the ends, and alike or periodic between, go with a signal."""
        for j, value in enumerate(self.inputs):
            if isinstance(value, Varying):
                where = next(i for i, each in enumerate(self.inputs) if isinstance(each, Signal))
                signal = self.lowering.whole(self.inputs[where])  # type: ignore[arg-type]
                if signal.outer > 1 or self.into[j][0] != self.into[where][0]:
                    refuse(f"{self.name} meets numbers that depend on the length")
                times = periodic(value.arrays, signal.at)
                if times is None:
                    refuse(f"{self.name} meets numbers that depend on the time since the beginning")
                slots = self.lowering.node(nodes.Times(signal.line, *times), [signal.slot], 2)
                clock = self.lowering.new_clock()
                self.inputs[where] = replace(signal, slot=slots[0], clock=clock)
                self.inputs[j] = replace(signal, slot=slots[1], clock=clock)

    # Constants and pieces.

    def _of_constants(self) -> list[Value]:
        if self.name in primitives.RANDOM and not self._is_drawn_alike():
            reason = "random numbers are drawn, which are others in each chunk"
            return [Unknown(reason)] * len(self.out)
        if self.name in ("Broadcast", "Full") and isinstance(self.inputs[0], Constant):
            return [Constant(mx.broadcast_to(self.inputs[0].array, self._still(0)))]
        does_vary = any(isinstance(each, Varying) for each in self.inputs)
        grows = any(self._grows(shapes) for shapes in (*self.into, *self.out))
        if not does_vary and not grows and len(set(map(repr, self.arguments))) == 1:
            found = self._computed(0, [each.array for each in self.inputs])  # type: ignore[union-attr]
            return found if isinstance(found[0], Unknown) else [Constant(a) for a in found]
        pointwise = primitives.pointwise(self.name, self.arguments[0])
        if pointwise is not None and not does_vary:
            return [Constant(pointwise(*[each.array for each in self.inputs]))]  # type: ignore[union-attr]
        found = [
            self._computed(k, [self._at(j, k) for j in range(len(self.inputs))])
            for k in range(len(self.operations))
        ]
        if isinstance(found[0][0], Unknown):
            return found[0]
        return [still(Varying(arrays), shapes) for arrays, shapes in zip(zip(*found), self.out)]

    def _is_drawn_alike(self) -> bool:
        """Whether random numbers are those of one key, and as many at each length."""
        return isinstance(self.inputs[0], Constant) and not self._grows(self.out[0])

    def _of_pieces(self, pieces: Sequence[Piece]) -> list[Value]:
        if self.name == "Broadcast":
            shape = self._still(0)
            return [Piece(self._piece(lambda a: mx.broadcast_to(a, shape))[0])]
        if any(self._grows(shapes) for shapes in (*self.into, *self.out)):
            function = primitives.pointwise(self.name, self.arguments[0])
            if function is None:
                refuse(f"{self.name} spreads a few samples over all of time")
            return [Piece(self._piece(function)[0])]
        computed = self._known()
        return [Piece(slot) for slot in self._piece(computed)]

    def _piece(self, function: Callable[..., Any]) -> list[int]:
        slots = [self._slot(each) for each in self.inputs]
        return self.lowering.piece(function, slots, len(self.out))

    def _slot(self, value: Value) -> int:
        if isinstance(value, (Piece, Signal)):
            return value.slot
        if isinstance(value, Constant):
            return self.lowering.program.constant(value.array)
        refuse(f"{self.name} meets numbers that depend on the time since the beginning")

    def _computed(self, k: int, arrays: Sequence[mx.array]) -> list[Any]:
        """What it makes of constants at the traced length `k`."""
        function = self._function(k)
        if function is None:
            return [Unknown(f"{self.name} is not known")] * len(self.out)
        found = function(*arrays)
        return list(found) if isinstance(found, (list, tuple)) else [found]

    def _function(self, k: int = 0) -> Callable[..., Any] | None:
        return primitives.compute(self.name, self.arguments[k], self.out[0][k], self.dtype)

    def _known(self) -> Callable[..., Any]:
        return self._function() or refuse(f"{self.name} of this kind is not known")

    def _at(self, j: int, k: int) -> mx.array:
        """An input that is constant, as it is at the traced length `k`."""
        value = self.inputs[j]
        if isinstance(value, Varying):
            return value.arrays[k]
        assert isinstance(value, Constant)
        return mx.broadcast_to(value.array, self.into[j][k])

    def _grows(self, shapes: Shapes) -> bool:
        return len(set(shapes)) > 1

    def _still(self, i: int) -> tuple[int, ...]:
        """The shape of an output, with 1 for what grows."""
        first, *others = self.out[i]
        return tuple(
            [n if all(other[a] == n for other in others) else 1 for a, n in enumerate(first)]
        )

    # Signals.

    def _apply(
        self, function: Callable[..., Any], at: int, outer: int | None = None
    ) -> list[Value]:
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
        outer = first.outer if outer is None else outer
        return [Signal(slot, at, first.clock, outer) for slot in made]

    def _one(self) -> Signal:
        """The only input that is a signal, the first."""
        signal = self.inputs[0]
        if not isinstance(signal, Signal) or any(isinstance(e, Signal) for e in self.inputs[1:]):
            refuse(f"{self.name} by a signal")
        return signal

    def _pointwise(self, function: Callable[..., Any]) -> Value:
        self._with_times()
        signals = [each for each in self.inputs if isinstance(each, Signal)]
        if len({(each.at, each.outer) for each in signals}) > 1:
            refuse(f"{self.name} combines every sample with every other")
        return self._apply(function, signals[0].at)[0]

    def _reshaped(self) -> Value:
        """The samples in another shape: `q` samples of one, or one of `g`."""
        signal = self.lowering.whole(self._one())
        (into, *_), at = self.into[0], signal.at
        growing = self._growing(0)
        pre, post = prod(into[:at]) * signal.outer, prod(into[at + 1 :])
        shape = list(self.out[0][0])
        out_pre, out_post = prod(shape[:growing]), prod(shape[growing + 1 :])
        is_merged = out_post > 0 and post % out_post == 0
        if not is_merged and not (post and out_post % post == 0):
            refuse(f"{self.name} divides the samples of different times among each other")
        if pre % out_pre:
            refuse(f"{self.name} divides what lies beside time")
        outer, was_outer = pre // out_pre, signal.outer
        q, g = (post // out_post, 1) if is_merged else (1, out_post // post)
        if g > 1:
            (slot,) = self.lowering.node(nodes.Grouped(signal.line, g), [signal.slot])
            signal = replace(signal, slot=slot, clock=self.lowering.new_clock())

        def reshape(a: mx.array) -> mx.array:
            n = a.shape[at] // was_outer * q // g
            return mx.reshape(a, [*shape[:growing], outer * n, *shape[growing + 1 :]])

        (slot,) = self.lowering.local(reshape, [signal.slot])
        clock = (signal.clock[0], signal.clock[1] * q)
        return Signal(slot, growing, clock if g == 1 else self.lowering.new_clock(), outer)

    def _growing(self, i: int) -> int:
        """The axis along which an output grows."""
        axes = [a for a, sizes in enumerate(zip(*self.out[i])) if len(set(sizes)) > 1]
        if len(axes) != 1:
            refuse(f"{self.name} makes an array that grows along {len(axes)} axes")
        return axes[0]

    def _broadcast(self) -> Value:
        signal = self._one()
        shape, more = list(self.out[0][0]), len(self.out[0][0]) - len(self.into[0][0])
        at = signal.at + more
        if self._growing(0) != at or any(
            out[at] != into[signal.at] for out, into in zip(self.out[0], self.into[0])
        ):
            refuse("Broadcast spreads a signal over time")
        if self.out[0] == self.into[0]:
            return signal

        def broadcast(a: mx.array) -> mx.array:
            return mx.broadcast_to(a, [*shape[:at], a.shape[at - more], *shape[at + 1 :]])

        return self._apply(broadcast, at)[0]

    def _transpose(self) -> Value:
        (order,) = self.arguments[0]
        signal = self._one()
        return self._apply(lambda a: mx.transpose(a, order), order.index(signal.at))[0]

    def _reduce(self) -> Value:
        signal = self._one()
        reduce, axes = primitives.reduction(self.arguments[0])
        if signal.at in axes:
            refuse("Reduce over time")
        return self._apply(reduce, signal.at)[0]

    def _softmax(self) -> Value:
        signal = self._one()
        if signal.at == len(self.into[0][0]) - 1:
            refuse("Softmax over time")
        function = self._known()
        return self._apply(function, signal.at)[0]

    def _matmul(self) -> Value:
        weight, signal = self.inputs[1], self.inputs[0]
        if isinstance(weight, Constant) and isinstance(signal, Signal):
            node = self.lowering.marked.node_of(weight.array)
            if node is not None:
                return self._recurrent(node, self.lowering.whole(signal))
        function = self._known()
        return self._apply(function, self._time_of_product())[0]

    _addmm = _matmul

    def _recurrent(self, node: nodes.Node, signal: Signal) -> Value:
        if signal.at != len(self.into[0][0]) - 2 or signal.outer > 1:
            refuse("a recurrent layer over another axis than time")
        (slot,) = self.lowering.node(node, [signal.slot])
        return replace(signal, slot=slot, clock=self.lowering.new_clock())

    def _time_of_product(self) -> int:
        """The axis of time in a matrix product, in which it must not be summed over."""
        n_out = len(self.out[0][0])
        places = set()
        for j, value in enumerate(self.inputs):
            if not isinstance(value, Signal):
                continue
            ndim = len(self.into[j][0])
            place = value.at + n_out - ndim
            if j < 2 and value.at == ndim - (1, 2)[j]:
                refuse(f"{self.name} sums over time")
            places.add(place)
        if len(places) > 1 or any(isinstance(each, Varying) for each in self.inputs):
            refuse(f"{self.name} combines every sample with every other")
        return places.pop()

    def _concatenate(self) -> Value:
        (axis,) = self.arguments[0]
        signals = [each for each in self.inputs if isinstance(each, Signal)]
        at = signals[0].at
        if axis == at:
            return self._joined(axis)
        if any(isinstance(each, (Constant, Piece)) for each in self.inputs):
            return self._apply(lambda *arrays: _beside(arrays, axis, at), at)[0]
        return self._apply(lambda *arrays: mx.concatenate(list(arrays), axis), at)[0]

    def _joined(self, axis: int) -> Value:
        """Pieces in front of a signal and behind it."""
        where = [i for i, each in enumerate(self.inputs) if isinstance(each, Signal)]
        if len(where) != 1:
            refuse("Concatenate puts one signal behind another")
        parts = []
        for value, shapes in zip(self.inputs, self.into):
            if not isinstance(value, Signal):
                if self._grows(shapes):
                    refuse("Concatenate puts as much as the signal is long in front or behind")
                value = self._filled(value, shapes[0])
            parts.append((shapes[0][axis], value))
        signal: Any = self.inputs[where[0]]
        if signal.outer > 1:
            refuse("Concatenate along several lines at once")
        front, behind = parts[: where[0]], parts[where[0] + 1 :]
        return replace(signal, front=(*front, *signal.front), behind=(*signal.behind, *behind))

    def _filled(self, value: Value, shape: tuple[int, ...]) -> Constant | Piece:
        """A constant or piece at its full size."""
        if isinstance(value, (Varying, Unknown, Signal)):
            refuse(f"{self.name} meets numbers that depend on the time since the beginning")
        return filled(self.lowering, value, shape)

    def _split(self) -> list[Value]:
        indices, axis = self.arguments[0]
        signal = self._one()
        if axis != signal.at:
            return self._apply(lambda a: mx.split(a, list(indices), axis), signal.at)
        refuse("Split of a signal in time")

    def _pad(self) -> Value:
        signal = self.inputs[0]
        if not isinstance(signal, Signal) or not isinstance(self.inputs[1], Constant):
            refuse("Pad by a signal")
        axes, lo, hi = self.arguments[0]
        at, value = signal.at, self.inputs[1].array
        shape = self.into[0][0]
        if signal.at in axes:
            i = axes.index(signal.at)
            widths = {(a[1][i], a[2][i]) for a in self.arguments}
            if len(widths) > 1:
                refuse("Pad by numbers that depend on the length")
            others = [j for j in range(len(axes)) if j != i and (lo[j] or hi[j])]
            if others or signal.outer > 1:
                refuse("Pad in time and beside it at once")
            front, behind = [
                ((n, Constant(mx.broadcast_to(value, (*shape[:at], n, *shape[at + 1 :])))),)
                if n
                else ()
                for n in (lo[i], hi[i])
            ]
            return replace(signal, front=(*front, *signal.front), behind=(*signal.behind, *behind))
        widths = [(0, 0)] * len(shape)
        for axis, before, after in zip(axes, lo, hi):
            widths[axis] = (before, after)
        self.inputs = [signal]
        return self._apply(lambda a: mx.pad(a, widths, constant_values=value), at)[0]

    def _slice(self) -> Value:
        signal = self._one()
        at = signal.at
        per_length = [
            primitives.slices(*arguments, shapes)
            for arguments, shapes in zip(self.arguments, self.into[0], strict=True)
        ]
        beside = [part for a, part in enumerate(per_length[0]) if a != at]
        if any([p for a, p in enumerate(each) if a != at] != beside for each in per_length):
            refuse("Slice beside time by numbers that depend on the length")
        times = [each[at] for each in per_length]
        sizes = [shapes[at] for shapes in self.into[0]]
        taken = cut_out(self.lowering, signal, times, sizes)
        index = list(per_length[0])
        index[at] = slice(None)
        full = all(
            part.indices(n) == (0, n, 1) for part, n in zip(index, self.into[0][0], strict=True)
        )
        if full:
            return taken
        at_once = tuple(index)
        self.inputs = [taken]
        if isinstance(taken, Piece):
            return Piece(self._piece(lambda a: a[at_once])[0])
        return self._apply(lambda a: a[at_once], at)[0]

    def _sliceupdate(self) -> Value:
        mode, *where = self.arguments[0]
        base, update = self.inputs
        if mode != 4:
            refuse("SliceUpdate that adds to a signal")
        (at,) = {each.at for each in self.inputs if isinstance(each, Signal)} or {0}
        index = [
            primitives.slices(*arguments[1:], shapes)
            for arguments, shapes in zip(self.arguments, self.into[0], strict=True)
        ]
        sizes = [shapes[at] for shapes in self.into[0]]
        for each, shapes in zip(index, self.into[0], strict=True):
            for a, part in enumerate(each):
                if a != at and part.indices(shapes[a]) != (0, shapes[a], 1):
                    refuse("SliceUpdate of a part of a signal beside time")
        return self._updated(
            base, update, [each[at].indices(n) for each, n in zip(index, sizes)], sizes, at
        )

    def _updated(
        self,
        base: Value,
        update: Value,
        where: list[tuple[int, int, int]],
        sizes: list[int],
        at: int,
    ) -> Value:
        """What stands before the update, the update, and what stands behind it."""
        lowering = self.lowering
        if any(step != 1 for *_, step in where):
            refuse("SliceUpdate with steps in time")
        starts, stops = [a for a, _, _ in where], [b for _, b, _ in where]
        ends = [n - b for n, b in zip(sizes, stops)]
        rows = self.into[0][0]
        if isinstance(update, Signal):
            if len(set(starts)) > 1 or len(set(ends)) > 1 or update.outer > 1:
                refuse("SliceUpdate at a place that depends on the length")
            front = self._part(base, at, 0, starts[0], rows) if starts[0] else ()
            behind = self._part(base, at, -ends[0], 0, rows) if ends[0] else ()
            return replace(update, front=(*front, *update.front), behind=(*update.behind, *behind))
        if not isinstance(base, Signal) or base.outer > 1:
            refuse("SliceUpdate of a constant by a piece")
        n = stops[0] - starts[0]
        part = self._filled(update, (*rows[:at], n, *rows[at + 1 :]))
        if len(set(starts)) == 1:
            rest = cropped(lowering, base, stops[0], 0)
            before = self._part(base, at, 0, starts[0], rows) if starts[0] else ()
            return replace(rest, front=(*before, (n, part), *rest.front))
        if len(set(ends)) == 1:
            back = [m - a for m, a in zip(sizes, starts)][0]
            rest = cropped(lowering, base, 0, back)
            behind = self._part(base, at, -ends[0], 0, rows) if ends[0] else ()
            return replace(rest, behind=(*rest.behind, (n, part), *behind))
        refuse("SliceUpdate at a place that depends on the length")

    def _part(
        self, base: Value, at: int, start: int, stop: int, rows: tuple[int, ...]
    ) -> tuple[tuple[int, Constant | Piece], ...]:
        """`stop - start` samples of a value, from the beginning or, if negative, to the end."""
        n = stop - start
        if not isinstance(base, Signal):
            return ((n, self._filled(base, (*rows[:at], n, *rows[at + 1 :]))),)
        sizes = [shapes[at] for shapes in self.into[0]]
        times = [slice(start, stop) if start >= 0 else slice(m + start, m) for m in sizes]
        piece = cut_out(self.lowering, base, times, sizes)
        assert not isinstance(piece, Signal)
        return ((n, piece),)

    def _convolution(self) -> Value:
        signal = self.inputs[0]
        if not isinstance(signal, Signal) or not isinstance(self.inputs[1], Constant):
            refuse("Convolution by weights that depend on the signal")
        if len(set(self.arguments)) > 1:
            refuse("Convolution with options that depend on the length")
        *options, groups, flip = self.arguments[0]
        shape, weight = self.into[0][0], self.inputs[1].array
        if signal.at == 0 and signal.outer >= 1:
            function = self._known()
            return self._apply(function, 0)[0]
        if signal.at == len(shape) - 1 or signal.outer > 1:
            refuse("Convolution whose channels are samples of different times")
        stride, lo, hi, kernel_dilation, input_dilation = options
        axes = tuple(
            [
                Axis(n, k, *rest)
                for n, k, *rest in zip(
                    shape[1:-1],
                    weight.shape[1:-1],
                    *(stride, input_dilation, kernel_dilation, lo, hi),
                    strict=True,
                )
            ]
        )
        signal = self.lowering.whole(signal)
        self.lowering.program.evaluated.append(weight)
        node = nodes.Convolution(axes, signal.at - 1, weight, groups, flip)
        (slot,) = self.lowering.node(node, [signal.slot])
        return Signal(slot, signal.at, self.lowering.new_clock())

    def _fft(self) -> Value:
        axes = self.arguments[0][0]
        signal = self._one()
        if signal.at in axes:
            refuse("FFT over time")
        function = self._known()
        return self._apply(function, signal.at)[0]

    def _scatter(self) -> Value:
        """Frames that are added up, each so many samples after the one before."""
        mode, axes = self.arguments[0]
        signal = self.inputs[-1]
        base, *indices = self.inputs[:-1]
        if mode != 2 or len(axes) != 1 or len(indices) != 1 or not isinstance(signal, Signal):
            refuse("Scatter of a signal")
        if not isinstance(indices[0], Varying) or not isinstance(base, (Constant, Varying)):
            refuse("Scatter of a signal to places that depend on it")
        found = overlapping(indices[0].arrays)
        signal, (axis,) = self.lowering.whole(signal), axes
        if found is None or signal.at or signal.outer > 1:
            refuse("Scatter of a signal to other places than those of frames")
        size, hop = found
        for k, (start, shapes) in enumerate(zip(self.into[0], self.into[-1])):
            if start[axis] != shapes[0] // size * hop + size - hop or not _is_nothing(base, k):
                refuse("Scatter of a signal onto something else")
        (slot,) = self.lowering.node(nodes.OverlapAdded(size, hop), [signal.slot])
        made = Signal(slot, 0, self.lowering.new_clock())
        # An update is `(I, *S)` with 1 in the axis that is added to.
        order = [*range(1, axis + 1), 0, *range(axis + 1, len(self.into[-1][0]) - 1)]

        def place(a: mx.array) -> mx.array:
            return mx.transpose(a.squeeze(axis + 1), order)

        (slot,) = self.lowering.local(place, [made.slot])
        return replace(made, slot=slot, at=axis)

    def _gather(self) -> Value:
        (axes, sizes) = self.arguments[0]
        table, indices = self.inputs[0], self.inputs[1] if len(self.inputs) > 1 else None
        if len(axes) != 1 or indices is None or len(self.inputs) > 2:
            refuse("Gather by several indices")
        function = self._known()
        if isinstance(indices, Signal) and not isinstance(table, Signal):
            return self._apply(function, indices.at)[0]
        if isinstance(indices, Signal) or not isinstance(table, Signal) or table.at in axes:
            refuse("Gather of samples at other times")
        return self._apply(function, len(self.into[1][0]) + table.at)[0]


def _beside(arrays: Sequence[mx.array], axis: int, at: int) -> mx.array:
    """Concatenated, what does not grow spread over as many samples as the others have."""
    n = max(each.shape[at] for each in arrays)
    wide = [mx.broadcast_to(each, (*each.shape[:at], n, *each.shape[at + 1 :])) for each in arrays]
    return mx.concatenate(wide, axis)


def _is_nothing(base: Constant | Varying, k: int) -> bool:
    array = base.arrays[k] if isinstance(base, Varying) else base.array
    return not mx.any(array != 0).item()


def overlapping(indices: Sequence[mx.array]) -> tuple[int, int] | None:
    """Size and hop of frames whose samples lie at these places, `hop t + i`."""
    first = np.array(indices[0]).ravel()
    breaks = np.flatnonzero(np.diff(first) != 1)
    if not len(breaks):
        return None
    size = int(breaks[0]) + 1
    hop = int(first[size])
    for each in indices:
        places = np.array(each).ravel()
        if len(places) % size or hop < 1:
            return None
        frames = np.arange(len(places) // size)[:, None] * hop + np.arange(size)
        if not np.array_equal(places, frames.ravel()):
            return None
    return size, hop


def periodic(arrays: Sequence[mx.array], at: int) -> tuple[mx.array, mx.array, mx.array] | None:
    """The beginning, a period, and the end that arrays of several lengths along `at` have alike."""
    a, b, c = [np.moveaxis(np.array(each), at, 0) for each in arrays]
    n, more = len(a), len(b) - len(a)
    alike = [np.array_equal(x, y) for x, y in zip(a[::-1], b[::-1])]
    end = alike.index(False) if False in alike else n
    begin = n - end
    if not np.array_equal(a[:begin], b[:begin]):
        return None
    middle = b[begin : begin + more]
    for size in range(1, more + 1):
        if more % size or (len(c) - n) % size:
            continue
        period = middle[:size]
        longer = np.concatenate([a[:begin], *[period] * ((len(c) - n) // size), a[begin:]])
        if np.array_equal(middle, np.tile(period, (more // size, *[1] * (a.ndim - 1)))):
            if not np.array_equal(longer, c):
                return None
            first, last = a[:begin], a[begin:]
            while len(first) >= size and np.array_equal(first[-size:], period):
                first = first[:-size]
            while len(last) >= size and np.array_equal(last[:size], period):
                last = last[size:]
            parts = (first, period, last)
            dtype = arrays[0].dtype
            return tuple([mx.array(np.moveaxis(each, 0, at), dtype) for each in parts])
    return None


def still(value: Varying, shapes: Shapes) -> Value:
    """A constant, where all is alike along what grows."""
    first = value.arrays[0]
    shape = [
        slice(0, 1) if len(set(sizes)) > 1 else slice(None) for sizes in zip(*shapes, strict=True)
    ]
    one = first[tuple(shape)]
    if all(mx.array_equal(each, mx.broadcast_to(one, each.shape)).item() for each in value.arrays):
        return Constant(one)
    return value
