"""Moves of an array whose shape is known: worked out once, then run without a decision.

einops calls such a list a recipe. Reshapes that follow each other become one, as do paddings and
slices of different axes, and what changes nothing is left out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import TypeAlias

import mlx.core as mx

Shape: TypeAlias = "tuple[int, ...]"
Step: TypeAlias = "Callable[[mx.array], mx.array]"


class Recipe:
    """Steps from an array of one shape to another; `shape` is that of the last."""

    def __init__(self, shape: Sequence[int]) -> None:
        self.shape: Shape = tuple(shape)
        self._steps: list[Step] = []
        # These are no steps yet, since what follows may be joined to them.
        self._from: Shape = self.shape  # the shape before reshapes that wait
        self._index: dict[int, slice] = {}
        self._zeros: Sequence[tuple[int, int]] = ()

    def made(self) -> Step:
        """All steps as one function."""
        self._settle()
        steps = tuple(self._steps)
        if not steps:
            return lambda a: a
        if len(steps) == 1:
            return steps[0]
        if len(steps) == 2:
            first, second = steps
            return lambda a: second(first(a))

        def run(a: mx.array) -> mx.array:
            for step in steps:
                a = step(a)
            return a

        return run

    def reshape(self, *shape: int) -> Recipe:
        """To this shape, in which one size may be -1."""
        self._settle_index()
        self._settle_zeros()
        known = prod(size for size in shape if size != -1)
        self.shape = tuple([prod(self.shape) // known if n == -1 else n for n in shape])
        return self

    def transpose(self, *order: int) -> Recipe:
        """Its axes in this order. Where only axes of one item move it is a reshape."""
        if list(order) == sorted(order):
            return self
        shape = tuple([self.shape[i] for i in order])
        moving = [i for i in order if self.shape[i] != 1]
        if moving == sorted(moving):
            return self.reshape(*shape)
        return self.then(lambda a: mx.transpose(a, order), shape)

    def cut(self, axis: int, start: int | None, stop: int | None, step: int = 1) -> Recipe:
        """A slice of one axis, as in Python."""
        size = self.shape[axis]
        kept = range(*slice(start, stop, step).indices(size))
        if len(kept) == size and (step == 1 or size == 1):
            return self
        self._settle_zeros()
        self._settle_reshape()
        if axis in self._index:
            self._settle_index()
        self._index[axis] = slice(start, stop, step)
        self.shape = self._from = (*self.shape[:axis], len(kept), *self.shape[axis + 1 :])
        return self

    def pad(self, widths: Sequence[tuple[int, int]]) -> Recipe:
        """Zeros around each axis, or cropped where a width is negative, by one copy at most."""
        positive = []
        for axis, (lo, hi) in enumerate(widths):
            size = self.shape[axis]
            self.cut(axis, min(max(-lo, 0), size), size - min(max(-hi, 0), size))
            # Where all is cropped, what is left to crop comes off the padding at the other end.
            total = size + lo + hi
            front = min(max(lo, 0), total)
            positive.append((front, total - self.shape[axis] - front))
        if not any(lo or hi for lo, hi in positive):
            return self
        if not self._zeros:  # or else nothing was cropped behind those that wait
            self._settle()
            self._zeros = [(0, 0)] * len(positive)
        pairs = zip(self._zeros, positive, strict=True)
        self._zeros = [(lo + a, hi + b) for (lo, hi), (a, b) in pairs]
        sizes = zip(self.shape, positive, strict=True)
        self.shape = self._from = tuple([n + lo + hi for n, (lo, hi) in sizes])
        return self

    def then(self, step: Step, shape: Sequence[int] | None = None) -> Recipe:
        """Any other step. `shape` is the one that it leaves, where that is another."""
        self._settle()
        self._steps.append(step)
        self.shape = self._from = tuple(self.shape if shape is None else shape)
        return self

    def _settle(self) -> None:
        """Makes steps of what waits. Zeros wait alone."""
        self._settle_zeros()
        self._settle_index()
        self._settle_reshape()

    def _settle_zeros(self) -> None:
        if self._zeros:
            widths, self._zeros = self._zeros, ()
            self._steps.append(lambda a: mx.pad(a, widths))

    def _settle_reshape(self) -> None:
        if self._from != self.shape:
            shape = self._from = self.shape
            self._steps.append(lambda a: mx.reshape(a, shape))

    def _settle_index(self) -> None:
        if not self._index:
            return
        last = max(self._index)
        index = tuple([self._index.get(axis, slice(None)) for axis in range(last + 1)])
        only = index[0] if len(index) == 1 else index
        self._index = {}
        self._steps.append(lambda a: a[only])
