"""Which operations does MLX trace for a function? The one file that knows the form of its graphs.

`mx.export_function` tells a callback of every operation. MLX calls this experimental, so what its
messages hold is read here and nowhere else.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import mlx.core as mx

from polyconv.execution.device import exporting_as_asked


class Operation(NamedTuple):
    """One of MLX's primitives, and the numbers of the values that it reads and makes."""

    name: str
    arguments: tuple[Any, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


class Trace(NamedTuple):
    """The operations of a function for inputs of certain shapes, in an order to compute them in.

    Values are numbered: the inputs, then the constants, then what the operations make. Each use of
    a constant has a number of its own. `draws` says whether random numbers were drawn that are
    others in each call.
    """

    n_inputs: int
    constants: tuple[mx.array, ...]
    operations: tuple[Operation, ...]
    outputs: tuple[int, ...]
    shapes: tuple[tuple[int, ...], ...]
    dtypes: tuple[mx.Dtype, ...]
    draws: bool = False

    @property
    def names(self) -> tuple[str, ...]:
        return tuple([each.name for each in self.operations])

    @property
    def wires(self) -> tuple[Any, ...]:
        """What reads what, which is the same at another length if the code takes the same way."""
        return (*[(each.inputs, each.outputs) for each in self.operations], self.outputs)


def trace(function: Callable[..., Any], *inputs: mx.array) -> Trace:
    """The operations of `function`, which is run once. Nothing is evaluated.

    Args:
        function (callable): Of arrays, and with an array or arrays as its result.
        inputs (array): Arrays of the shapes and types to trace.

    Raises:
        ValueError: If MLX cannot tell them, because the function looks at the numbers of an array,
            say.
    """
    messages: list[dict[str, Any]] = []
    key = mx.random.state[0]
    # On a CPU norms and attention arrive as the operations that they are made of.
    with exporting_as_asked(), mx.stream(mx.cpu):
        mx.export_function(messages.append, function, *inputs)
    return _read(messages)._replace(draws=mx.random.state[0] is not key)


def _read(messages: Sequence[dict[str, Any]]) -> Trace:
    told = {each["type"]: each for each in messages if each["type"] != "primitive"}
    numbers: dict[str, int] = {}
    shapes: list[tuple[int, ...]] = []
    dtypes: list[mx.Dtype] = []

    def number(name: str, shape: Sequence[int], dtype: mx.Dtype) -> int:
        numbers[name] = len(shapes)
        shapes.append(tuple(shape))
        dtypes.append(dtype)
        return numbers[name]

    for each in told["inputs"]["inputs"]:
        number(*each)
    constants = [array for _, array in told["constants"]["constants"]]
    for name, array in told["constants"]["constants"]:
        number(name, array.shape, array.dtype)
    operations = []
    for each in messages:
        if each["type"] == "primitive":
            inputs = tuple([numbers[name] for name, *_ in each["inputs"]])
            outputs = tuple([number(*output) for output in each["outputs"]])
            operations.append(Operation(each["name"], _plain(each["arguments"]), inputs, outputs))
    found = Trace(
        len(told["inputs"]["inputs"]),
        tuple(constants),
        tuple(operations),
        tuple([numbers[name] for name, *_ in told["outputs"]["outputs"]]),
        tuple(shapes),
        tuple(dtypes),
    )
    return _unmerged(found)


def _unmerged(trace: Trace) -> Trace:
    """With each use of a constant as one of its own: MLX merges numbers that are alike."""
    n_inputs, n = trace.n_inputs, len(trace.constants)
    uses = [
        number
        for numbers in (*[each.inputs for each in trace.operations], trace.outputs)
        for number in numbers
        if n_inputs <= number < n_inputs + n
    ]
    order = [*range(n_inputs), *uses, *range(n_inputs + n, len(trace.shapes))]
    used = iter(range(n_inputs, n_inputs + len(uses)))

    def renumbered(numbers: tuple[int, ...]) -> tuple[int, ...]:
        more = len(uses) - n
        return tuple(
            [a if a < n_inputs else next(used) if a < n_inputs + n else a + more for a in numbers]
        )

    return trace._replace(
        constants=tuple([trace.constants[number - n_inputs] for number in uses]),
        operations=tuple(
            [
                each._replace(inputs=renumbered(each.inputs), outputs=renumbered(each.outputs))
                for each in trace.operations
            ]
        ),
        outputs=renumbered(trace.outputs),
        shapes=tuple([trace.shapes[number] for number in order]),
        dtypes=tuple([trace.dtypes[number] for number in order]),
    )


def _plain(value: Any) -> Any:
    """Lists as tuples, so that arguments can be compared and kept."""
    return tuple(map(_plain, value)) if isinstance(value, (list, tuple)) else value
