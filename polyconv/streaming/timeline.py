"""Which outputs of a convolution are known after the first n samples of its input?

The integers of streaming, for one axis. Standard library only.

In the terms of `phases.split`, output t reads the dilated input from `stride t - padding_lo` on,
over `reach + 1` samples, with reach = kernel_dilation (kernel_size - 1). The next input sample will
lie at `input_dilation n`. Counted from there, output t begins at

    q(t) = stride t - padding_lo - input_dilation n        after n samples

The output is known if it reads no sample that is still to come: q + reach < 0. It exists, should
the input end here, if it ends within the padded input: q + reach <= padding_hi - input_dilation. An
output that was given cannot be taken back, so both must hold. Neither depends on n by itself. So a
stream remembers only `q` of its next output, its `position`, and the samples from there on.
"""

from __future__ import annotations

from math import gcd
from typing import NamedTuple


class Piece(NamedTuple):
    """What to compute from the samples that are kept and those that came.

    Take `n_samples` of them from `first` on, with zeros behind if there are fewer. Convolve these
    with this padding. Give `n_outputs` of the result, from `skip` on. `position` is the stream's
    position afterwards.
    """

    n_outputs: int
    padding_lo: int
    padding_hi: int
    position: int
    first: int = 0
    n_samples: int = 0
    skip: int = 0


class Timeline(NamedTuple):
    """A convolution along time, of any length. A new stream has the position `start`."""

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
        """The largest position of an output that is known and exists."""
        return min(-1, self.padding_hi - self.input_dilation) - self.reach

    @property
    def _cycle(self) -> tuple[int, int]:
        """The smallest numbers of outputs and of samples that span the same time."""
        common = gcd(self.input_dilation, self.stride)
        return self.input_dilation // common, self.stride // common

    @property
    def history(self) -> int:
        """How many samples must be kept."""
        first = min(self.start, self._known + 1)
        if min(self._cycle) == 1:
            return max(0, -first // self.input_dilation)
        # Cycles are computed whole: the first may begin `cycle - 1` outputs back, and at a sample.
        return max(0, -((first - self.stride * (self._cycle[0] - 1)) // self.input_dilation))

    @property
    def latency(self) -> tuple[int, int]:
        """By how many samples of the output, and of the input, the output is behind at most.

        After n samples there are `floor((known + padding_lo + input_dilation n) / stride) + 1`
        outputs. As many as the input is long would be `floor(input_dilation n / stride)`.
        """
        outputs = -((self._known + self.padding_lo) // self.stride) - 1
        return outputs, max(0, -(-outputs * self.stride // self.input_dilation))

    @property
    def apart(self) -> int:
        """Rows may be reset after multiples of so many samples."""
        return self._cycle[1]

    def begins_at(self, position: int) -> bool:
        """Whether outputs of a stream reset at this position are in step with those of others.

        They are if the next `latency[0]` outputs are all that belong to the time before the reset.
        """
        return position == self.start - self.stride * self.latency[0] and self.latency[0] >= 0

    def step(self, position: int, n: int) -> Piece:
        """What to compute when n more samples come."""
        if n == 0:
            return Piece(0, 0, 0, position)
        moved = position - self.input_dilation * n
        return self._piece(moved, max(0, (self._known - moved) // self.stride + 1), n)

    def flush(self, position: int) -> Piece:
        """What to compute when no more samples come: the outputs that read the padding behind."""
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
        """Computes whole cycles of outputs, where there is a stride and an input dilation.

        From 44.1 to 48 kHz a cycle is 160 outputs long, and chunks end anywhere in it. Without
        whole cycles nearly every chunk would be another convolution, and be planned anew.
        """
        cycle, step = self._cycle
        common = self.stride // step
        # Output t is `(position - start) / stride` modulo the cycle.
        skip = (position - self.start) // common * pow(step, -1, cycle) % cycle
        total = -(-(skip + n_outputs) // cycle) * cycle
        begin = position - skip * self.stride
        lead = self.start % self.input_dilation  # from a sample to where a cycle begins to read
        sample = (begin - lead) // self.input_dilation
        last = lead + (total - 1) * self.stride + self.reach
        n_samples = max(1, last // self.input_dilation + 1)
        first = self.history + n + sample
        after = position + n_outputs * self.stride
        hi = self._behind(total, n_samples, -lead)
        return Piece(n_outputs, -lead, hi, after, first, n_samples, skip)

    def _behind(self, n_outputs: int, n_samples: int, lo: int) -> int:
        """The padding behind that makes `n_outputs` of `n_samples`, with `lo` in front."""
        dilated = self.input_dilation * (n_samples - 1) + 1
        return (n_outputs - 1) * self.stride + self.reach + 1 - dilated - lo
