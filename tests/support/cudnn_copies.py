"""Which arrays of a convolution MLX copies for cuDNN, as mlx/backend/cuda/conv.cpp says.

MLX keeps a plan by the alignment of what it is given, but makes it for what it has copied. The
first call of its kind also decides by which of cuDNN's operations all others are computed, if cuDNN
accepts the one that MLX tries first. So each call is judged behind each other one that is alike.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import product
from math import prod
from typing import Any, NamedTuple

import mlx.core as mx
import pytest

from polyconv.execution import unpatched

POOLED = 8  # bytes, `small_block_size` of mlx/backend/cuda/allocator.cpp
Layout = tuple[tuple[int, ...], tuple[int, ...]]


class Call(NamedTuple):
    """The key of a plan, but for alignments."""

    x: tuple[int, ...]
    w: tuple[int, ...]
    options: tuple[Any, ...]
    groups: int
    flip: bool
    dtype: mx.Dtype

    @property
    def n_bytes(self) -> dict[str, int]:
        return {"x": prod(self.x) * self.dtype.size, "w": prod(self.w) * self.dtype.size}


class Lies(NamedTuple):
    """Whether both lie row by row, as they are and with their first and last axes exchanged."""

    rows: tuple[bool, bool]
    exchanged: tuple[bool, bool]
    operation: str
    """What MLX tries first: "forward", or the gradient of the "input" or the "weight"."""


def layout(a: mx.array) -> Layout:
    """Sizes, and strides in items."""
    seen = memoryview(a.view(mx.uint16) if a.dtype == mx.bfloat16 else a)
    return a.shape, tuple([step // seen.itemsize for step in seen.strides or ()])


def is_row_contiguous(of: Layout) -> bool:
    step = 1
    for size, stride in zip(*map(reversed, of), strict=True):
        if size != 1 and stride != step:
            return False
        step *= size
    return True


def exchanged(of: Layout) -> Layout:
    """Of an array whose first and last axes are exchanged."""
    sizes, strides = [(each[-1], *each[1:-1], each[0]) for each in of]
    return sizes, strides


def lies(x: mx.array, w: mx.array, y: mx.array, groups: int, flip: bool) -> Lies:
    layouts = [layout(a) for a in (x, w)]
    rows = tuple([is_row_contiguous(of) for of in layouts])
    turned = tuple([is_row_contiguous(exchanged(of)) for of in layouts])
    if flip and groups > 1:  # of groups polyconv gives those of one channel alone
        assert groups == x.shape[-1] == w.shape[0]
        turned = rows
    is_weight = not any(rows) and w.shape[2] > y.shape[2]
    operation = "input" if flip else "weight" if is_weight else "forward"
    return Lies((rows[0], rows[1]), (turned[0], turned[1]), operation)


def copied(given: Lies, operation: str) -> frozenset[str]:
    """Which of both arrays MLX copies for an operation."""
    x = given.exchanged[0] if operation == "weight" else given.rows[0]
    w = given.rows[1] if operation == "forward" else given.exchanged[1]
    return frozenset([name for name, is_left in (("x", x), ("w", w)) if not is_left])


@dataclass
class Copies:
    """How the arrays of calls lay."""

    by_call: dict[Call, set[Lies]] = field(default_factory=lambda: defaultdict(set))

    def pairs(self) -> Iterator[tuple[Call, frozenset[str], frozenset[str]]]:
        """What is copied of a call that makes a plan, and of one that finds it."""
        for call, kinds in self.by_call.items():
            for first, later in product(kinds, repeat=2):
                made = copied(first, first.operation)
                yield call, made, copied(later, first.operation)

    def made(self, name: str, flip: bool) -> list[Call]:
        """Calls that make a plan for a copy of this array."""
        return [call for call, made, _ in self.pairs() if name in made and call.flip == flip]

    @property
    def by_turns(self) -> list[Call]:
        """Calls that find a plan for a copy of an array that is not copied now."""
        return [call for call, made, now in self.pairs() if made - now]

    @property
    def pooled(self) -> list[Call]:
        """Calls of which MLX copies an array to its pool, where it may lie anywhere."""
        return [
            call for call, _, now in self.pairs() for name in now if call.n_bytes[name] <= POOLED
        ]


@contextmanager
def counted_copies(monkeypatch: pytest.MonkeyPatch) -> Iterator[Copies]:
    """Of all convolutions that polyconv gives to MLX in the block, of arrays with numbers."""
    found, own = Copies(), unpatched.conv_general

    def spy(x: mx.array, w: mx.array, *options: Any) -> mx.array:
        y = own(x, w, *options)
        stride, padding, dilation, *more = options
        groups, flip = more[1:] or (1, False)
        try:
            mx.eval(x, w)
        except ValueError:  # traced
            return y
        call = Call(x.shape, w.shape, (stride, padding, dilation), groups, flip, x.dtype)
        found.by_call[call].add(lies(x, w, y, groups, flip))
        return y

    with monkeypatch.context() as patch:
        patch.setattr(unpatched, "conv_general", spy)
        yield found
