"""A model, or any function of one array, made to run chunk by chunk.

MLX traces it at several lengths, `lowering` makes a program of the traces, and a short random input
proves the program before anybody uses it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from polyconv.execution.device import check_float64, is_on_cpu
from polyconv.execution.identity import Parameters
from polyconv.execution.locking import ALONE
from polyconv.execution.modules import modules
from polyconv.execution.packing import evaluate
from polyconv.problem import arguments
from polyconv.streaming.built import Built, Laid, beside
from polyconv.streaming.graph import StreamedModel
from polyconv.streaming.lowering import Lowering, RefusedError
from polyconv.streaming.operations import lower
from polyconv.streaming.paths import path_of, raised_in
from polyconv.streaming.proof import prove
from polyconv.streaming.recurrent import Marked, marked
from polyconv.streaming.state import Kept, Trained, roots_of, untouched
from polyconv.streaming.traced import Trace, trace

# Lengths to trace, in samples: prime to each other, and apart by more than what most models take
# together. Where a model does not take these, it is traced at multiples of the example's.
_LENGTHS = (61, 68, 79)
_MULTIPLES = ((1, 2, 3), (3, 4, 6), (8, 11, 14))
_FIRST_LAYERS = (nn.Conv1d, nn.ConvTranspose1d, nn.Linear)


def stream(
    model: nn.Module | Callable[[mx.array], mx.array],
    example: mx.array | None = None,
    *,
    axis: int = 1,
    check: bool = True,
) -> StreamedModel:
    """Makes a model run chunk by chunk, with the same weights and no edits to it.

    MLX traces the model's own code at three lengths, and chunks go through the operations that it
    tells. These may be convolutions along time, functions of each sample, sums and norms over other
    axes, matrix products, transposes, reshapes that change the rate, pads, crops and delays.
    Attention over time, norms over time and random numbers are refused by name. A short random
    input, whole and in chunks, proves the stream before it is given.

    Args:
        model (Module or callable): The model, or any function of one array. It is not changed. The
            stream keeps the weights of now: after loading others make another stream. For gradients
            by the weights make it inside the function that is differentiated.
        example (array, optional): An input, whose numbers do not matter: the batch, the channels
            and a length that the model takes. Default: ``(1, L, C)``, with the channels of the
            first layer; any batch can be streamed then.
        axis (int, optional): Time in the input. Where the output has it is found. Default: ``1``.
        check (bool, optional): Prove the stream. Default: ``True``.

    Returns:
        StreamedModel: With `step` and `flush`.

    Raises:
        ValueError: If the model does anything with the signal that cannot go chunk by chunk, or the
            stream would not give what the model gives. The message names the operation, and the
            module where that is known.
    """
    if not callable(model):
        got = f"{type(model).__name__}, which has no __call__"
        got = got if isinstance(model, nn.Module) else arguments.shown(model)
        arguments.refuse("stream", "model must be a module or a function that can be called", got)
    if example is not None and not isinstance(example, mx.array):
        arguments.refuse("stream", "example must be an mlx.core.array", type(example).__name__)
    if example is not None:
        check_float64("stream", "example", example.dtype)
    axis = arguments.integer("stream", "axis", axis)
    is_any = example is None
    if example is None:
        example = _example_for(model)
    axis = axis + example.ndim if axis < 0 else axis
    if not 0 <= axis < example.ndim or not example.shape[axis]:
        arguments.refuse("stream", "axis must be one of the example's, with samples", str(axis))
    builder = _Builder(model, example, axis, check)
    first = builder(example)
    return StreamedModel(builder.again if is_any else builder.same, first, axis, example)


def _example_for(model: Any) -> mx.array:
    for _, module in modules(model) if isinstance(model, nn.Module) else ():
        if isinstance(module, _FIRST_LAYERS):
            groups = getattr(module, "groups", 1)
            weight = module.weight
            return mx.zeros((1, 64, weight.shape[-1] * groups), mx.float32)
    must = "example must be given where the channels cannot be told from the first layer"
    arguments.refuse("stream", must, "none")


class _Builder:
    """Builds the program of a model for inputs of one shape and type."""

    def __init__(self, model: Any, example: mx.array, axis: int, check: bool) -> None:
        self._model, self._axis, self._check = model, axis, check
        self._roots = roots_of(model)
        self._kept = Kept(self._roots)
        of_modules = [each for each in self._roots if isinstance(each, nn.Module)]
        self._parameters = [Parameters(root) for root in of_modules]
        self._like = (beside(example, axis), example.dtype)
        self._first: Built | None = None

    def __call__(self, example: mx.array) -> Built:
        arrays = [each for root in self._roots for each in _arrays_of(root)]
        evaluate(arrays)
        with ALONE, self._kept.put_back():
            self._first = self._built(example)
        return self._first

    def same(self, x: mx.array) -> Built:
        """For an input like the example."""
        self._check_weights()
        assert self._first is not None
        if (beside(x, self._axis), x.dtype) != self._like:
            shape, dtype = self._like
            sizes = [*map(str, shape[: self._axis]), "L", *map(str, shape[self._axis :])]
            must = f"x must be {dtype} of shape ({', '.join(sizes)}), as the example"
            arguments.refuse("stream", must, f"{x.dtype} {x.shape}")
        return self._first

    def again(self, x: mx.array) -> Built:
        """For an input of any batch and type."""
        if x.ndim != 3 or x.shape[2] != self._like[0][1]:
            must = f"x must be an array (N, L, C) with C = {self._like[0][1]}"
            arguments.refuse("stream", must, str(x.shape))
        found = (beside(x, self._axis), x.dtype)
        if found != self._like:
            check_float64("stream", "x", x.dtype)
            example = mx.zeros((x.shape[0], 64, x.shape[2]), x.dtype)
            self._check_weights()
            with ALONE, self._kept.put_back():
                self._first = self._built(example)
            self._like = found
        return self.same(x)

    def _check_weights(self) -> None:
        if any(each.is_another_trained() for each in self._parameters):
            must = "the stream must be made inside the function whose gradient is taken"
            arguments.refuse("stream", must, "one made before, which keeps the weights of then")

    def _of_now(self, x: mx.array) -> mx.array:
        """What the model gives, without what earlier calls left."""
        with untouched(self._roots):
            y: mx.array = self._model(x)
        return y

    def _built(self, example: mx.array) -> Built:
        with untouched(self._roots):
            trained = Trained(self._roots)
            model = trained.as_inputs(_only(self._model))
            given = (example, self._axis, self._roots, trained.arrays)
            lengths, traces, found = _traced(model, *given, self._check)
            try:
                lowering = Lowering(traces, self._axis, found, trained.arrays)
                out = lowering.run(lower)
            except RefusedError as error:
                shaped = _of_length(example, self._axis, lengths[0])
                where = path_of(self._model, shaped, error.index, self._roots)
                must = "the model must be computable chunk by chunk"
                arguments.refuse("stream", must, f"{where}: {error}")
            lowering.program.evaluate()
            if not is_on_cpu(None):  # there MLX would need a compiler, and little is gained
                lowering.program.fuse(out.slot)
            (number,) = traces[0].outputs
            shape, dtype = traces[0].shapes[number], traces[0].dtypes[number]
            items = lowering.items if lowering.program.keeps_items_apart else None
            laid = Laid(out, shape, dtype, items, lowering.apart)
            built = Built(lowering.program, self._axis, laid)
            if self._check:
                prove(self._of_now, built, example, _LENGTHS, lengths)
        return built


def _arrays_of(root: Any) -> list[mx.array]:
    return [
        value
        for _, module in modules(root)
        for value in module.values()
        if isinstance(value, mx.array)
    ]


def _of_length(example: mx.array, axis: int, n: int) -> mx.array:
    shape = [*example.shape]
    shape[axis] = n
    return mx.zeros(shape, example.dtype)


def _traced(
    model: Callable[..., Any],
    example: mx.array,
    axis: int,
    roots: list[Any],
    weights: Sequence[mx.array],
    check: bool,
) -> tuple[tuple[int, ...], list[Trace], Marked]:
    """Traces at three lengths that the model takes, alike in their operations."""
    size = example.shape[axis]
    told = ""
    for lengths in (_LENGTHS, *[tuple([m * size for m in each]) for each in _MULTIPLES]):
        traces = []
        try:
            with marked(roots) as found:
                for n in lengths:
                    found.begin()
                    with untouched(roots):  # by the traces before, too
                        x = _of_length(example, axis, n)
                        traces.append(trace(model, x, *weights))
        except _NotOneArrayError as error:
            arguments.refuse("stream", "the model must give one array", str(error))
        except Exception as error:
            told = told or f"{raised_in(error, roots)}: {_why(error)}"
            continue
        if len({(each.names, each.wires) for each in traces}) == 1:
            return lengths, traces, found
        told = f"its code takes another way at another length{_difference(traces)}"
        if not check:  # nobody would see it
            break
    must = "the model must be one that MLX can trace at several lengths"
    arguments.refuse("stream", must, told)


def _why(error: Exception) -> str:
    if "[eval] Attempting to eval" in str(error):  # by `.item()`, `if`, NumPy and so on
        return "its code looks at the numbers of the signal"
    return f"{type(error).__name__}: {error}"


def _difference(traces: Sequence[Trace]) -> str:
    for names in zip(*[each.names for each in traces]):
        if len(set(names)) > 1:
            return f": {', '.join(sorted(set(names)))} at one place"
    counts = [len(each.names) for each in traces]
    return f": {', '.join(map(str, counts))} operations" if len(set(counts)) > 1 else ""


class _NotOneArrayError(Exception):
    """What the model gives instead."""


def _only(model: Callable[..., Any]) -> Callable[[mx.array], mx.array]:
    def call(x: mx.array) -> mx.array:
        y = model(x)
        if not isinstance(y, mx.array):
            raise _NotOneArrayError(type(y).__name__)
        return y

    return call
