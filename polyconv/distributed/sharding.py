"""Which rank computes which outputs of a sequence in pieces, and which samples must it be sent?

The integers of sequence parallelism, for one axis. Standard library only.

Output t of a convolution reads the dilated input from `stride t - padding_lo` on, over `window`
samples. The rank that holds the sample nearest to their middle computes it, so that few samples
must be sent. With s = input_dilation, twice the middle is

    2 (stride t - padding_lo) + window - 1

Twice the point halfway between samples b - 1 and b is `s (2 b - 1)`. The nearest sample is b or a
later one if the middle is not before that point. So behind a bound b of the input the outputs begin
at

    ceil((s (2 b - 1) - (window - 1) + 2 padding_lo) / (2 stride))

For a layer that keeps the length this is b. For a transposed layer of a vocoder, with an even
kernel and the padding `(kernel_size - stride) / 2`, it is b times that layer's stride.

With a stride of 1, the outputs behind the bound read samples from
`b - floor((window - 1 + s) / (2 s))` on, and the outputs before it read samples up to
`b + ceil((window - 1 - s) / (2 s))`. That is about half a window on each side, for any padding.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from itertools import accumulate, pairwise
from typing import NamedTuple

from polyconv.problem import arguments
from polyconv.problem.arguments import refuse, shown
from polyconv.problem.phases import n_phases, phase_dilation, phase_stride, split
from polyconv.problem.spec import Axis

Span = tuple[int, int]

# No machine has as many ranks, and a list of more would take minutes.
_MOST_RANKS = 2**20


@dataclass(frozen=True)
class Sharding:
    """A sequence in one piece per rank: rank r has samples `bounds[r]` up to `bounds[r + 1]`.

    Pieces may differ in length, and be empty.

    Args:
        bounds (tuple(int)): Where pieces begin, from 0 on, and where the last one ends.

    Raises:
        ValueError: If `bounds` are no ints that rise from 0.

    >>> Sharding.even(14, 3)
    Sharding(bounds=(0, 5, 10, 14))
    """

    bounds: tuple[int, ...]

    def __post_init__(self) -> None:
        bounds = self.bounds
        ints = isinstance(bounds, tuple) and all(type(b) is int for b in bounds)
        if not ints or len(bounds) < 2 or bounds[0] or any(a > b for a, b in pairwise(bounds)):
            refuse("Sharding", "bounds must be a tuple of ints that rise from 0", shown(bounds))

    @classmethod
    def of_sizes(cls, sizes: Iterable[int]) -> Sharding:
        """Pieces of these numbers of samples, one for each rank.

        Args:
            sizes (iterable(int)): The number of samples of each rank.

        Returns:
            Sharding: Of as many pieces.

        Raises:
            ValueError: If a size is no int of at least 0.
        """
        op = "Sharding.of_sizes"
        try:
            listed = [*sizes]
        except Exception:  # a caller's `__iter__` may raise anything
            refuse(op, "sizes must be ints, one for each rank", shown(sizes))
        return cls((0, *accumulate(arguments.sizes(op, "sizes", listed))))

    @classmethod
    def even(cls, size: int, n_ranks: int) -> Sharding:
        """Pieces whose lengths differ by one sample at most, the longer ones first.

        Args:
            size (int): The number of samples of all pieces.
            n_ranks (int): The number of pieces.

        Returns:
            Sharding: Of so many pieces.

        Raises:
            ValueError: If `size` is below 0 or `n_ranks` below 1.
        """
        op = "Sharding.even"
        size = arguments.integer(op, "size", size)
        if size < 0:
            refuse(op, "size must be at least 0", shown(size))
        n_ranks = arguments.count(op, "n_ranks", n_ranks)
        if n_ranks > _MOST_RANKS:
            refuse(op, f"n_ranks must be at most {_MOST_RANKS}", shown(n_ranks))
        each, more = divmod(size, n_ranks)
        return cls.of_sizes([each + (rank < more) for rank in range(n_ranks)])

    @property
    def size(self) -> int:
        return self.bounds[-1]

    @property
    def n_ranks(self) -> int:
        return len(self.bounds) - 1

    @property
    def spans(self) -> tuple[Span, ...]:
        return tuple(pairwise(self.bounds))

    @property
    def sizes(self) -> tuple[int, ...]:
        return tuple([stop - start for start, stop in self.spans])


class Transfer(NamedTuple):
    """Samples `span` of the sequence, which go from rank `source` to rank `target`."""

    source: int
    target: int
    span: Span

    @property
    def size(self) -> int:
        return self.span[1] - self.span[0]


class Message(NamedTuple):
    """What a rank sends to its neighbour in one array: the samples of transfers, concatenated."""

    sender: int
    receiver: int
    transfers: tuple[Transfer, ...]

    @property
    def size(self) -> int:
        return sum([each.size for each in self.transfers])


@dataclass(frozen=True)
class Exchange:
    """How ranks that hold the pieces of a sharding get `spans` of samples, one for each rank.

    MLX's ring sends to neighbours alone, so samples from further away are passed on from rank to
    rank. The link that closes the ring is not used.
    """

    sharding: Sharding
    spans: tuple[Span, ...]

    @cached_property
    def transfers(self) -> tuple[Transfer, ...]:
        """What each rank lacks, and which rank has it, in the order of the sequence."""
        return tuple(
            [
                Transfer(source, target, part)
                for target, span in enumerate(self.spans)
                for source, held in enumerate(self.sharding.spans)
                if source != target and (part := common(held, span)) is not None
            ]
        )

    @cached_property
    def transfers_back(self) -> tuple[Transfer, ...]:
        """The way back, on which gradients go to where the samples are held."""
        return tuple([Transfer(b, a, span) for a, b, span in self.transfers])

    @cached_property
    def messages(self) -> tuple[Message, ...]:
        """The messages, in an order to which all ranks keep."""
        return _messages(self.transfers)

    @cached_property
    def messages_back(self) -> tuple[Message, ...]:
        """The messages of the way back."""
        return _messages(self.transfers_back)

    def sent_by(self, rank: int) -> int:
        """How many samples a rank sends, with those that it passes on."""
        return sum([each.size for each in self.messages if each.sender == rank])

    def halo_of(self, rank: int) -> int:
        """How many samples a rank receives for itself."""
        return sum([each.size for each in self.transfers if each.target == rank])


def _messages(transfers: Sequence[Transfer]) -> tuple[Message, ...]:
    """The messages of transfers, hop by hop, and in each hop every second link first.

    Links that are used at the same time so have no rank in common, and need not wait for each
    other. No order deadlocks if all ranks keep to it: the first message that is still to be sent
    has a sender and a receiver with nothing else to do.
    """
    found: dict[tuple[int, int, int, int], list[Transfer]] = {}
    for each in transfers:
        step = 1 if each.target > each.source else -1
        for hop, sender in enumerate(range(each.source, each.target, step)):
            link = min(sender, sender + step)
            found.setdefault((hop, link % 2, link, step), []).append(each)
    return tuple(
        [
            Message(link if step > 0 else link + 1, link + (step > 0), tuple(found[key]))
            for key in sorted(found)
            for _, _, link, step in [key]
        ]
    )


def given_by(rank: int, transfers: Sequence[Transfer]) -> list[Transfer]:
    """What a rank gives to others, in the order in which it is gathered."""
    return [each for each in transfers if each.source == rank]


def most_given(transfers: Sequence[Transfer], n_ranks: int) -> int:
    """How many samples the rank gives that gives most."""
    return max([sum([t.size for t in given_by(rank, transfers)]) for rank in range(n_ranks)])


def common(a: Span, b: Span) -> Span | None:
    """The samples that are in both spans, None if there are none."""
    start, stop = max(a[0], b[0]), min(a[1], b[1])
    return (start, stop) if start < stop else None


class Part(NamedTuple):
    """What one rank computes: `axis` is the convolution of samples `inputs` that gives `outputs`.

    Without outputs `axis` gives one output, which must be dropped.
    """

    axis: Axis
    inputs: Span
    outputs: Span


@dataclass(frozen=True)
class ShardedAxis:
    """A convolution along an axis whose input and output are cut into pieces."""

    axis: Axis
    inputs: Sharding
    outputs: Sharding

    @cached_property
    def exchange(self) -> Exchange:
        """What must be sent so that each rank has its inputs."""
        return Exchange(self.inputs, tuple([part.inputs for part in self.parts]))

    @cached_property
    def parts(self) -> tuple[Part, ...]:
        return tuple([self._part(*spans) for spans in zip(self.inputs.spans, self.outputs.spans)])

    def _part(self, held: Span, outputs: Span) -> Part:
        """A part, as `part_of` of `axis_parts` makes it: padding is counted from its own inputs."""
        whole, (start, stop) = self.axis, outputs
        a, b = read_by(whole, outputs) or (held[0], held[0])
        lo = whole.padding_lo - whole.stride * start + whole.input_dilation * a if a < b else 0
        axis = replace(whole, size=b - a, padding_lo=lo)
        last = whole.stride * (max(stop - start, 1) - 1)
        hi = last + whole.window - axis.dilated_size - lo
        return Part(replace(axis, padding_hi=hi), (a, b), outputs)


@lru_cache(256)
def sharded_axis(axis: Axis, inputs: Sharding, outputs: Sharding | None = None) -> ShardedAxis:
    """A convolution of these pieces, whose outputs are cut as given, or as `outputs_of` says."""
    return ShardedAxis(axis, inputs, outputs or outputs_of(axis, inputs))


def outputs_of(axis: Axis, inputs: Sharding) -> Sharding:
    """How outputs are cut so that few samples must be sent; see above.

    Ranks that lie before all input or behind all input get no outputs.
    """
    behind = 2 * axis.padding_lo - (axis.window - 1)
    bounds = []
    for b in inputs.bounds[1:-1]:
        t = -(-(axis.input_dilation * (2 * b - 1) + behind) // (2 * axis.stride))
        inside = min(max(t, 0), axis.output_size)
        bounds.append(0 if b == 0 else axis.output_size if b == inputs.size else inside)
    return Sharding((0, *bounds, axis.output_size))


def read_by(axis: Axis, outputs: Span) -> Span | None:
    """The samples from the first to the last that these outputs read, None if they read none.

    Tap j of phase r reads sample `stride' m + at` for output `P m + r`, with `at = d' j - lo_r`
    (`phases.split`). Let m run from the first frame on. If that frame reads before the input
    (`stride' m + at < 0`), the tap's first sample is `at` modulo stride'. If not, its first sample
    rises with `at`. So the least of all is found among the first stride' taps that read any sample,
    and likewise the greatest among the last stride' taps.
    """
    start, stop = outputs
    period, stride, dilation = n_phases(axis), phase_stride(axis), phase_dilation(axis)
    first, behind = axis.size, 0
    for r, taps, lo in split(axis):
        frames = -((r - start) // period), (stop - 1 - r) // period
        ats = range(-lo, -lo + dilation * len(taps), dilation)
        begin = max(0, -((stride * frames[1] - lo) // dilation))
        end = max(0, (axis.size - 1 - stride * frames[0] + lo) // dilation + 1)
        meeting = ats[begin:end]
        for at in {*meeting[:stride], *meeting[-stride:]}:
            low = max(frames[0], -(at // stride))
            high = min(frames[1], (axis.size - 1 - at) // stride)
            if low <= high:
                first = min(first, stride * low + at)
                behind = max(behind, stride * high + at + 1)
    return (first, behind) if first < behind else None
