"""Models at random, written in the ways that people write them. All numbers are small integers."""

from __future__ import annotations

import functools
import random
from collections.abc import Callable, Iterator
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.core import conv_transpose1d as up_by_name

CHANNELS = 3
BY = 2

Function = Callable[[mx.array], mx.array]


def folded(x: mx.array) -> mx.array:
    """Integers of -3 to 3, so that no sum of a few layers is rounded."""
    return mx.remainder(x, 7) - 3


def _weight(rng: random.Random, *shape: int) -> mx.array:
    size = functools.reduce(int.__mul__, shape)
    return mx.array([rng.randrange(-1, 2) for _ in range(size)], mx.float32).reshape(shape)


class Weighted(nn.Module):
    def __init__(self, rng: random.Random) -> None:
        super().__init__()
        self.weight = _weight(rng, CHANNELS, rng.randrange(1, 6), CHANNELS)
        self.stride, self.padding = rng.randrange(1, 4), 0
        if rng.random() < 0.3:  # a diagonal, as of ports from before there were groups
            self.weight = self.weight * mx.eye(CHANNELS)[:, None]


class Plain(Weighted):
    def __call__(self, x: mx.array) -> mx.array:
        return mx.conv_transpose1d(x, self.weight, self.stride, self.padding)


class Inherited(Plain):
    """Its call is its base's."""


class Overriding(Plain):
    def __call__(self, x: mx.array) -> mx.array:
        return super().__call__(x) - BY


def _doubled(method: Callable[..., mx.array]) -> Callable[..., mx.array]:
    @functools.wraps(method)
    def call(self: Any, x: mx.array) -> mx.array:
        return 2 * method(self, x)

    return call


class Decorated(Weighted):
    @_doubled
    def __call__(self, x: mx.array) -> mx.array:
        return mx.conv_transpose1d(x, self.weight, stride=self.stride)


class ByName(Weighted):
    def __call__(self, x: mx.array) -> mx.array:
        return up_by_name(x, self.weight, self.stride)


class ByRelativeImport(Weighted):
    def __call__(self, x: mx.array) -> mx.array:
        from .random_models import BY, upsampled

        return upsampled(x, self.weight, self.stride) + BY + eval("BY")

    def unused(self, x: mx.array) -> mx.array:
        return mx.conv_transpose1d(x, self.weight)


def upsampled(x: mx.array, w: mx.array, stride: int) -> mx.array:
    return mx.conv_transpose1d(x, w, stride)


class General(Weighted):
    def __call__(self, x: mx.array) -> mx.array:
        edge = self.weight.shape[1] - 1
        return mx.conv_general(x, self.weight, padding=edge, input_dilation=self.stride + 1)


class InPieces(Weighted):
    """A generator, and a class body that reads a global."""

    def pieces(self, x: mx.array) -> Iterator[mx.array]:
        class Shift:
            by = BY

        for i in range(x.shape[1]):
            yield mx.conv_transpose1d(x[:, i : i + 1], self.weight, self.stride) + Shift.by

    def __call__(self, x: mx.array) -> mx.array:
        return mx.concatenate(list(self.pieces(x)), 1)


class WeightNorm(Weighted):
    def __init__(self, rng: random.Random) -> None:
        super().__init__(rng)
        self.gain = _weight(rng, CHANNELS, 1, 1)

    def __call__(self, x: mx.array) -> mx.array:
        return mx.conv_transpose1d(x, self.gain * self.weight, self.stride)


class _Layer(nn.ConvTranspose1d):
    weight: mx.array

    def __init__(self, rng: random.Random) -> None:
        super().__init__(CHANNELS, CHANNELS, rng.randrange(1, 6), rng.randrange(1, 4))
        self.weight, self.bias = _weight(rng, *self.weight.shape), _weight(rng, CHANNELS)


class Trimmed(_Layer):
    def __call__(self, x: mx.array) -> mx.array:
        return super().__call__(x)[:, : x.shape[1]]


class Explicit(_Layer):
    def __call__(self, x: mx.array) -> mx.array:
        return nn.ConvTranspose1d.__call__(self, x) + BY


def _plain_layer(rng: random.Random) -> nn.Module:
    made = nn.ConvTranspose1d(CHANNELS, CHANNELS, rng.randrange(1, 6), rng.randrange(1, 4))
    made.weight, made.bias = _weight(rng, *made.weight.shape), _weight(rng, CHANNELS)
    return made


class Residual(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def __call__(self, x: mx.array) -> mx.array:
        y = self.inner(x)
        n = min(x.shape[1], y.shape[1])
        return x[:, :n] + y[:, :n]


class Activated(nn.Module):
    """The activation is data, in a dict."""

    def __init__(self, inner: nn.Module, function: Function) -> None:
        super().__init__()
        self.inner, self.functions = inner, {"after": function}

    def __call__(self, x: mx.array) -> mx.array:
        return self.functions["after"](self.inner(x))


class CallingBoth(Weighted):
    """Calls MLX itself, and a layer that it holds."""

    def __init__(self, rng: random.Random, inner: nn.Module) -> None:
        super().__init__(rng)
        self.inner = [inner]

    def __call__(self, x: mx.array) -> mx.array:
        return self.inner[0](folded(mx.conv_transpose1d(x, self.weight, self.stride)))


class Model(nn.Module):
    def __init__(self, blocks: list[nn.Module]) -> None:
        super().__init__()
        self.blocks = blocks

    def __call__(self, x: mx.array) -> mx.array:
        for block in self.blocks:
            x = folded(block(x))[:, :24]
        return x


LEAVES: tuple[Callable[[random.Random], nn.Module], ...] = (
    Plain,
    Inherited,
    Overriding,
    Decorated,
    ByName,
    ByRelativeImport,
    General,
    InPieces,
    WeightNorm,
    Trimmed,
    Explicit,
    _plain_layer,
)
FUNCTIONS: tuple[Function, ...] = (mx.abs, nn.relu, functools.partial(mx.maximum, mx.array(-1.0)))


def block(rng: random.Random, depth: int = 2) -> nn.Module:
    kind = rng.randrange(8) if depth else 7
    if kind == 0:
        return Residual(block(rng, depth - 1))
    if kind == 1:
        return Activated(block(rng, depth - 1), rng.choice(FUNCTIONS))
    if kind == 2:
        return CallingBoth(rng, block(rng, depth - 1))
    if kind == 3:
        return nn.Sequential(block(rng, depth - 1), rng.choice(FUNCTIONS))
    return rng.choice(LEAVES)(rng)


def random_model(rng: random.Random) -> Model:
    blocks = [block(rng) for _ in range(rng.randrange(1, 4))]
    if rng.random() < 0.2:
        blocks.append(blocks[0])  # shared
    return Model(blocks)
