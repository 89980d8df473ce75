"""What the decoders of `audio_models` and `more_audio_models` have in common.

`DECODERS` has a function by name, which builds a `Decoder`. Weights are random, the same in every
run, and drawn so that something is heard.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import mlx.core as mx
import mlx.nn as nn

Function: TypeAlias = "Callable[[mx.array], mx.array]"


class Decoder(NamedTuple):
    """A model, a function of one array that runs it, an input, and the axis of time in that."""

    model: nn.Module
    function: Function
    example: mx.array
    axis: int


class Entry(NamedTuple):
    """How a decoder is built. `frames` is its input's length in models.py."""

    factory: Callable[..., Any]
    example: Callable[[int], mx.array]
    axis: int
    frames: int
    gain: float | None
    part: int
    noisy: bool
    narrow_gain: float | None

    def build(self, frames: int | None = None, narrow: bool = False) -> Decoder:
        """The decoder; where `narrow`, with a `part`-th of the published channels or layers."""
        mx.random.seed(0)
        made = self.factory(self.part) if narrow and self.part > 1 else self.factory()
        model, function = made if isinstance(made, tuple) else (made, made)
        gain = self.narrow_gain if narrow and self.narrow_gain else self.gain
        if gain is not None:
            draw(model, gain)
        model.eval()
        mx.eval(model.parameters())  # not in the first run
        if self.noisy:
            function = seeded(function)
        return Decoder(model, function, self.example(frames or self.frames), self.axis)


DECODERS: dict[str, Entry] = {}


def decoder(
    name: str,
    shape: tuple[int | None, ...],
    *,
    frames: int = 8,
    gain: float | None = None,
    codes: int | None = None,
    example: Callable[[int], mx.array] | None = None,
    part: int = 1,
    noisy: bool = False,
    narrow_gain: float | None = None,
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Enters a factory in `DECODERS`. It returns a model, or a model and the function to run.

    Args:
        name: The decoder's name.
        shape: Of its input, None for the axis of time.
        frames: The length of the input in models.py.
        gain: What its convolutions are drawn with anew. `None` leaves them as they are.
        codes: The size of the codebooks, where the input is indices into them.
        example: Makes the input of a length, where it is no plain noise.
        part: How many times fewer channels or layers there are where the decoder is to be narrow.
        noisy: Whether it adds random numbers, which are the same in every run then.
        narrow_gain: Instead of `gain` where narrow, so that rounding errors do not grow.
    """
    axis = shape.index(None)

    def plain(length: int) -> mx.array:
        sizes = [length if size is None else size for size in shape]
        return noise(*sizes) if codes is None else indices(codes, *sizes)

    def enter(factory: Callable[..., Any]) -> Callable[..., Any]:
        DECODERS[name] = Entry(
            factory, example or plain, axis, frames, gain, part, noisy, narrow_gain
        )
        return factory

    return enter


def noise(*shape: int) -> mx.array:
    """An input: a spectrogram, or what a model has instead."""
    return mx.random.normal(shape, key=mx.random.key(2))


def indices(size: int, *shape: int) -> mx.array:
    """An input of indices into codebooks."""
    return mx.random.randint(0, size, shape, key=mx.random.key(2))


def seeded(function: Function) -> Function:
    """A function with the same random numbers in every run."""

    def run(x: mx.array) -> mx.array:
        mx.random.seed(1)
        return function(x)

    return run


def draw(model: nn.Module, gain: float) -> None:
    """Draws the weights of all convolutions anew, each filter with a norm of about `gain`.

    For models whose weights begin as zeros or ones, or so small that next to nothing of the signal
    is left. The gains were tried out: audio of a standard deviation of 0.05 to 0.5, hardly clipped.
    """
    for module in model.modules():
        for name in ("weight", "weight_v"):
            old = module.get(name)
            if not isinstance(old, mx.array) or old.ndim < 3:
                continue
            new = mx.random.normal(old.shape) * (gain / math.sqrt(math.prod(old.shape[1:])))
            changes = {name: new}
            if name == "weight_v":
                norm = module["weight_g"]
                axes = [axis for axis, size in enumerate(norm.shape) if size == 1]
                changes["weight_g"] = mx.sqrt(mx.sum(new * new, axis=axes, keepdims=True))
            module.update(changes)
