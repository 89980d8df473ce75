"""Records the convolutions that are handed to MLX, as the specs of what Metal would see."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import mlx.core as mx

from polyconv import originals
from polyconv.spec import Axis, ConvSpec

_CONVOLUTIONS = [f"conv{t}{n}d" for t in ("", "_transpose") for n in (1, 2, 3)]


@contextmanager
def traced() -> Iterator[list[ConvSpec]]:
    """The convolutions that polyconv issues inside, in order. Any but `conv_general` fails."""
    calls: list[ConvSpec] = []
    conv_general = originals.conv_general

    def spy(
        x: mx.array,
        w: mx.array,
        stride: Any,
        padding: Any,
        kernel_dilation: Any,
        input_dilation: Any,
        groups: int,
        flip: bool,
    ) -> mx.array:
        options = (stride, input_dilation, kernel_dilation, *padding)
        axes = zip(x.shape[1:-1], w.shape[1:-1], *options, strict=True)
        sizes = (x.shape[0], x.shape[-1], w.shape[0])
        dtype = str(x.dtype).removeprefix("mlx.core.")
        assert x.dtype == w.dtype
        calls.append(ConvSpec(*sizes, tuple(Axis(*a) for a in axes), groups, flip, dtype))
        return conv_general(x, w, stride, padding, kernel_dilation, input_dilation, groups, flip)

    def refuse(*_: Any, **__: Any) -> mx.array:
        raise AssertionError("a convolution of MLX other than mx.conv_general")

    kept = {name: getattr(mx, name) for name in _CONVOLUTIONS}
    for name in _CONVOLUTIONS:
        setattr(mx, name, refuse)
    originals.conv_general = spy
    try:
        yield calls
    finally:
        originals.conv_general = conv_general
        for name, function in kept.items():
            setattr(mx, name, function)
