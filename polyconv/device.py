"""What is true of the MLX that runs here? The only place that asks."""

from __future__ import annotations

from functools import cache

import mlx.core as mx


@cache
def pads_explicitly() -> bool:
    """Whether inputs must be padded before the convolution and not by it.

    Up to 0.32.3 MLX's gradient of a convolution whose padding is not the same on both sides has a
    wrong shape (`Convolution::vjp`, mlx/primitives.cpp: it takes `padding_hi` for `padding_lo`).
    """
    return _version(mx.__version__) < (0, 32, 4)


def _version(text: str) -> tuple[int, ...]:
    """The leading numbers of a version such as ``0.32.4`` or ``0.33.0.dev20261101+abc``."""
    numbers = []
    for part in text.split("+")[0].split("."):
        if not part.isdigit():
            break
        numbers.append(int(part))
    return tuple(numbers)
