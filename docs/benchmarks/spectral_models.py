"""Decoders of mlx-audio that end in an inverse STFT, mask a spectrum, or only upsample.

Like `audio_models`, in whose table of decoders they are entered too.
"""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import mlx.nn as nn
from audio_models import Made, kokoro_sized, text_and_curves
from decoders import decoder, noise


@decoder("kitten_tts", (1, 516, None), gain=0.6, example=text_and_curves, noisy=True)
def kitten_tts() -> Made:
    """mlx_audio.tts.models.kitten_tts.istftnet, its decoder, at the sizes of Kokoro's."""
    from mlx_audio.tts.models.kitten_tts.istftnet import Decoder

    return kokoro_sized(Decoder)


@decoder("chatterbox_turbo_hift", (1, 80, None), noisy=True)
def chatterbox_turbo() -> Made:
    """mlx_audio.tts.models.chatterbox_turbo, its HiFT generator, which calls NumPy."""
    from mlx_audio.tts.models.chatterbox_turbo.models.s3gen.hifigan import HiFTGenerator

    model = HiFTGenerator()
    return model, lambda mel: _first(model(mel))


@decoder("stepaudio2_hift", (1, 80, None), noisy=True)
def stepaudio2() -> Made:
    """mlx_audio.codec.models.stepaudio2, its HiFT generator."""
    from mlx_audio.codec.models.stepaudio2.hift import StepAudio2HiFTGenerator

    model = StepAudio2HiFTGenerator()
    model.f0_predictor.classifier.bias = mx.array([200.0])  # Hz: voiced, whatever the weights
    return model, lambda mel: _first(model(mel))


def _first(found: Any) -> mx.array:
    return found[0] if isinstance(found, tuple) else found


@decoder("hift_without_source", (1, 80, None), gain=0.9)
def hift_decoder() -> Made:
    """The HiFT generator's upsampling and blocks, the source left out, up to the spectrum."""
    from mlx_audio.codec.models.stepaudio2.hift import StepAudio2HiFTGenerator

    model = StepAudio2HiFTGenerator()

    def run(x: mx.array) -> mx.array:
        y = model.conv_pre(x.swapaxes(1, 2))
        for stage, up in enumerate(model.ups):
            y = up(nn.leaky_relu(y, model.lrelu_slope)).swapaxes(1, 2)
            blocks = model.resblocks[stage * model.num_kernels : (stage + 1) * model.num_kernels]
            y = sum(block(y) for block in blocks).swapaxes(1, 2) / model.num_kernels
        return model.conv_post(nn.leaky_relu(y))

    return model, run


@decoder("vocos_24khz", (1, None, 100))
def vocos() -> Made:
    """mlx_audio.codec.models.vocos, as charactr/vocos-mel-24khz."""
    from mlx_audio.codec.models.vocos import vocos

    backbone = vocos.VocosBackbone(100, 512, 1536, 8)
    model = vocos.Vocos(vocos.FeatureExtractor(), backbone, vocos.ISTFTHead(512, 1024, 256))
    return model, model.decode


@decoder("soprano", (1, None, 512))
def soprano() -> nn.Module:
    """mlx_audio.tts.models.soprano.decoder: linear upsampling, Vocos, an inverse STFT."""
    from mlx_audio.tts.models.soprano.decoder import SopranoDecoder

    return SopranoDecoder()


@decoder("mimo_audio_decoder", (1, None, 1280), gain=0.9, part=8)
def mimo_audio(part: int = 1) -> nn.Module:
    """mlx_audio.codec.models.mimo_audio_tokenizer, its decoder; narrow with fewer layers."""
    from mlx_audio.codec.models.mimo_audio_tokenizer.config import ModelConfig
    from mlx_audio.codec.models.mimo_audio_tokenizer.model import AudioDecoder

    layers = {"decoder_layers": 32 // part, "vocoder_num_layers": 16 // part}
    return AudioDecoder(ModelConfig(**layers))


@decoder("mimo_audio_upsample", (1, None, 1280), gain=0.9)
def mimo_audio_upsample() -> nn.Module:
    """Its transposed convolution, with a norm over time behind."""
    from mlx_audio.codec.models.mimo_audio_tokenizer.model import CausalConvTranspose1d

    return CausalConvTranspose1d(1280, 128, 3, 2)


@decoder("chatterbox_upsample", (1, 256, None), gain=0.9)
def chatterbox_upsample() -> nn.Module:
    """mlx_audio.tts.models.chatterbox.s3gen.matcha, the upsampling block of its U-Net."""
    from mlx_audio.tts.models.chatterbox.s3gen.matcha.decoder import Upsample1D

    return Upsample1D(256)


@decoder("chatterbox_turbo_upsample", (1, 256, None), gain=0.9)
def chatterbox_turbo_upsample() -> nn.Module:
    """mlx_audio.tts.models.chatterbox_turbo, the upsampling block of its U-Net."""
    from mlx_audio.tts.models.chatterbox_turbo.models.s3gen.decoder import Upsample1D

    return Upsample1D(256)


@decoder("kokoro_upsample", (1, 512, None), gain=0.6)
def kokoro_upsample() -> Made:
    """mlx_audio.tts.models.kokoro.istftnet, a block with a grouped transposed convolution."""
    from mlx_audio.tts.models.kokoro.istftnet import AdainResBlk1d

    model, style = AdainResBlk1d(512, 512, 128, upsample=True, conv_type=mx.conv1d), noise(1, 128)
    return model, lambda x: model(x, style)


@decoder("fish_s1_dac_upsample", (1, 1024, None), gain=0.8)
def fish_upsample() -> Made:
    """mlx_audio.codec.models.fish_s1_dac, upsampling behind its quantizer, no transformer."""
    from mlx_audio.codec.models.fish_s1_dac.fish_s1_dac import DownsampleResidualVectorQuantize

    model = DownsampleResidualVectorQuantize()

    def run(x: mx.array) -> mx.array:
        for block in model.upsample:
            for layer in block:
                x = layer(x)
        return x

    return model, run


# Channels, bands behind two strides of 2, and bands.
WIDTH, NARROW, BANDS = 64, 8, 32


def _skips(x: mx.array) -> list[mx.array]:
    """An encoder's four outputs (1, channels, time, bands), laid side by side in one array."""
    sizes = [WIDTH * bands for bands in (NARROW, NARROW, BANDS // 2, BANDS)]
    ends = [sum(sizes[:count]) for count in range(1, 4)]
    parts = mx.split(x, ends, axis=2)
    return [part.reshape(1, part.shape[1], WIDTH, -1).transpose(0, 2, 1, 3) for part in parts]


SIDE_BY_SIDE = WIDTH * (2 * NARROW + BANDS // 2 + BANDS)


@decoder("deepfilternet3_erb", (1, None, 256 + SIDE_BY_SIDE), gain=1.0)
def deepfilternet3() -> Made:
    """mlx_audio.sts.models.deepfilternet, its mask's decoder: transposed over bands, a GRU."""
    from mlx_audio.sts.models.deepfilternet.config import DeepFilterNet3Config
    from mlx_audio.sts.models.deepfilternet.network import ErbDecoder

    model = ErbDecoder(DeepFilterNet3Config(conv_ch=WIDTH, enc_concat=True))
    return model, lambda x: model(x[..., :256], *_skips(x[..., 256:]))


@decoder("deepfilternet1_erb", (1, None, 256 + SIDE_BY_SIDE), gain=1.0)
def deepfilternet1() -> Made:
    """The same of the first version, without a GRU."""
    from mlx_audio.sts.models.deepfilternet.config import DeepFilterNetConfig
    from mlx_audio.sts.models.deepfilternet.network_df1 import ErbDecoderV1

    model = ErbDecoderV1(DeepFilterNetConfig(conv_ch=WIDTH, conv_k_dec=2))
    return model, lambda x: model(x[..., :256], *_skips(x[..., 256:]))


@decoder("deepfilternet_upsample", (1, WIDTH, None, NARROW), gain=1.0)
def deepfilternet_upsample() -> nn.Module:
    """Its grouped transposed convolution over bands by itself."""
    from mlx_audio.sts.models.deepfilternet.network import ConvTransposeBlock

    return ConvTransposeBlock(WIDTH, WIDTH, (1, 3), WIDTH, 2)
