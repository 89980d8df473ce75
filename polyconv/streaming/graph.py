"""A model that runs chunk by chunk."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn

import mlx.core as mx

from polyconv.execution.identity import handle_of
from polyconv.problem import arguments
from polyconv.streaming.built import Built, Steady, beside
from polyconv.streaming.functional import is_none
from polyconv.streaming.nodes import EndError
from polyconv.streaming.restarts import Restart, check_moment, check_reset


class StreamedModel:
    """A model that runs chunk by chunk, made by :func:`polyconv.stream`.

    What `step` gives for all chunks, and then `flush`, is, concatenated, the model's output for the
    whole input. An object runs one stream at a time; make another object for another stream.
    """

    def __init__(
        self, build: Callable[[mx.array], Built], built: Built, axis: int, like: mx.array
    ) -> None:
        self._build, self._built, self._axis, self._like = build, built.fresh(), axis, like
        self._template: mx.array | None = None
        self._latency: tuple[int, int] | None = None
        self._steady: tuple[Built, Steady | None] | None = None
        self._restarts: list[Restart] = []
        self._came = self._given = 0

    def __deepcopy__(self, memo: dict[int, Any]) -> StreamedModel:
        """A second stream, at the same point of the input."""
        made = StreamedModel(self._build, self._built, self._axis, self._like)
        made._built = self._built.copied()
        made._template = self._template
        made._restarts = self._restarts  # they are run as copies
        made._came, made._given = self._came, self._given
        return made

    def __repr__(self) -> str:
        return f"StreamedModel(axis={self._axis}, behind={self.behind})"

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        must = "cannot be pickled, as it holds the model's functions"
        raise TypeError(f"[StreamedModel] {must}; pickle the model, and stream that")

    def step(self, x: mx.array, *, reset: mx.array | None = None) -> mx.array:
        """Takes a chunk of any length, and gives the samples known with it.

        Args:
            x (array): The chunk, of the shape of the example but for its length.
            reset (array, optional): Booleans, one for each item of the batch, axis 0: which of them
                begin anew with this chunk. Their first outputs, as many as `behind` told before,
                belong to the time before the reset; the outputs behind these are those of a new
                stream. It is not for the very first chunk, with which all items begin.

        Returns:
            array: Of the shape of the model's output, with as many samples as are known.

        Raises:
            ValueError: If the chunk has another batch or other channels than the stream. Also if an
                item cannot begin anew here, because its outputs would not be in step with those of
                the others. Where the model lowers the rate, the samples so far must be a multiple
                of that. Enough samples must have come, and come with this chunk. The output must
                not be ahead of the input, and the model must keep the items apart.
        """
        self._begin(x)
        restarts = self._restarts
        if reset is not None:
            check_reset("stream", reset, self._axis, x.shape[0])
            if not is_none(reset):
                restarts = self._begun_anew(handle_of(reset))
        y = self._run(x if x.shape[self._axis] else None, False, x, restarts)
        nothing = (*[slice(None)] * self._axis, slice(0, 0))
        self._like = self._template = x[nothing]
        self._came += x.shape[self._axis]
        self._given += y.shape[self._built.out.at]
        return y

    def flush(self) -> mx.array:
        """Gives what is left when the input has ended; the stream then begins anew.

        Returns:
            array: The last samples of the output, as many as it is behind.

        Raises:
            ValueError: If there was no `step` to tell the batch and the channels, or the input must
                not end here.
        """
        if self._template is None:
            arguments.refuse("stream", "flush must come after a step", "no step")
        y = self._run(None, True, self._template, self._restarts)
        self.reset_state()
        return y

    @property
    def latency(self) -> tuple[int, int]:
        """By how many samples of the output, and of the input, the output is behind at most."""
        if self._latency is None:
            self._latency = self._built.latency(self._like)
        return self._latency

    @property
    def behind(self) -> int:
        """By how many samples the output is behind now.

        So many samples an item that begins anew with the next chunk gives from before. It is
        `latency[0]`, or less where the model lowers the rate of the signal in between.
        """
        return int(self._built.rate * self._came) - self._given

    @property
    def state(self) -> list[mx.array]:
        """The samples that the stream holds. After `mx.eval` of them another thread may go on."""
        held = [] if self._template is None else [self._template]
        held += self._built.program.held
        held += [array for each in self._restarts for array in each.held]
        return [handle_of(each) for each in held]

    def reset_state(self) -> None:
        """Begins anew."""
        self._template = None
        self._restarts = []
        self._came = self._given = 0
        self._built.program.reset()

    def _begin(self, x: Any) -> None:
        known = self._template
        if not isinstance(x, mx.array) or x.ndim <= self._axis:
            got = str(x.shape) if isinstance(x, mx.array) else type(x).__name__
            must = f"x must be an array with time in axis {self._axis}"
            arguments.refuse("stream", must, got)
        if known is None:
            self._built = self._build(x).fresh()
        elif beside(x, self._axis) != beside(known, self._axis):
            shape = list(known.shape)
            shape[self._axis] = "L"
            must = f"x must be of shape ({', '.join(map(str, shape))})"
            arguments.refuse("stream", must, str(x.shape))

    def _begun_anew(self, which: mx.array) -> list[Restart]:
        built = self._built
        if self._steady is None or self._steady[0].laid is not built.laid:
            like = self._like if self._template is None else self._template
            self._steady = (built, built.steady(like) if built.laid.items else None)
        check_moment(built, self._steady[1], self._came)
        before = [each.without(which) for each in self._restarts]
        some = [each for each in before if each is not None]
        return [*some, Restart(built.fresh(), which, self.behind)]

    def _run(
        self, x: mx.array | None, ended: bool, like: mx.array, restarts: list[Restart]
    ) -> mx.array:
        """Runs copies while items begin, so that what is refused leaves all as it was."""
        built = self._built.copied() if restarts else self._built
        try:
            y = built.run(x, ended, like)
            going = [each.copied() for each in restarts]
            for each in going:
                y = each.given(y, x, ended, like)
        except EndError as error:
            arguments.refuse("stream", "the input must not end here", str(error))
        self._built = built
        self._restarts = [each for each in going if not each.joins(built)]
        return y
