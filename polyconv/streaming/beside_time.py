"""Operations that leave time as it is: of each sample by itself, or along other axes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from math import prod
from typing import Any

import mlx.core as mx

from polyconv.execution.identity import is_traced
from polyconv.execution.packing import evaluate
from polyconv.gradients.bias import add_bias
from polyconv.streaming import end_nodes, nodes, primitives
from polyconv.streaming.lowering import Constant, Signal, Value, Varying, refuse
from polyconv.streaming.periods import periodic
from polyconv.streaming.step import Step


def with_times(step: Step) -> None:
    """Numbers that are others at the ends, and alike or periodic between, go with a signal."""
    for j, value in enumerate(step.inputs):
        if isinstance(value, Varying):
            where = next(i for i, each in enumerate(step.inputs) if isinstance(each, Signal))
            signal = step.lowering.whole(step.inputs[where])  # type: ignore[arg-type]
            if signal.outer > 1 or step.into[j][0] != step.into[where][0]:
                refuse(f"{step.name} meets numbers that depend on the length")
            times = periodic(value.arrays, signal.at)
            if times is None:
                refuse(f"{step.name} meets numbers that depend on the time since the beginning")
            slots = step.lowering.node(end_nodes.Times(signal.line, *times), [signal.slot], 2)
            clock = step.lowering.new_clock()
            step.lowering.repeats(signal.rate / signal.line.count(times[1]))
            step.inputs[where] = replace(signal, slot=slots[0], clock=clock)
            step.inputs[j] = replace(signal, slot=slots[1], clock=clock)


def pointwise(step: Step, function: Callable[..., Any]) -> Value:
    with_times(step)
    signals = [each for each in step.inputs if isinstance(each, Signal)]
    if len({(each.at, each.outer) for each in signals}) > 1:
        refuse(f"{step.name} combines every sample with every other")
    exponent = step.inputs[1] if step.name == "Power" else None
    if isinstance(exponent, Constant) and _is_two(exponent.array):
        step.inputs = step.inputs[:1]
        function = mx.square  # as Snake has it; a power takes ten times as long on a CPU
    biases = [each.spread for each in step.inputs if isinstance(each, Constant)]
    for bias in biases if step.name == "Add" else ():
        if bias is not None and bias.ndim == 1 and is_traced([bias]):
            return _with_bias(step, bias)
    return step.apply(function, signals[0].at)[0]


def _is_two(a: mx.array) -> bool:
    return evaluate([a]) and bool(mx.all(a == 2).item())


def _with_bias(step: Step, bias: mx.array) -> Value:
    """A bias that is trained: its gradient is summed in float32 for halves."""
    (signal,) = [each for each in step.inputs if isinstance(each, Signal)]
    step.inputs = [signal]
    return step.apply(lambda a: add_bias(a, bias), signal.at)[0]


def reshaped(step: Step) -> Value:
    """The samples in another shape: `q` samples of one, or one of `g`."""
    signal = step.lowering.whole(step.one())
    (into, *_), at = step.into[0], signal.at
    grows = growing(step, 0)
    pre, post = prod(into[:at]) * signal.outer, prod(into[at + 1 :])
    shape = list(step.out[0][0])
    out_pre, out_post = prod(shape[:grows]), prod(shape[grows + 1 :])
    is_merged = out_post > 0 and post % out_post == 0
    if not is_merged and not (post and out_post % post == 0):
        refuse(f"{step.name} divides the samples of different times among each other")
    if pre % out_pre:
        refuse(f"{step.name} divides what lies beside time")
    outer, was_outer = pre // out_pre, signal.outer
    q, g = (post // out_post, 1) if is_merged else (1, out_post // post)
    if g > 1:
        (slot,) = step.lowering.node(nodes.Grouped(signal.line, g), [signal.slot])
        signal = replace(signal, slot=slot, clock=step.lowering.new_clock())

    def reshape(a: mx.array) -> mx.array:
        n = a.shape[at] // was_outer * q // g
        return mx.reshape(a, [*shape[:grows], outer * n, *shape[grows + 1 :]])

    (slot,) = step.lowering.local(reshape, [signal.slot])
    clock = (signal.clock[0], signal.clock[1] * q)
    clock = clock if g == 1 else step.lowering.new_clock()
    return Signal(slot, grows, clock, signal.rate * q / g, outer)


def growing(step: Step, i: int) -> int:
    """The axis along which an output grows."""
    axes = [a for a, sizes in enumerate(zip(*step.out[i])) if len(set(sizes)) > 1]
    if len(axes) != 1:
        refuse(f"{step.name} makes an array that grows along {len(axes)} axes")
    return axes[0]


def broadcast(step: Step) -> Value:
    signal = step.one()
    shape, more = list(step.out[0][0]), len(step.out[0][0]) - len(step.into[0][0])
    at = signal.at + more
    if growing(step, 0) != at or any(
        out[at] != into[signal.at] for out, into in zip(step.out[0], step.into[0])
    ):
        refuse("Broadcast spreads a signal over time")
    if step.out[0] == step.into[0]:
        return signal

    def broadcast(a: mx.array) -> mx.array:
        return mx.broadcast_to(a, [*shape[:at], a.shape[at - more], *shape[at + 1 :]])

    return step.apply(broadcast, at)[0]


def transpose(step: Step) -> Value:
    (order,) = step.arguments[0]
    signal = step.one()
    return step.apply(step.known(), order.index(signal.at))[0]


def along_axes(step: Step) -> Value:
    """What works along some axes, of which time must be none."""
    signal = step.one()
    if signal.at in _axes(step):
        refuse(f"{step.name} over time")
    return step.apply(step.known(), signal.at)[0]


def _axes(step: Step) -> Sequence[int]:
    arguments: tuple[Any, ...] = step.arguments[0]
    if step.name == "FFT":
        return arguments[0]  # type: ignore[no-any-return]
    if step.name == "Reduce":
        return arguments[1]  # type: ignore[no-any-return]
    if step.name == "Softmax":
        return (len(step.into[0][0]) - 1,)
    return (arguments[primitives.AXIS[step.name]],)


def quantized_matmul(step: Step) -> Value:
    """Of a signal by weights that are quantized: the last axis is summed over."""
    signal = step.one()
    if signal.at == len(step.into[0][0]) - 1:
        refuse("QuantizedMatmul sums over time")
    return step.apply(step.known(), signal.at)[0]


def matmul(step: Step) -> Value:
    weight, signal = step.inputs[1], step.inputs[0]
    if isinstance(weight, Constant) and isinstance(signal, Signal):
        node = step.lowering.marked.node_of(weight.array)
        if node is not None:
            return _recurrent(step, node, step.lowering.whole(signal))
    function = step.known()
    return step.apply(function, _time_of_product(step))[0]


def _recurrent(step: Step, node: nodes.Node, signal: Signal) -> Value:
    if signal.at != len(step.into[0][0]) - 2:
        refuse("a recurrent layer over another axis than time")
    outer, slot = signal.outer, signal.slot
    if outer > 1:  # MLX lays the lines of a batch behind each other before it multiplies
        items = step.lowering.program.items.get(slot)
        (slot,) = step.lowering.local(lambda a: a.reshape(outer, -1, a.shape[-1]), [slot])
        step.lowering.program.items[slot] = items and items._replace(axis=-3)
    (slot,) = step.lowering.node(node, [slot])
    if outer > 1:
        (slot,) = step.lowering.local(lambda a: a.flatten(0, 1), [slot])
    return replace(signal, slot=slot, clock=step.lowering.new_clock())


def _time_of_product(step: Step) -> int:
    """The axis of time in a matrix product, in which it must not be summed over."""
    n_out = len(step.out[0][0])
    places = set()
    for j, value in enumerate(step.inputs):
        if not isinstance(value, Signal):
            continue
        ndim = len(step.into[j][0])
        place = value.at + n_out - ndim
        if j < 2 and value.at == ndim - (1, 2)[j]:
            refuse(f"{step.name} sums over time")
        places.add(place)
    if len(places) > 1 or any(isinstance(each, Varying) for each in step.inputs):
        refuse(f"{step.name} combines every sample with every other")
    return places.pop()


def gather(step: Step) -> Value:
    (axes, _) = step.arguments[0]
    table, indices = step.inputs[0], step.inputs[1] if len(step.inputs) > 1 else None
    if len(axes) != 1 or indices is None or len(step.inputs) > 2:
        refuse("Gather by several indices")
    function = step.known()
    if isinstance(indices, Signal) and not isinstance(table, Signal):
        return step.apply(function, indices.at)[0]
    if isinstance(indices, Signal) or not isinstance(table, Signal) or table.at in axes:
        refuse("Gather of samples at other times")
    return step.apply(function, len(step.into[1][0]) + table.at)[0]
