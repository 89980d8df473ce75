"""What is true of the MLX that runs here, and on which of its streams? The only place that asks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import TypeAlias

import mlx.core as mx

StreamOrDevice: TypeAlias = "mx.Stream | mx.Device | mx.DeviceType | None"

# Older versions of MLX have no thread-local streams.
STREAM_TYPES = tuple(
    getattr(mx, name)
    for name in ("Stream", "Device", "DeviceType", "ThreadLocalStream")
    if hasattr(mx, name)
)


@cache
def pads_explicitly() -> bool:
    """Whether inputs must be padded before a convolution and not by it.

    Up to 0.32.3 MLX's gradient of a convolution whose padding differs between its sides has a
    wrong shape (`Convolution::vjp`, mlx/primitives.cpp), and its CPU kernel for dilated or grouped
    2D and 3D convolutions writes past an output that is shorter than the padding in front
    (`slow_conv_2D`, mlx/backend/cpu/conv.cpp), which ends the process or not, as luck has it.
    """
    return _version(mx.__version__) < (0, 32, 4)


@contextmanager
def on(stream: StreamOrDevice) -> Iterator[None]:
    """As `mx.stream`, which does not put back the default stream of a device it switches to."""
    if stream is None:
        yield
        return
    before = mx.default_stream(stream.device) if isinstance(stream, mx.Stream) else None
    try:
        with mx.stream(stream):
            yield
    finally:
        if before is not None:
            mx.set_default_stream(before)


def _version(text: str) -> tuple[int, ...]:
    """The leading numbers of a version such as ``0.32.4`` or ``0.33.0.dev20261101+abc``."""
    numbers = []
    for part in text.split("+")[0].split("."):
        if not part.isdigit():
            break
        numbers.append(int(part))
    return tuple(numbers)
