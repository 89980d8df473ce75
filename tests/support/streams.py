"""A model of integers, and whether it streams."""

from __future__ import annotations

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
