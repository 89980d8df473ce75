"""How does a graph of convolutions and pointwise functions run chunk by chunk?

Each node takes the chunks of its inputs, of any length, and gives what is known with them. A node
of several inputs keeps what came early until the others have come, so delays need not be known.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any, NoReturn, TypeAlias

import mlx.core as mx

from polyconv.execution.arrays import zeros_for
from polyconv.execution.identity import Parameters
from polyconv.execution.packing import PackedWeight
from polyconv.problem import arguments
from polyconv.streaming.functional import check_chunk, stream_flush, stream_init, stream_step

Chunks: TypeAlias = "Sequence[mx.array]"


class Convolution:
    """A convolution along time, whose weight is packed once."""

    def __init__(self, op: str, weight: mx.array, options: dict[str, Any]) -> None:
        self._op, self._packed, self._options = op, PackedWeight(weight), options
        self.reset()

    def reset(self) -> None:
        self._state: Any = None

    @property
    def held(self) -> list[mx.array]:
        return [] if self._state is None else [self._state.tail]

    def step(self, chunks: Chunks) -> mx.array:
        (x,) = chunks
        if self._state is None:
            named = {"batch": x.shape[0], "dtype": x.dtype}
            self._state = stream_init(self._op, self._packed, **named, **self._options)
        y, self._state = stream_step(self._state, x, self._packed)
        return y

    def flush(self, chunks: Chunks) -> mx.array:
        y = self.step(chunks)
        rest, self._state = stream_flush(self._state, self._packed)
        return mx.concatenate([y, rest], 1)


class Pointwise:
    """A function of each sample by itself, of one or several inputs."""

    def __init__(self, function: Callable[..., mx.array], n_inputs: int) -> None:
        self._function, self._n_inputs = function, n_inputs
        self.reset()

    def reset(self) -> None:
        self._waiting: list[mx.array | None] = [None] * self._n_inputs

    @property
    def held(self) -> list[mx.array]:
        return [each for each in self._waiting if each is not None]

    def step(self, chunks: Chunks) -> mx.array:
        if self._n_inputs == 1:
            return self._of(chunks)
        held = [
            new if old is None or not old.shape[1] else mx.concatenate([old, new], 1)
            for old, new in zip(self._waiting, chunks, strict=True)
        ]
        n = min(each.shape[1] for each in held)
        self._waiting = [each[:, n:] for each in held]
        return self._of([each[:, :n] for each in held])

    def _of(self, chunks: Chunks) -> mx.array:
        """The function of the chunks. It is not run on empty ones, which some ops refuse on CUDA.

        Shape and type of an empty result are those for one sample, which is never evaluated.
        """
        if all(each.size for each in chunks):
            return self._function(*chunks)
        like = [mx.zeros((each.shape[0], 1, each.shape[2]), each.dtype) for each in chunks]
        y = self._function(*like)
        return zeros_for(chunks[0], (y.shape[0], chunks[0].shape[1], y.shape[2]), y.dtype)

    def flush(self, chunks: Chunks) -> mx.array:
        y = self.step(chunks)
        left = [0 if each is None else each.shape[1] for each in self._waiting]
        if any(left):
            must = "what is added must be equally long"
            arguments.refuse("stream", must, f"{max(left)} samples left over")
        return y


class Ends:
    """Pads `lo` zeros in front and `hi` behind. Negative numbers crop samples instead."""

    def __init__(self, lo: int, hi: int) -> None:
        self._lo, self._hi = lo, hi
        self.reset()

    def reset(self) -> None:
        self._to_drop, self._begun = max(0, -self._lo), False
        self._held: mx.array | None = None

    @property
    def held(self) -> list[mx.array]:
        return [] if self._held is None else [self._held]

    def step(self, chunks: Chunks) -> mx.array:
        (x,) = chunks
        if not self._begun:
            self._begun = True
            x = mx.pad(x, [(0, 0), (max(0, self._lo), 0), (0, 0)])
        dropped = min(self._to_drop, x.shape[1])
        self._to_drop -= dropped
        x = x[:, dropped:]
        if self._hi >= 0:
            return x
        if self._held is not None:
            x = mx.concatenate([self._held, x], 1)
        n = max(0, x.shape[1] + self._hi)
        self._held = x[:, n:]
        return x[:, :n]

    def flush(self, chunks: Chunks) -> mx.array:
        return mx.pad(self.step(chunks), [(0, 0), (0, max(0, self._hi)), (0, 0)])


Node: TypeAlias = "Convolution | Pointwise | Ends"


class StreamedModel:
    """A model that runs chunk by chunk, made by :func:`polyconv.stream`.

    What `step` gives for all chunks, and then `flush`, is, concatenated, the model's output for the
    whole input. An object runs one stream at a time; make another object for another stream.
    """

    def __init__(
        self, nodes: Sequence[tuple[Node, tuple[int, ...]]], parameters: Parameters | None = None
    ) -> None:
        self._nodes, self._parameters = list(nodes), parameters
        self._template: mx.array | None = None

    def __deepcopy__(self, memo: dict[int, Any]) -> StreamedModel:
        """A second stream, at the same point of the input."""
        made = StreamedModel(copy.deepcopy(self._nodes, memo), self._parameters)
        made._template = self._template
        return made

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        must = "cannot be pickled, as it holds the model's functions"
        raise TypeError(f"[StreamedModel] {must}; pickle the model, and stream that")

    def step(self, x: mx.array) -> mx.array:
        """Takes a chunk ``(N, L, C)`` of any length, and gives the samples known with it."""
        known = self._template
        check_chunk("stream", x, *(() if known is None else (known.shape[0], known.shape[2])))
        y = self._run("step", x)
        self._template = x[:, :0]
        return y

    def flush(self) -> mx.array:
        """Gives what is left when the input has ended; the stream then begins anew.

        Raises:
            ValueError: If there was no `step` to tell the batch and the channels.
        """
        if self._template is None:
            arguments.refuse("stream", "flush must come after a step", "none")
        y = self._run("flush", self._template)
        self.reset_state()
        return y

    @property
    def state(self) -> list[mx.array]:
        """The samples that the stream holds. After `mx.eval` of them another thread may go on."""
        held = [] if self._template is None else [self._template]
        held += [each for node, _ in self._nodes for each in node.held]
        return [mx.array(each) for each in held]

    def reset_state(self) -> None:
        """Begins anew."""
        self._template = None
        for node, _ in self._nodes:
            node.reset()

    def _run(self, how: str, x: mx.array) -> mx.array:
        if self._parameters is not None and self._parameters.is_another_trained():
            must = "the stream must be made inside the function whose gradient is taken"
            arguments.refuse("stream", must, "one made before, which keeps the weights of then")
        values = [x]
        for node, inputs in self._nodes:
            values.append(getattr(node, how)([values[i] for i in inputs]))
        return mx.array(values[-1])  # a new array object: the last may be `x`
