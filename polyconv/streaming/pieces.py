"""Which samples of a signal are a piece, or another signal?

The ends of a slice are counted from the beginning or from the end, as they stay the same there at
all traced lengths. What lies in front of a signal and behind it is cut without any delay.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import mlx.core as mx

from polyconv.streaming import end_nodes, nodes
from polyconv.streaming.lowering import Constant, Lowering, Part, Piece, Signal, refuse


def filled(lowering: Lowering, value: Constant | Piece, shape: tuple[int, ...]) -> Constant | Piece:
    """A constant or piece at its full size."""
    if isinstance(value, Constant):
        return Constant(mx.broadcast_to(value.array, shape))
    return lowering.piece_of(lambda a: mx.broadcast_to(a, shape), value.slot)


def cut_out(
    lowering: Lowering, signal: Signal, times: Sequence[slice], sizes: Sequence[int]
) -> Signal | Piece | Constant:
    """Some samples of a signal, told as slices at each traced length of `sizes` samples."""
    read = [part.indices(n) for part, n in zip(times, sizes, strict=True)]
    if all(each == (0, n, 1) for each, n in zip(read, sizes, strict=True)):
        return signal
    if signal.outer > 1:
        refuse("Slice of several lines at once")
    steps = {step for _, _, step in read}
    if len(steps) > 1:
        refuse("Slice by steps that depend on the length")
    (step,) = steps
    if step < 0 and len({stop - start for start, stop, _ in read}) > 1:
        refuse("Slice turns time around")
    if step < 0:  # the same samples from the first to the last, and turned
        read = [(stop + 1, start + 1, 1) for start, stop, _ in read]
    starts, stops = [a for a, _, _ in read], [b for _, b, _ in read]
    back = [n - a for n, a in zip(sizes, starts, strict=True)]
    ends = [n - b for n, b in zip(sizes, stops, strict=True)]
    if len(set(starts)) == 1 and len(set(ends)) == 1 and step > 0:
        return _stepped(lowering, cropped(lowering, signal, starts[0], ends[0]), step)
    if len(set(starts)) == 1 and len(set(stops)) == 1:
        piece = _early(lowering, signal, starts[0], stops[0])
    elif len(set(back)) == 1 and len(set(ends)) == 1:
        piece = _late(lowering, signal, back[0], ends[0])
    else:
        refuse("Slice at a place that depends on the length")
    return _turned(lowering, piece, signal.at, step)


def cropped(lowering: Lowering, signal: Signal, lo: int, hi: int) -> Signal:
    """Without `lo` samples in front and `hi` behind, of the parts first."""
    front, lo = _without(lowering, signal.front, lo, signal.at, True)
    behind, hi = _without(lowering, signal.behind[::-1], hi, signal.at, False)
    signal = replace(signal, front=front, behind=behind[::-1])
    if not lo and not hi:
        return signal
    least = lo + hi if signal.front or signal.behind else 0
    node = nodes.Cropped(signal.line, lo, hi, least=least)
    (slot,) = lowering.node(node, [signal.slot])
    return replace(signal, slot=slot, clock=lowering.new_clock())


def _without(
    lowering: Lowering, parts: Sequence[Part], n: int, at: int, from_front: bool
) -> tuple[tuple[Part, ...], int]:
    """The parts without their outermost `n` samples, and how many more are to be dropped."""
    kept = list(parts)
    while n and kept:
        size, part = kept.pop(0)
        if size > n:
            rest = slice(n, size) if from_front else slice(0, size - n)
            kept.insert(0, (size - n, of_part(lowering, part, _along(at, rest))))
            return tuple(kept), 0
        n -= size
    return tuple(kept), n


def _along(at: int, samples: slice) -> tuple[slice, ...]:
    return (*[slice(None)] * at, samples)


def of_part(
    lowering: Lowering, part: Constant | Piece, index: tuple[slice, ...]
) -> Constant | Piece:
    if isinstance(part, Constant):
        return Constant(part.array[index])
    return lowering.piece_of(lambda a: a[index], part.slot)


def _stepped(lowering: Lowering, signal: Signal, step: int) -> Signal:
    if step == 1:
        return signal
    signal = lowering.whole(signal)
    (slot,) = lowering.node(nodes.Cropped(signal.line, 0, 0, step), [signal.slot])
    rate = signal.rate / step
    return replace(signal, slot=slot, clock=lowering.new_clock(), rate=rate)


def _early(lowering: Lowering, signal: Signal, start: int, stop: int) -> Constant | Piece:
    for size, part in signal.front[:1]:  # it may lie in one part
        if stop <= size:
            return of_part(lowering, part, _along(signal.at, slice(start, stop)))
    whole = lowering.whole(replace(signal, behind=()))
    (slot,) = lowering.node(end_nodes.Early(whole.line, start, stop), [whole.slot])
    return Piece(slot)


def _late(lowering: Lowering, signal: Signal, start: int, stop: int) -> Constant | Piece:
    for size, part in signal.behind[-1:]:
        if start <= size:
            samples = slice(size - start, size - stop)
            return of_part(lowering, part, _along(signal.at, samples))
    whole = lowering.whole(replace(signal, front=()))
    (slot,) = lowering.node(end_nodes.Late(whole.line, start, stop), [whole.slot])
    return Piece(slot)


def _turned(lowering: Lowering, piece: Constant | Piece, at: int, step: int) -> Constant | Piece:
    return piece if step == 1 else of_part(lowering, piece, _along(at, slice(None, None, step)))
