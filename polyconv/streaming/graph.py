"""A model that runs chunk by chunk."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from math import ceil
from typing import Any, NoReturn

import mlx.core as mx

from polyconv.execution.arrays import zeros_for
from polyconv.execution.identity import handle_of
from polyconv.problem import arguments
from polyconv.streaming.lowering import Signal
from polyconv.streaming.nodes import EndError
from polyconv.streaming.program import Program

# Chunks in which the output fell no further behind, until its latency is taken for known.
_TRIED, _MOST_TRIED = 64, 1024


class Built:
    """The program of a model for chunks of one shape, and where it takes and gives time."""

    def __init__(
        self,
        program: Program,
        at: int,
        out: Signal,
        shape: tuple[int, ...],
        dtype: mx.Dtype,
        rate: Fraction,
    ) -> None:
        self.program, self.at, self.out = program, at, out
        self.rate = rate  # samples of the output for one of the input
        # Of what is given, with any number of samples.
        self.out_shape, self.out_dtype = shape, dtype

    def run(self, x: mx.array | None, ended: bool, like: mx.array) -> mx.array:
        """The samples that are known with a chunk, maybe none."""
        found = self.program.run(x, ended, self.out.slot)
        if found is not None:
            return handle_of(found)  # it may be `x`
        shape = [*self.out_shape]
        shape[self.out.at] = 0
        return zeros_for(like, tuple(shape), self.out_dtype)

    def copied(self) -> Built:
        program = self.program.copied()
        return Built(program, self.at, self.out, self.out_shape, self.out_dtype, self.rate)

    def latency(self, like: mx.array) -> tuple[int, int]:
        """How far the output is behind at most, found by a run that nobody evaluates."""
        trial = self.copied()
        trial.program.reset()
        shape = [*like.shape]
        shape[self.at] = self.rate.denominator
        chunk = mx.zeros(shape, like.dtype)
        given = came = 0
        behind: list[int] = []
        while len(behind) < _TRIED or behind[-1] != behind[-_TRIED]:
            came += self.rate.denominator
            given += trial.run(chunk, False, chunk).shape[self.out.at]
            late = int(self.rate * came) - given
            behind.append(max(late, behind[-1] if behind else late))
            if len(behind) >= _MOST_TRIED:
                break
        return behind[-1], max(0, ceil(behind[-1] / self.rate))


class StreamedModel:
    """A model that runs chunk by chunk, made by :func:`polyconv.stream`.

    What `step` gives for all chunks, and then `flush`, is, concatenated, the model's output for the
    whole input. An object runs one stream at a time; make another object for another stream.
    """

    def __init__(
        self, build: Callable[[mx.array], Built], built: Built, axis: int, like: mx.array
    ) -> None:
        self._build, self._built, self._axis, self._like = build, built, axis, like
        self._template: mx.array | None = None
        self._latency: tuple[int, int] | None = None

    def __deepcopy__(self, memo: dict[int, Any]) -> StreamedModel:
        """A second stream, at the same point of the input."""
        made = StreamedModel(self._build, self._built.copied(), self._axis, self._like)
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
        y = self._run(self._built, x if x.shape[self._axis] else None, False, x)
        nothing = (*[slice(None)] * self._axis, slice(0, 0))
        self._like = self._template = x[nothing]
        return y

    def flush(self) -> mx.array:
        """Gives what is left when the input has ended; the stream then begins anew.

        Raises:
            ValueError: If there was no `step` to tell the batch and the channels, or the input must
                not end here.
        """
        if self._template is None:
            arguments.refuse("stream", "flush must come after a step", "none")
        y = self._run(self._built, None, True, self._template)
        self.reset_state()
        return y

    @property
    def latency(self) -> tuple[int, int]:
        """By how many samples of the output, and of the input, the output is behind at most."""
        if self._latency is None:
            self._latency = self._built.latency(self._like)
        return self._latency

    @property
    def state(self) -> list[mx.array]:
        """The samples that the stream holds. After `mx.eval` of them another thread may go on."""
        held = [] if self._template is None else [self._template]
        held += self._built.program.held
        return [handle_of(each) for each in held]

    def reset_state(self) -> None:
        """Begins anew."""
        self._template = None
        self._built.program.reset()

    def _begin(self, x: Any) -> None:
        known = self._template
        if not isinstance(x, mx.array) or x.ndim <= self._axis:
            got = str(x.shape) if isinstance(x, mx.array) else type(x).__name__
            must = f"x must be an array with time in axis {self._axis}"
            arguments.refuse("stream", must, got)
        if known is None:
            self._built = self._build(x)
        elif beside(x, self._axis) != beside(known, self._axis):
            shape = list(known.shape)
            shape[self._axis] = "L"
            must = f"x must be of shape ({', '.join(map(str, shape))})"
            arguments.refuse("stream", must, str(x.shape))

    def _run(self, built: Built, x: mx.array | None, ended: bool, like: mx.array) -> mx.array:
        try:
            return built.run(x, ended, like)
        except EndError as error:
            arguments.refuse("stream", "the input must not end here", str(error))


def beside(x: mx.array, axis: int) -> tuple[int, ...]:
    """The shape without time."""
    return (*x.shape[:axis], *x.shape[axis + 1 :])
