"""A convolution along time, from chunk to chunk."""

from __future__ import annotations

from collections.abc import Sequence

import mlx.core as mx

from polyconv.execution.arrays import cut, pad
from polyconv.execution.packing import PackedWeight
from polyconv.ops.conv_transpose import conv_general
from polyconv.problem.spec import Axis
from polyconv.streaming.nodes import Chunk, Line, Node
from polyconv.streaming.timeline import Piece, Timeline


class Convolution(Node):
    """A convolution along one of the spatial axes, `(N, *S, C)`, whose weight is packed once."""

    kept = ("_tail",)
    counted = ("_position",)

    def __init__(
        self, axes: tuple[Axis, ...], time: int, weight: mx.array, groups: int, flip: bool
    ) -> None:
        along = axes[time]
        self._line, self._time = Line(1 + time), time
        self._timeline = Timeline(
            *(along.kernel_size, along.stride, along.input_dilation, along.kernel_dilation),
            *(along.padding_lo, along.padding_hi),
        )
        self._packed = PackedWeight(weight)
        self._stride = [axis.stride for axis in axes]
        self._padding = ([a.padding_lo for a in axes], [a.padding_hi for a in axes])
        self._kernel_dilation = [axis.kernel_dilation for axis in axes]
        self._input_dilation = [axis.input_dilation for axis in axes]
        self._groups, self._flip = groups, flip
        self.reset()

    def reset(self) -> None:
        self._tail: Chunk = None
        self._position = self._timeline.start

    def run(self, chunks: Sequence[Chunk], ended: bool) -> Chunk:
        (x,) = chunks
        if x is None and not ended:
            return None
        n, line = self._line.count(x), self._line
        samples = x if self._tail is None else line.join([self._tail, x])
        samples = self._tail if samples is None else samples
        if samples is None:
            return None  # it ended before it began
        y = None
        if n:
            if self._tail is None:
                samples = pad(samples, line.at, self._timeline.history, 0)
            piece = self._timeline.step(self._position, n)
            y = self._convolved(samples, piece)
            self._position = piece.position
            kept = self._timeline.history
            whole = line.count(samples)
            samples = self._tail = cut(samples, line.at, whole - kept, whole, 1)
        if ended:
            piece = self._timeline.flush(self._position)
            y = line.join([y, self._convolved(samples, piece)])
        return y

    def _convolved(self, samples: Chunk, piece: Piece) -> Chunk:
        if not piece.n_outputs:
            return None
        line, time = self._line, self._time
        assert samples is not None
        read = cut(samples, line.at, piece.first, piece.first + piece.n_samples, 1)
        read = pad(read, line.at, 0, piece.n_samples - line.count(read))
        lo, hi = list(self._padding[0]), list(self._padding[1])
        lo[time], hi[time] = piece.padding_lo, piece.padding_hi
        y = conv_general(
            *(read, self._packed, self._stride, (lo, hi), self._kernel_dilation),
            *(self._input_dilation, self._groups, self._flip),
        )
        return line.cut(y, piece.skip, piece.skip + piece.n_outputs)
