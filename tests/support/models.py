"""Layers and models as others write them, which hold or call transposed convolutions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten

import polyconv
from tests.support.cases import integers


class Trimmed(nn.ConvTranspose1d):
    """A subclass that calls MLX's layer, as codecs trim what a causal layer has too much."""

    def __call__(self, x: mx.array) -> mx.array:
        return super().__call__(x)[:, : -self.output_padding or None]


class WeightNorm(nn.Module):
    """As in BigVGAN, SNAC, DAC: no layer of MLX's, and the weight is made at each call."""

    def __init__(self, channels: int, stride: int) -> None:
        super().__init__()
        self.weight_v = integers(channels, 2 * stride, channels)
        self.weight_g = mx.full((channels, 1, 1), 2.0)
        self.stride = stride

    def __call__(self, x: mx.array) -> mx.array:
        return mx.conv_transpose1d(x, self.weight_g * self.weight_v, self.stride, self.stride // 2)


class Louder(WeightNorm):
    """What calls MLX is a method of the base."""

    def __call__(self, x: mx.array) -> mx.array:
        return 2 * super().__call__(x)


class Resampler(nn.Module):
    """`conv_general`, in a nested function, and a child of its own."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.child = nn.ConvTranspose1d(channels, channels, 2, 2)
        self._filter = integers(channels, 4, 1)

    def __call__(self, x: mx.array) -> mx.array:
        def resampled(x: mx.array) -> mx.array:
            c = x.shape[-1]
            return mx.conv_general(x, self._filter, padding=3, input_dilation=2, groups=c)

        return resampled(self.child(x))


class Passing(nn.Module):
    """As in Kokoro: the function is an argument of the call."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = integers(channels, 4, channels)

    def apply(self, x: mx.array, function: Callable[..., mx.array]) -> mx.array:
        return function(x, self.weight, stride=2)

    def __call__(self, x: mx.array) -> mx.array:
        return self.apply(x, mx.conv_transpose1d)


class Chain(nn.Module):
    def __init__(self, *parts: Any) -> None:
        super().__init__()
        self.parts = list(parts)

    def __call__(self, x: mx.array) -> mx.array:
        for part in self.parts:
            x = part["layer"](x) if type(part) is dict else part(x)
        return x


def layer_of(kind: str, channels: int) -> Any:
    """A layer of a kind, of integers."""
    makers: dict[str, Callable[[], Any]] = {
        "plain": lambda: nn.ConvTranspose1d(channels, channels, 4, 2, 1),
        "trimmed": lambda: Trimmed(channels, channels, 4, 2, output_padding=2),
        "weight norm": lambda: WeightNorm(channels, 2),
        "louder": lambda: Louder(channels, 2),
        "resampler": lambda: Resampler(channels),
        "passing": lambda: Passing(channels),
        "linear": lambda: nn.Linear(channels, channels),
        "polyconv": lambda: polyconv.PolyConvTranspose1d(channels, channels, 4, 2, 1),
        "conv": lambda: nn.Conv1d(channels, channels, 3, padding=1),
    }
    made = makers[kind]()
    for name, value in tree_flatten(made.parameters()):
        made.load_weights([(name, integers(*value.shape, seed=len(name)))], strict=False)
    return made


KINDS = ("plain", "trimmed", "weight norm", "louder", "resampler", "passing")
OTHERS = ("linear", "polyconv", "conv")
