"""Operations in time: what stands in front and behind, what is cut, what overlaps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import mlx.core as mx

from polyconv.problem.spec import Axis
from polyconv.streaming import end_nodes, primitives
from polyconv.streaming.convolution_node import Convolution
from polyconv.streaming.lowering import (
    Constant,
    Part,
    Piece,
    Signal,
    Unknown,
    Value,
    Varying,
    refuse,
)
from polyconv.streaming.periods import overlapping
from polyconv.streaming.pieces import cropped, cut_out, filled, of_part
from polyconv.streaming.step import Step


def concatenate(step: Step) -> Value:
    (axis,) = step.arguments[0]
    signals = [each for each in step.inputs if isinstance(each, Signal)]
    at = signals[0].at
    if axis == at:
        return _joined(step, axis)
    if any(isinstance(each, (Constant, Piece)) for each in step.inputs):
        return step.apply(lambda *arrays: _beside(arrays, axis, at), at)[0]
    return step.apply(step.known(), at)[0]


def _joined(step: Step, axis: int) -> Value:
    """Pieces in front of a signal and behind it."""
    signal: Signal | None = None
    front: list[Part] = []
    behind: list[Part] = []
    for value, shapes in zip(step.inputs, step.into, strict=True):
        if isinstance(value, Signal):
            if signal is not None or value.outer > 1:
                refuse("Concatenate puts one signal behind another")
            signal = value
            continue
        if step.grows(shapes):
            refuse("Concatenate puts as much as the signal is long in front or behind")
        part = (shapes[0][axis], filled_of(step, value, shapes[0]))
        (front if signal is None else behind).append(part)
    assert signal is not None
    return replace(signal, front=(*front, *signal.front), behind=(*signal.behind, *behind))


def filled_of(step: Step, value: Value, shape: tuple[int, ...]) -> Constant | Piece:
    """A constant or piece at its full size."""
    if isinstance(value, (Varying, Unknown, Signal)):
        refuse(f"{step.name} meets numbers that depend on the time since the beginning")
    return filled(step.lowering, value, shape)


def split(step: Step) -> list[Value]:
    _, axis = step.arguments[0]
    signal = step.one()
    if axis != signal.at:
        return step.apply(step.known(), signal.at)
    refuse("Split of a signal in time")


def pad(step: Step) -> Value:
    signal, filler = step.inputs
    if not isinstance(signal, Signal) or not isinstance(filler, Constant):
        refuse("Pad by a signal")
    at, shape = signal.at, step.into[0][0]
    widths = [dict(zip(axes, zip(lo, hi))) for axes, lo, hi in step.arguments]
    if any(each != widths[0] for each in widths):
        refuse("Pad by numbers that depend on the length")
    in_time = widths[0].pop(at, (0, 0))
    around = [widths[0].get(axis, (0, 0)) for axis in range(len(shape))]
    if any(any(pair) for pair in around):
        step.inputs = [step.lowering.whole(signal)]
        value = filler.array
        (signal,) = step.apply(lambda a: mx.pad(a, around, constant_values=value), at)
        assert isinstance(signal, Signal)
    if not any(in_time):
        return signal
    if signal.outer > 1:
        refuse("Pad of several lines at once")
    wide = [n + lo + hi for n, (lo, hi) in zip(shape, around, strict=True)]
    front, behind = [
        ((n, Constant(mx.broadcast_to(filler.array, (*wide[:at], n, *wide[at + 1 :])))),) * (n > 0)
        for n in in_time
    ]
    return replace(signal, front=(*front, *signal.front), behind=(*signal.behind, *behind))


def take_slice(step: Step) -> Value:
    signal = step.one()
    at = signal.at
    per_length = [
        primitives.slices(arguments, shapes)
        for arguments, shapes in zip(step.arguments, step.into[0], strict=True)
    ]
    beside = [part for a, part in enumerate(per_length[0]) if a != at]
    if any([p for a, p in enumerate(each) if a != at] != beside for each in per_length):
        refuse("Slice beside time by numbers that depend on the length")
    times = [each[at] for each in per_length]
    sizes = [shapes[at] for shapes in step.into[0]]
    taken = cut_out(step.lowering, signal, times, sizes)
    index = list(per_length[0])
    index[at] = slice(None)
    full = all(part.indices(n) == (0, n, 1) for part, n in zip(index, step.into[0][0], strict=True))
    if full:
        return taken
    at_once = tuple(index)
    if not isinstance(taken, Signal):
        return of_part(step.lowering, taken, at_once)
    step.inputs = [taken]
    return step.apply(lambda a: a[at_once], at)[0]


def slice_update(step: Step) -> Value:
    mode = step.arguments[0][0]
    base, update = step.inputs
    if mode != 4:
        refuse("SliceUpdate that adds to a signal")
    (at,) = {each.at for each in step.inputs if isinstance(each, Signal)} or {0}
    index = [
        primitives.slices(arguments[1:], shapes)
        for arguments, shapes in zip(step.arguments, step.into[0], strict=True)
    ]
    sizes = [shapes[at] for shapes in step.into[0]]
    if all(each[at].indices(n) == (0, n, 1) for each, n in zip(index, sizes)):
        return _updated_beside(step, index, at)
    for each, shapes in zip(index, step.into[0], strict=True):
        for a, part in enumerate(each):
            if a != at and part.indices(shapes[a]) != (0, shapes[a], 1):
                refuse("SliceUpdate of a part of a signal beside time")
    return _updated(
        step, base, update, [each[at].indices(n) for each, n in zip(index, sizes)], sizes, at
    )


def _updated_beside(step: Step, index: list[list[slice]], at: int) -> Value:
    """In other axes than time, at all times."""
    parts = [(*each[:at], slice(None), *each[at + 1 :]) for each in index]
    if any(each != parts[0] for each in parts):
        refuse("SliceUpdate beside time by numbers that depend on the length")
    part = parts[0]

    def update(base: mx.array, new: mx.array) -> mx.array:
        n = max(base.shape[at], new.shape[at])
        out = mx.array(mx.broadcast_to(base, (*base.shape[:at], n, *base.shape[at + 1 :])))
        out[part] = new
        return out

    return step.apply(update, at)[0]


def _updated(
    step: Step,
    base: Value,
    update: Value,
    where: list[tuple[int, int, int]],
    sizes: list[int],
    at: int,
) -> Value:
    """What stands before the update, the update, and what stands behind it."""
    lowering = step.lowering
    if any(step != 1 for *_, step in where):
        refuse("SliceUpdate with steps in time")
    starts, stops = [a for a, _, _ in where], [b for _, b, _ in where]
    ends = [n - b for n, b in zip(sizes, stops)]
    rows = step.into[0][0]
    if isinstance(update, Signal):
        if len(set(starts)) > 1 or len(set(ends)) > 1 or update.outer > 1:
            refuse("SliceUpdate at a place that depends on the length")
        front = _part(step, base, at, 0, starts[0], rows)
        behind = _part(step, base, at, -ends[0], 0, rows)
        return replace(update, front=(*front, *update.front), behind=(*update.behind, *behind))
    if not isinstance(base, Signal) or base.outer > 1:
        refuse("SliceUpdate of a constant by a piece")
    n = stops[0] - starts[0]
    part = filled_of(step, update, (*rows[:at], n, *rows[at + 1 :]))
    if len(set(starts)) == 1:
        rest = cropped(lowering, base, stops[0], 0)
        before = _part(step, base, at, 0, starts[0], rows)
        return replace(rest, front=(*before, (n, part), *rest.front))
    if len(set(ends)) == 1:
        back = sizes[0] - starts[0]
        rest = cropped(lowering, base, 0, back)
        behind = _part(step, base, at, -ends[0], 0, rows)
        return replace(rest, behind=(*rest.behind, (n, part), *behind))
    refuse("SliceUpdate at a place that depends on the length")


def _part(
    step: Step, base: Value, at: int, start: int, stop: int, rows: tuple[int, ...]
) -> tuple[tuple[int, Constant | Piece], ...]:
    """`stop - start` samples of a value, from the beginning or, if negative, to the end."""
    n = stop - start
    if not n:
        return ()
    if not isinstance(base, Signal):
        return ((n, filled_of(step, base, (*rows[:at], n, *rows[at + 1 :]))),)
    sizes = [shapes[at] for shapes in step.into[0]]
    times = [slice(start, stop) if start >= 0 else slice(m + start, m) for m in sizes]
    piece = cut_out(step.lowering, base, times, sizes)
    assert not isinstance(piece, Signal)
    return ((n, piece),)


def convolution(step: Step) -> Value:
    signal = step.inputs[0]
    if not isinstance(signal, Signal) or not isinstance(step.inputs[1], Constant):
        refuse("Convolution by weights that depend on the signal")
    if len(set(step.arguments)) > 1:
        refuse("Convolution with options that depend on the length")
    *options, groups, flip = step.arguments[0]
    shape, weight = step.into[0][0], step.inputs[1].array
    if signal.at == 0 and signal.outer >= 1:
        function = step.known()
        return step.apply(function, 0)[0]
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
    signal = step.lowering.whole(signal)
    node = Convolution(axes, signal.at - 1, weight, groups, flip)
    (slot,) = step.lowering.node(node, [signal.slot])
    along = axes[signal.at - 1]
    rate = signal.rate * along.input_dilation / along.stride
    return Signal(slot, signal.at, step.lowering.new_clock(), rate)


def scatter(step: Step) -> Value:
    """Frames that are added up, each so many samples after the one before."""
    mode, axes = step.arguments[0]
    signal = step.inputs[-1]
    base, *indices = step.inputs[:-1]
    if mode != 2 or len(axes) != 1 or len(indices) != 1 or not isinstance(signal, Signal):
        refuse("Scatter of a signal")
    if not isinstance(indices[0], Varying) or not isinstance(base, (Constant, Varying)):
        refuse("Scatter of a signal to places that depend on it")
    found = overlapping(indices[0].arrays)
    signal, (axis,) = step.lowering.whole(signal), axes
    if found is None or signal.at or signal.outer > 1:
        refuse("Scatter of a signal to other places than those of frames")
    size, hop = found
    for k, (start, shapes) in enumerate(zip(step.into[0], step.into[-1])):
        if start[axis] != shapes[0] // size * hop + size - hop or not _is_nothing(base, k):
            refuse("Scatter of a signal onto something else")
    (slot,) = step.lowering.node(end_nodes.OverlapAdded(size, hop), [signal.slot])
    made = Signal(slot, 0, step.lowering.new_clock(), signal.rate * hop / size)
    # An update is `(I, *S)` with 1 in the axis that is added to.
    order = [*range(1, axis + 1), 0, *range(axis + 1, len(step.into[-1][0]) - 1)]

    def place(a: mx.array) -> mx.array:
        return mx.transpose(a.squeeze(axis + 1), order)

    (slot,) = step.lowering.local(place, [made.slot])
    return replace(made, slot=slot, at=axis)


def _beside(arrays: Sequence[mx.array], axis: int, at: int) -> mx.array:
    """Concatenated, what does not grow spread over as many samples as the others have."""
    n = max(each.shape[at] for each in arrays)
    wide = [mx.broadcast_to(each, (*each.shape[:at], n, *each.shape[at + 1 :])) for each in arrays]
    return mx.concatenate(wide, axis)


def _is_nothing(base: Constant | Varying, k: int) -> bool:
    array = base.arrays[k] if isinstance(base, Varying) else base.array
    return not mx.any(array != 0).item()
