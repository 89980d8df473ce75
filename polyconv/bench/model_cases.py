"""Which whole models does `polyconv bench --models` time? Layers as data. Standard library only.

Batch norms are folded into the layers before them, as they are for inference.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil, prod
from typing import TypeAlias

from polyconv.problem.signatures import TRANSPOSED


@dataclass(frozen=True)
class Conv:
    """A convolution with a bias. The options hold for each axis."""

    in_channels: int
    out_channels: int
    kernel: int
    stride: int = 1
    padding: int = 0
    dilation: int = 1
    transposed: bool = False

    def size_after(self, size: int) -> int:
        span = self.dilation * (self.kernel - 1)
        if self.transposed:
            return (size - 1) * self.stride - 2 * self.padding + span + 1
        return (size + 2 * self.padding - span - 1) // self.stride + 1


@dataclass(frozen=True)
class Activation:
    """`relu`, `leaky_relu` with a slope, `tanh`, `sigmoid`, or `snake`, with one number a channel.

    Snake is x + sin(a x)^2 / a.
    """

    name: str
    slope: float = 0.0
    channels: int = 0


@dataclass(frozen=True)
class Residual:
    """`x + body(x)`."""

    body: Layers


@dataclass(frozen=True)
class Mean:
    """The mean of what each branch makes of the same input."""

    branches: tuple[Layers, ...]


@dataclass(frozen=True)
class Skip:
    """Joins the channels of a further input behind those that are there."""

    channels: int
    scale: int  # how many times the size of the first input


Layer: TypeAlias = "Conv | Activation | Residual | Mean | Skip"
Layers: TypeAlias = "tuple[Layer, ...]"
# An op, the shapes of its input and weight, and its options.
Call: TypeAlias = "tuple[str, tuple[int, ...], tuple[int, ...], dict[str, int]]"


@dataclass(frozen=True)
class Model:
    """`input` is channels last: `(N, *S, C)`."""

    name: str
    input: tuple[int, ...]
    layers: Layers

    @property
    def ndim(self) -> int:
        return len(self.input) - 2

    @property
    def inputs(self) -> list[tuple[int, ...]]:
        """The shapes of all inputs: the first, and one of each skip."""
        n, *space, _ = self.input
        skips = [each for each in self.layers if isinstance(each, Skip)]
        more = [(n, *[s * skip.scale for s in space], skip.channels) for skip in skips]
        return [self.input, *more]

    @property
    def calls(self) -> list[Call]:
        """The convolutions of one run."""
        return list(_calls(self.layers, self.input[:-1]))

    @property
    def macs(self) -> int:
        """Multiply-accumulates of all taps on all samples, as if there were no edges."""
        return sum(_macs(*call) for call in self.calls)


def _macs(op: str, x: tuple[int, ...], w: tuple[int, ...], options: dict[str, int]) -> int:
    n_samples = prod(x[:-1])
    if op not in TRANSPOSED:
        n_samples //= options["stride"] ** (len(x) - 2)
    return n_samples * prod(w)


def _calls(layers: Layers, space: tuple[int, ...]) -> Iterator[Call]:
    """`space` is `(N, *S)`."""
    for layer in layers:
        if isinstance(layer, Conv):
            ndim = len(space) - 1
            options = {k: getattr(layer, k) for k in ("stride", "padding", "dilation")}
            weight = (layer.out_channels, *[layer.kernel] * ndim, layer.in_channels)
            op = f"conv_transpose{ndim}d" if layer.transposed else f"conv{ndim}d"
            yield op, (*space, layer.in_channels), weight, options
            space = (space[0], *[layer.size_after(size) for size in space[1:]])
        elif isinstance(layer, Residual):
            yield from _calls(layer.body, space)
        elif isinstance(layer, Mean):
            for branch in layer.branches:
                yield from _calls(branch, space)


def weighted(layers: Layers, gain: float = 1.0) -> Iterator[tuple[Conv | Activation, float]]:
    """All that has weights, in the order in which it is met, and how large weights are to be.

    Residual branches are to add little, or what is rounded would grow from block to block.
    """
    for layer in layers:
        if isinstance(layer, Conv) or (isinstance(layer, Activation) and layer.channels):
            yield layer, gain
        elif isinstance(layer, Residual):
            yield from weighted(layer.body, 0.5)
        elif isinstance(layer, Mean):
            for branch in layer.branches:
                yield from weighted(branch)


def _same(channels: int, kernel: int, dilation: int = 1) -> Conv:
    return Conv(channels, channels, kernel, 1, dilation * (kernel - 1) // 2, dilation)


def _up(before: int, after: int, kernel: int, stride: int, padding: int) -> Conv:
    return Conv(before, after, kernel, stride, padding, transposed=True)


def hifigan(frames: int, channels: int = 512) -> Model:
    """HiFi-GAN V1 (Kong et al. 2020): the generator, from mel to waveform."""
    leaky = Activation("leaky_relu", 0.1)
    layers: list[Layer] = [Conv(80, channels, 7, padding=3)]
    for kernel, stride in ((16, 8), (16, 8), (4, 2), (4, 2)):
        layers += [leaky, _up(channels, channels // 2, kernel, stride, (kernel - stride) // 2)]
        channels //= 2
        layers.append(
            Mean(
                tuple(
                    tuple(
                        Residual((leaky, _same(channels, size, d), leaky, _same(channels, size)))
                        for d in (1, 3, 5)
                    )
                    for size in (3, 7, 11)
                )
            )
        )
    last = (Activation("leaky_relu", 0.01), Conv(channels, 1, 7, padding=3), Activation("tanh"))
    return Model(f"HiFi-GAN V1, {frames} frames", (1, frames, 80), (*layers, *last))


def dac(frames: int, channels: int = 1536, latents: int = 1024) -> Model:
    """The decoder of DAC at 44 kHz (Kumar et al. 2023), without weight norm."""
    layers: list[Layer] = [Conv(latents, channels, 7, padding=3)]
    for stride in (8, 8, 4, 2):
        up = _up(channels, channels // 2, 2 * stride, stride, ceil(stride / 2))
        layers += [Activation("snake", channels=channels), up]
        channels //= 2
        snake = Activation("snake", channels=channels)
        layers += [
            Residual((snake, _same(channels, 7, dilation), snake, Conv(channels, channels, 1)))
            for dilation in (1, 3, 9)
        ]
    snake = Activation("snake", channels=channels)
    layers += [snake, Conv(channels, 1, 7, padding=3), Activation("tanh")]
    return Model(f"DAC decoder, {frames} frames", (1, frames, latents), tuple(layers))


def dcgan(batch: int, width: int = 64) -> Model:
    """DCGAN's generator (Radford et al. 2016), from noise to 64 x 64 pixels."""
    layers: list[Layer] = [_up(100, 8 * width, 4, 1, 0), Activation("relu")]
    for channels in (8 * width, 4 * width, 2 * width):
        layers += [_up(channels, channels // 2, 4, 2, 1), Activation("relu")]
    layers += [_up(width, 3, 4, 2, 1), Activation("tanh")]
    return Model(f"DCGAN, batch {batch}", (batch, 1, 1, 100), tuple(layers))


def unet(size: int, width: int = 64) -> Model:
    """The last four transposed layers of pix2pix's U-Net (Isola et al. 2017), with their skips."""
    layers: list[Layer] = [Activation("relu"), _up(16 * width, 4 * width, 4, 2, 1)]
    for scale, channels in ((2, 4 * width), (4, 2 * width), (8, width)):
        after = 3 if channels == width else channels // 2
        up = _up(2 * channels, after, 4, 2, 1)
        layers += [Skip(channels, scale), Activation("relu"), up]
    layers.append(Activation("tanh"))
    name = f"U-Net decoder, {size} x {size} to {16 * size} x {16 * size}"
    return Model(name, (1, size, size, 16 * width), tuple(layers))


def volumes(width: int = 64) -> Model:
    """3D-GAN's generator (Wu et al. 2016) from 4^3 on, to 64^3."""
    layers: list[Layer] = []
    for channels in (8 * width, 4 * width, 2 * width):
        layers += [_up(channels, channels // 2, 4, 2, 1), Activation("relu")]
    layers += [_up(width, 1, 4, 2, 1), Activation("sigmoid")]
    return Model("3D decoder, 4^3 to 64^3", (1, 4, 4, 4, 8 * width), tuple(layers))


MODELS = (hifigan(86), hifigan(862), dac(44), dcgan(16), unet(16), volumes())
# The same geometry, small enough to be computed anywhere.
SMALL = (hifigan(3, 32), dac(2, 32, 8), dcgan(2, 4), unet(2, 4), volumes(4))
