"""A model of integers, and whether it streams."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import mlx.core as mx
import numpy as np

import polyconv
from tests.support.cases import integers


def chunks(model: Any, x: mx.array, sizes: Sequence[int]) -> Iterator[mx.array]:
    at = 0
    for size in sizes:
        yield model.step(x[:, at : at + size])
        at += size
    yield model.step(x[:, at:])
    yield model.flush()


def assert_streams(model: Any, x: mx.array, sizes: Sequence[int], tolerance: float = 0.0) -> None:
    whole, streamed = np.array(model(x)), polyconv.stream(model)
    for _ in range(2):  # it begins anew behind the end
        got = np.concatenate([np.array(y) for y in chunks(streamed, x, sizes)], 1)
        assert got.shape == whole.shape
        assert np.abs(got - whole).max() <= tolerance * np.abs(whole).max()


def whole_numbers(model: Any) -> Any:
    """Parameters that keep sums exact."""
    for _, module in model.named_modules():
        for name in ("weight", "bias", "weight_v"):
            if name in module:
                module[name] = integers(*module[name].shape, seed=len(name))
    return model
