"""Which outputs of a convolution are known once so much of its input has come?

The integers of streaming, for one axis. Standard library only.

In the terms of `phases.split`, output t reads the dilated input from `stride t - padding_lo` on,
over `reach + 1` samples, with reach = kernel_dilation (kernel_size - 1). Counted from where the
next input sample will lie, which moves on by `input_dilation` with each sample, it begins at

    q(t) = stride t - padding_lo - input_dilation n        after n samples

It is known when it reads nothing that has yet to come, q + reach < 0. And it exists, if the input
ends here, when it ends within the padded input: q + reach <= padding_hi - input_dilation. What has
been put out cannot be taken back, so both must hold. Neither depends on n by itself: all that a
stream remembers is `q` of its next output, and the samples from there on.
"""

from __future__ import annotations

from math import gcd
from typing import NamedTuple


class Piece(NamedTuple):
    """What to compute from the samples that are kept and those that came.

    Of these `n_samples` from `first` on, zeros behind if there are not as many; convolved with this
    padding, of the result `n_outputs` from `skip` on. `position` is the stream's afterwards.
    """

    n_outputs: int
    padding_lo: int
    padding_hi: int
    position: int
    first: int = 0
    n_samples: int = 0
    skip: int = 0


class Timeline(NamedTuple):
    """A convolution along time, whatever its length. See above; `start` is `position` at first."""

    kernel_size: int
    stride: int
    input_dilation: int
    kernel_dilation: int
    padding_lo: int
    padding_hi: int

    @property
    def start(self) -> int:
        return -self.padding_lo

    @property
    def reach(self) -> int:
        return self.kernel_dilation * (self.kernel_size - 1)

    @property
    def _known(self) -> int:
        """The largest position of an output that can be put out."""
        return min(-1, self.padding_hi - self.input_dilation) - self.reach

    @property
    def _cycle(self) -> tuple[int, int]:
        """After how many outputs, and samples, outputs meet samples in the same way again."""
        common = gcd(self.input_dilation, self.stride)
        return self.input_dilation // common, self.stride // common

    @property
    def history(self) -> int:
        """How many samples must be kept."""
        first = min(self.start, self._known + 1)
        if min(self._cycle) == 1:
            return max(0, -first // self.input_dilation)
        # From the begin of a cycle, and from a sample's place.
        return max(0, -((first - self.stride * (self._cycle[0] - 1)) // self.input_dilation))

    @property
    def latency(self) -> tuple[int, int]:
        """By how much the output is behind, at most: in samples of the output, and of the input.

        After n samples there are `floor((known + padding_lo + input_dilation n) / stride) + 1`
        outputs, where `floor(input_dilation n / stride)` would be level with the input.
        """
        outputs = -((self._known + self.padding_lo) // self.stride) - 1
        return outputs, max(0, -(-outputs * self.stride // self.input_dilation))

    @property
    def apart(self) -> int:
        """After how many samples outputs meet samples as at first: what resets wait for."""
        return self._cycle[1]

    def begins_at(self, position: int) -> bool:
        """Whether a stream that begins anew gives its outputs where one that stands here goes on.

        Its first `latency[0]` outputs are then from before, and none of its own is out already.
        """
        return position == self.start - self.stride * self.latency[0] and self.latency[0] >= 0

    def step(self, position: int, n: int) -> Piece:
        """When n more samples come."""
        if n == 0:
            return Piece(0, 0, 0, position)
        moved = position - self.input_dilation * n
        return self._piece(moved, max(0, (self._known - moved) // self.stride + 1), n)

    def flush(self, position: int) -> Piece:
        """When no more will come: outputs that read the padding behind."""
        last = self.padding_hi - self.input_dilation - self.reach
        return self._piece(position, max(0, (last - position) // self.stride + 1), 0)

    def _piece(self, position: int, n_outputs: int, n: int) -> Piece:
        if min(self._cycle) > 1 and n_outputs:
            return self._whole_cycles(position, n_outputs, n)
        kept = self.history + n
        lo = -(position + self.input_dilation * kept)
        hi = self._behind(n_outputs, kept, lo)
        return Piece(n_outputs, lo, hi, position + n_outputs * self.stride, 0, kept)

    def _whole_cycles(self, position: int, n_outputs: int, n: int) -> Piece:
        """With both strides, outputs from the begin of a cycle to the end of one.

        Else nearly each chunk would be another convolution, to be planned anew: a cycle is 160
        outputs long at 44.1 to 48 kHz, and chunks end anywhere in it.
        """
        cycle, step = self._cycle
        common = self.stride // step
        # Output t is `(position - start) / stride` modulo the cycle.
        skip = (position - self.start) // common * pow(step, -1, cycle) % cycle
        total = -(-(skip + n_outputs) // cycle) * cycle
        begin = position - skip * self.stride
        lead = self.start % self.input_dilation  # from a sample's place to the first that is read
        sample = (begin - lead) // self.input_dilation
        last = lead + (total - 1) * self.stride + self.reach
        n_samples = max(1, last // self.input_dilation + 1)
        first = self.history + n + sample
        after = position + n_outputs * self.stride
        hi = self._behind(total, n_samples, -lead)
        return Piece(n_outputs, -lead, hi, after, first, n_samples, skip)

    def _behind(self, n_outputs: int, n_samples: int, lo: int) -> int:
        """The padding behind so many samples that makes so many outputs."""
        dilated = self.input_dilation * (n_samples - 1) + 1
        return (n_outputs - 1) * self.stride + self.reach + 1 - dilated - lo
