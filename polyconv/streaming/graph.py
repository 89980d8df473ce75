"""A model that runs chunk by chunk."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn

import mlx.core as mx

from polyconv.execution.arrays import zeros_for
from polyconv.problem import arguments
from polyconv.streaming.lowering import Signal
from polyconv.streaming.nodes import EndError
from polyconv.streaming.program import Program


class Built:
    """The program of a model for chunks of one shape, and where it takes and gives time."""

    def __init__(
        self, program: Program, at: int, out: Signal, shape: tuple[int, ...], dtype: mx.Dtype
    ) -> None:
        self.program, self.at, self.out = program, at, out
        # Of what is given, with any number of samples.
        self.out_shape, self.out_dtype = shape, dtype

    def run(self, x: mx.array | None, ended: bool, like: mx.array) -> mx.array:
        """The samples that are known with a chunk, maybe none."""
        found = self.program.run(x, ended, self.out.slot)
        if found is not None:
            return mx.array(found)  # a new array object: it may be `x`
        shape = [*self.out_shape]
        shape[self.out.at] = 0
        return zeros_for(like, tuple(shape), self.out_dtype)

    def copied(self) -> Built:
        return Built(self.program.copied(), self.at, self.out, self.out_shape, self.out_dtype)


class StreamedModel:
    """A model that runs chunk by chunk, made by :func:`polyconv.stream`.

    What `step` gives for all chunks, and then `flush`, is, concatenated, the model's output for the
    whole input. An object runs one stream at a time; make another object for another stream.
    """

    def __init__(self, build: Callable[[mx.array], Built], built: Built | None, axis: int) -> None:
        self._build, self._built, self._axis = build, built, axis
        self._template: mx.array | None = None

    def __deepcopy__(self, memo: dict[int, Any]) -> StreamedModel:
        """A second stream, at the same point of the input."""
        built = None if self._built is None else self._built.copied()
        made = StreamedModel(self._build, built, self._axis)
        made._template = self._template
        return made

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        must = "cannot be pickled, as it holds the model's functions"
        raise TypeError(f"[StreamedModel] {must}; pickle the model, and stream that")

    def step(self, x: mx.array) -> mx.array:
        """Takes a chunk of any length, and gives the samples known with it.

        Args:
            x (array): The chunk, of the shape of the example but for its length.

        Returns:
            array: Of the shape of the model's output, with as many samples as are known.

        Raises:
            ValueError: If the chunk has another batch or other channels than the stream.
        """
        self._begin(x)
        built = self._built
        assert built is not None
        y = self._run(built, x if x.shape[self._axis] else None, False, x)
        nothing = (*[slice(None)] * self._axis, slice(0, 0))
        self._template = x[nothing]
        return y

    def flush(self) -> mx.array:
        """Gives what is left when the input has ended; the stream then begins anew.

        Raises:
            ValueError: If there was no `step` to tell the batch and the channels, or the input must
                not end here.
        """
        if self._template is None or self._built is None:
            arguments.refuse("stream", "flush must come after a step", "none")
        y = self._run(self._built, None, True, self._template)
        self.reset_state()
        return y

    @property
    def state(self) -> list[mx.array]:
        """The samples that the stream holds. After `mx.eval` of them another thread may go on."""
        held = [] if self._template is None else [self._template]
        held += [] if self._built is None else self._built.program.held
        return [mx.array(each) for each in held]

    def reset_state(self) -> None:
        """Begins anew."""
        self._template = None
        if self._built is not None:
            self._built.program.reset()

    def _begin(self, x: Any) -> None:
        known = self._template
        if not isinstance(x, mx.array) or x.ndim <= self._axis:
            got = str(x.shape) if isinstance(x, mx.array) else type(x).__name__
            must = f"x must be an array with time in axis {self._axis}"
            arguments.refuse("stream", must, got)
        if known is None:
            self._built = self._build(x)
        elif _beside(x, self._axis) != _beside(known, self._axis):
            shape = list(known.shape)
            shape[self._axis] = "L"
            must = f"x must be of shape ({', '.join(map(str, shape))})"
            arguments.refuse("stream", must, str(x.shape))

    def _run(self, built: Built, x: mx.array | None, ended: bool, like: mx.array) -> mx.array:
        try:
            return built.run(x, ended, like)
        except EndError as error:
            arguments.refuse("stream", "the input must not end here", str(error))


def _beside(x: mx.array, axis: int) -> tuple[int, ...]:
    """The shape without time."""
    return (*x.shape[:axis], *x.shape[axis + 1 :])
