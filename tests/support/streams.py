"""A model of integers, and whether it streams."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from typing import Any

import mlx.core as mx
import numpy as np

import polyconv
from tests.support.cases import integers


def chunks(model: Any, x: mx.array, sizes: Sequence[int], axis: int = 1) -> Iterator[mx.array]:
    beside = (slice(None),) * axis
    start = 0
    for size in sizes:
        part = (*beside, slice(start, start + size))
        yield model.step(x[part])
        start += size
    rest = (*beside, slice(start, None))
    yield model.step(x[rest])
    yield model.flush()


def assert_streams(
    model: Any,
    x: mx.array,
    sizes: Sequence[int],
    tolerance: float = 0.0,
    example: mx.array | None = None,
    axes: tuple[int, int] = (1, 1),
) -> None:
    """Compares with the whole. `axes` are those of time, in the input and in the output."""
    whole = np.array(model(x).astype(mx.float32))
    streamed = polyconv.stream(model, example, axis=axes[0])
    for _ in range(2):  # it begins anew behind the end
        found = chunks(streamed, x, sizes, axes[0])
        got = np.concatenate([np.array(y.astype(mx.float32)) for y in found], axes[1])
        assert got.shape == whole.shape
        assert np.abs(got - whole).max() <= tolerance * np.abs(whole).max()


def whole_numbers(model: Any) -> Any:
    """Parameters that keep sums exact."""
    for _, module in model.named_modules():
        for name in ("weight", "bias", "weight_v"):
            if name in module:
                module[name] = integers(*module[name].shape, seed=len(name))
    return model


class Restarting:
    """A stream of a batch whose items begin anew, and a stream of each item alone, which judges."""

    def __init__(
        self,
        model: Any,
        example: mx.array,
        axes: tuple[int, int] = (1, 1),
        tolerance: float = 0.0,
        **options: Any,
    ):
        self.axes, self._tolerance = axes, tolerance
        self.streamed = polyconv.stream(model, example, axis=axes[0], **options)
        alone = polyconv.stream(model, example[:1], axis=axes[0], **options)
        self._alone = [copy.deepcopy(alone) for _ in example]
        self._skip = [0] * len(example)  # samples from before an item's beginning
        self._got: list[list[np.ndarray]] = [[] for _ in example]
        self._expected: list[list[np.ndarray]] = [[] for _ in example]

    def step(self, x: mx.array, which: Sequence[bool]) -> None:
        behind = self.streamed.behind
        reset = mx.array(list(which)) if any(which) else None
        self._came(self.streamed.step(x, reset=reset), which, behind)
        for row, alone in enumerate(self._alone):
            self._expected[row].append(np.array(alone.step(x[row : row + 1])))

    def flush(self) -> None:
        """Ends all items, whose outputs must then be as long as those of each alone."""
        self._came(self.streamed.flush(), [False] * len(self._got), 0)
        for row, alone in enumerate(self._alone):
            self._expected[row].append(np.array(alone.flush()))
            got, expected = self._joined(self._got[row]), self._joined(self._expected[row])
            got = np.moveaxis(got, self.axes[1], 0)[self._skip[row] :]
            expected = np.moveaxis(expected, self.axes[1], 0)
            assert got.shape == expected.shape, row
            assert self._same(got, expected), row
        self._forget([True] * len(self._got), 0)

    def _came(self, y: mx.array, which: Sequence[bool], behind: int) -> None:
        self._check()
        self._forget(which, behind)
        for row, got in enumerate(self._got):
            got.append(np.array(y[row : row + 1]))

    def _forget(self, which: Sequence[bool], behind: int) -> None:
        for row, begins in enumerate(which):
            if begins:
                self._alone[row].reset_state()
                self._skip[row] = behind
                self._got[row], self._expected[row] = [], []

    def _check(self) -> None:
        """So far an item has given what it gives alone, which may be further."""
        for got, expected, skip in zip(self._got, self._expected, self._skip, strict=True):
            if not got:
                continue
            a = np.moveaxis(self._joined(got), self.axes[1], 0)[skip:]
            b = np.moveaxis(self._joined(expected), self.axes[1], 0)
            assert len(b) >= len(a)
            assert self._same(a, b[: len(a)])

    def _same(self, a: np.ndarray, b: np.ndarray) -> bool:
        """But for a share of the largest number; with a share of 0 by ==."""
        most = self._tolerance * np.abs(b).max(initial=0)
        return a.shape == b.shape and np.allclose(a, b, rtol=0, atol=most)

    def _joined(self, parts: Sequence[np.ndarray]) -> np.ndarray:
        return np.concatenate(parts, self.axes[1])
