"""HiFi-GAN generator in MLX, with the classes of its layers as arguments.

Answers: what does a vocoder built on these layers compute? Built once with MLX's layers and once
with polyconv's, the two share weights and parameter names. Kong et al. 2020, arXiv:2010.05646;
models.py in jik876/hifi-gan.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_flatten
from numpy.typing import NDArray

import polyconv

LEAKY_SLOPE = 0.1
# models.py calls its last leaky_relu without a slope, so PyTorch's default applies.
FINAL_LEAKY_SLOPE = 0.01

BIAS_SCALE = 0.01
LOG_SILENCE = np.float32(np.log(1e-5))

OnStep = Callable[[str, mx.array], None]


@dataclass(frozen=True)
class GeneratorConfig:
    """Sizes of one published generator (config_v1.json to config_v3.json, jik876/hifi-gan).

    Args:
        upsample_rates: stride of each upsampling layer; their product is the hop.
        upsample_kernel_sizes: kernel size of each upsampling layer.
        upsample_initial_channel: channels before the first upsampling layer.
        resblock: 1 for ``ResBlock1``, 2 for ``ResBlock2``.
        resblock_kernel_sizes: kernel size of each residual block of a stage.
        resblock_dilation_sizes: dilations of each residual block of a stage.
    """

    upsample_rates: tuple[int, ...]
    upsample_kernel_sizes: tuple[int, ...]
    upsample_initial_channel: int
    resblock: int
    resblock_kernel_sizes: tuple[int, ...]
    resblock_dilation_sizes: tuple[tuple[int, ...], ...]
    num_mels: int = 80


def _v1(channels: int) -> GeneratorConfig:
    return GeneratorConfig((8, 8, 2, 2), (16, 16, 4, 4), channels, 1, (3, 7, 11), ((1, 3, 5),) * 3)


VARIANTS = {
    "v1": _v1(512),
    "v2": _v1(128),
    "v3": GeneratorConfig((8, 8, 4), (16, 16, 8), 256, 2, (3, 5, 7), ((1, 2), (2, 6), (3, 12))),
}


class PolyConv1d(nn.Conv1d):
    """``mlx.nn.Conv1d`` with the convolution done by polyconv, for the CPU's sake: MLX computes
    dilated ones there by loops over single samples."""

    def __call__(self, x: mx.array) -> mx.array:
        y = polyconv.conv1d(x, self.weight, self.stride, self.padding, self.dilation, self.groups)
        return y + self.bias if "bias" in self else y


def _same_conv(conv: type[nn.Conv1d], channels: int, kernel_size: int, dilation: int) -> nn.Conv1d:
    padding = dilation * (kernel_size - 1) // 2
    return conv(channels, channels, kernel_size, padding=padding, dilation=dilation)


class ResBlock1(nn.Module):
    """Residual block of V1 and V2: a dilated convolution, then a plain one, per dilation.

    Args:
        channels: channels in and out.
        kernel_size: taps of every convolution in the block.
        dilations: dilation of the first convolution of each pair.
        conv: class of the convolutions.
    """

    def __init__(
        self,
        channels: int,
        kernel_size: int,
        dilations: tuple[int, ...],
        conv: type[nn.Conv1d],
    ) -> None:
        super().__init__()
        self.convs1 = [_same_conv(conv, channels, kernel_size, d) for d in dilations]
        self.convs2 = [_same_conv(conv, channels, kernel_size, 1) for _ in dilations]

    def __call__(self, x: mx.array) -> mx.array:
        for dilated, plain in zip(self.convs1, self.convs2):
            y = dilated(nn.leaky_relu(x, LEAKY_SLOPE))
            x = x + plain(nn.leaky_relu(y, LEAKY_SLOPE))
        return x


class ResBlock2(nn.Module):
    """Residual block of V3: one dilated convolution per dilation.

    Args:
        channels: channels in and out.
        kernel_size: taps of every convolution in the block.
        dilations: dilation of each convolution.
        conv: class of the convolutions.
    """

    def __init__(
        self,
        channels: int,
        kernel_size: int,
        dilations: tuple[int, ...],
        conv: type[nn.Conv1d],
    ) -> None:
        super().__init__()
        self.convs = [_same_conv(conv, channels, kernel_size, d) for d in dilations]

    def __call__(self, x: mx.array) -> mx.array:
        for conv in self.convs:
            x = x + conv(nn.leaky_relu(x, LEAKY_SLOPE))
        return x


class Generator(nn.Module):
    """HiFi-GAN generator; parameter names are those of the authors' checkpoints.

    Args:
        config: sizes, usually one of ``VARIANTS``.
        transposed: class of the upsampling layers, ``mlx.nn.ConvTranspose1d`` or one
            with the same constructor and weight layout.
        conv: class of all other layers, ``mlx.nn.Conv1d`` or one like it.
    """

    def __init__(
        self,
        config: GeneratorConfig,
        transposed: type[nn.ConvTranspose1d] = nn.ConvTranspose1d,
        conv: type[nn.Conv1d] = nn.Conv1d,
    ) -> None:
        super().__init__()
        block = {1: ResBlock1, 2: ResBlock2}[config.resblock]
        widths = [
            config.upsample_initial_channel >> i for i in range(len(config.upsample_rates) + 1)
        ]
        self.conv_pre = conv(config.num_mels, widths[0], 7, padding=3)
        self.ups = [
            transposed(c_in, c_out, k, stride=u, padding=(k - u) // 2)
            for c_in, c_out, k, u in zip(
                widths, widths[1:], config.upsample_kernel_sizes, config.upsample_rates
            )
        ]
        self.resblocks = [
            block(width, k, d, conv)
            for width in widths[1:]
            for k, d in zip(config.resblock_kernel_sizes, config.resblock_dilation_sizes)
        ]
        self.conv_post = conv(widths[-1], 1, 7, padding=3)

    def step_names(self, upsampling_only: bool = False) -> list[str]:
        """Names that ``on_step`` is called with in one pass, in order."""
        if upsampling_only:
            return ["conv_pre", *(f"ups.{i}" for i in range(len(self.ups)))]
        per_stage = len(self.resblocks) // len(self.ups)
        names = ["conv_pre"]
        for i in range(len(self.ups)):
            names.append(f"ups.{i}")
            names += [f"resblocks.{i * per_stage + j}" for j in range(per_stage)]
        return [*names, "conv_post"]

    def __call__(self, mel: mx.array, on_step: OnStep = lambda name, x: None) -> mx.array:
        """Waveform of a log-mel spectrogram.

        Args:
            mel: log-mel, shape (B, T, num_mels).
            on_step: called with the name and the output of each layer or residual block;
                evaluate there for progress and for a bounded graph.

        Returns:
            Samples in (-1, 1), shape (B, T * prod(upsample_rates), 1).
        """
        per_stage = len(self.resblocks) // len(self.ups)
        x = self.conv_pre(mel)
        on_step("conv_pre", x)
        for i, up in enumerate(self.ups):
            x = up(nn.leaky_relu(x, LEAKY_SLOPE))
            on_step(f"ups.{i}", x)
            total = mx.zeros_like(x)
            for j in range(i * per_stage, (i + 1) * per_stage):
                y = self.resblocks[j](x)
                on_step(f"resblocks.{j}", y)
                total = total + y
            x = total / per_stage
        x = mx.tanh(self.conv_post(nn.leaky_relu(x, FINAL_LEAKY_SLOPE)))
        on_step("conv_post", x)
        return x

    def upsampling_stack(self, mel: mx.array, on_step: OnStep = lambda name, x: None) -> mx.array:
        """The transposed convolutions alone, each after its leaky ReLU.

        Args:
            mel: log-mel, shape (B, T, num_mels); ``conv_pre`` widens it first.
            on_step: as in a full forward pass.

        Returns:
            Activations, shape (B, T * prod(upsample_rates), last width).
        """
        x: mx.array = self.conv_pre(mel)
        on_step("conv_pre", x)
        for i, up in enumerate(self.ups):
            x = up(nn.leaky_relu(x, LEAKY_SLOPE))
            on_step(f"ups.{i}", x)
        return x


def seed_weights(generator: Generator, seed: int = 0) -> None:
    """Replace every weight by seeded noise that keeps the signal's scale through the layers.

    Args:
        generator: the model to fill, in place.
        seed: of NumPy's PCG64, so that every MLX version draws the same weights.
    """
    rng = np.random.default_rng(seed)
    parameters: Any = tree_flatten(generator.parameters())
    drawn: dict[str, NDArray[np.float32]] = {}
    for name, value in parameters:
        scale = BIAS_SCALE if value.ndim == 1 else _noise_scale(generator, name, value.shape)
        drawn[name] = rng.standard_normal(value.shape, np.float32) * np.float32(scale)
    # Counts the input from the log-mel of silence, so that the noise follows the speech.
    drawn["conv_pre.bias"] = -LOG_SILENCE * drawn["conv_pre.weight"].sum(axis=(1, 2))
    generator.load_weights([(name, mx.array(noise)) for name, noise in drawn.items()])


def _noise_scale(generator: Generator, name: str, shape: tuple[int, ...]) -> float:
    fan_in = shape[1] * shape[2]
    if name.startswith("ups."):
        # Only kernel/stride taps of a transposed convolution reach one output sample.
        fan_in //= generator.ups[int(name.split(".")[1])].stride
    # Residual branches add to their input, and the last tanh must stay unsaturated.
    gain = {"resblocks": 0.5, "conv_post": 0.1}.get(name.split(".")[0], 1.0)
    return gain / float(np.sqrt(fan_in))
