"""How is each of MLX's operations lowered, by what its inputs are?"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from polyconv.streaming import along_time, beside_time, primitives
from polyconv.streaming.lowering import Lowering, Piece, Signal, Unknown, Value, refuse
from polyconv.streaming.step import Step

_LOWERED: dict[str, Callable[[Step], Any]] = {
    "AddMM": beside_time.matmul,
    "Broadcast": beside_time.broadcast,
    "Concatenate": along_time.concatenate,
    "Convolution": along_time.convolution,
    "FFT": beside_time.along_axes,
    "Gather": beside_time.gather,
    "Matmul": beside_time.matmul,
    "Pad": along_time.pad,
    "Reduce": beside_time.along_axes,
    "Scatter": along_time.scatter,
    "Slice": along_time.take_slice,
    "SliceUpdate": along_time.slice_update,
    "Softmax": beside_time.along_axes,
    "Split": along_time.split,
    "Transpose": beside_time.transpose,
    "QuantizedMatmul": beside_time.quantized_matmul,
    **dict.fromkeys(primitives.AXIS, beside_time.along_axes),
    **dict.fromkeys(primitives.RESHAPES, beside_time.reshaped),
}


def lower(lowering: Lowering, index: int) -> list[Value]:
    """The values that an operation of the traces makes.

    Raises:
        RefusedError: If it cannot be computed chunk by chunk.
    """
    step = Step(lowering, index)
    unknown = [each for each in step.inputs if isinstance(each, Unknown)]
    is_signal = any(isinstance(each, Signal) for each in step.inputs)
    is_piece = any(isinstance(each, Piece) for each in step.inputs)
    if unknown:
        if is_signal or is_piece:
            refuse(unknown[0].reason)
        return [unknown[0]] * len(step.out)
    if not is_signal:
        return step.of_pieces() if is_piece else step.of_constants()
    if step.name in _LOWERED:
        found = _LOWERED[step.name](step)
        return found if isinstance(found, list) else [found]
    function = primitives.pointwise(step.name, step.arguments[0])
    if function is None:
        refuse(f"{step.name} of a signal is not known to go chunk by chunk")
    return [beside_time.pointwise(step, function)]
