"""Which arrays of a convolution MLX copies for cuDNN, as mlx/backend/cuda/conv.cpp says.

MLX keeps a plan by the alignment of what it is given, but makes it for what it has copied. So two
calls that are alike must have the same arrays copied, and a copy must be too large for the pool of
small arrays, in which it would have any alignment.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import mlx.core as mx
import pytest

from polyconv.execution import unpatched

POOLED = 8  # bytes, `small_block_size` of mlx/backend/cuda/allocator.cpp
Layout = tuple[tuple[int, ...], tuple[int, ...]]


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


def copied(x: mx.array, w: mx.array, y: mx.array, groups: int, flip: bool) -> tuple[str, ...]:
    """Which of both arrays MLX copies, of groups only where each is one channel."""
    of_x, of_w = layout(x), layout(w)
    if flip:
        assert groups == 1 or groups == x.shape[-1] == w.shape[0]
        of_w = exchanged(of_w) if groups == 1 else of_w
    elif not (is_row_contiguous(of_x) or is_row_contiguous(of_w)) and w.shape[2] > y.shape[2]:
        of_x, of_w = exchanged(of_x), exchanged(of_w)  # cuDNN's gradient of a weight
    return tuple([n for n, of in (("x", of_x), ("w", of_w)) if not is_row_contiguous(of)])


@dataclass
class Copies:
    """What was copied, by all that is in the key of a plan but alignments."""

    by_call: dict[Any, set[tuple[str, ...]]] = field(default_factory=lambda: defaultdict(set))
    pooled: list[Any] = field(default_factory=list)

    @property
    def by_turns(self) -> list[Any]:
        """Calls that were alike, of which not the same arrays were copied."""
        return [call for call, kinds in self.by_call.items() if len(kinds) > 1]


@contextmanager
def counted_copies(monkeypatch: pytest.MonkeyPatch) -> Iterator[Copies]:
    """Of all convolutions that polyconv gives to MLX in the block, of arrays with numbers."""
    found, own = Copies(), unpatched.conv_general

    def spy(x: mx.array, w: mx.array, *options: Any) -> mx.array:
        y = own(x, w, *options)
        stride, padding, dilation, *more = options
        groups, flip = more[1:] or (1, False)
        mx.eval(x, w)
        names = copied(x, w, y, groups, flip)
        sizes = {"x": x.nbytes, "w": w.nbytes}
        call = (x.shape, w.shape, stride, padding, dilation, groups, flip, str(x.dtype))
        found.by_call[call].add(names)
        found.pooled += [call for name in names if sizes[name] <= POOLED]
        return y

    with monkeypatch.context() as patch:
        patch.setattr(unpatched, "conv_general", spy)
        yield found
