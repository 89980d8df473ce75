"""More decoders and vocoders of mlx-audio, and pieces of them that are different code.

Like `audio_models`, in whose table of decoders they are entered too. Sizes are those of the
published models where nothing else is said.
"""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import mlx.nn as nn
from audio_models import DILATIONS, HIGH_RATE, KERNELS, Made, narrow_arktts
from decoders import decoder, noise


@decoder("bigvgan_22khz_amp2", (1, 80, None), gain=0.9, part=8)
def bigvgan_amp2(part: int = 1) -> nn.Module:
    """BigVGAN with its other residual blocks, as nvidia/bigvgan_base_22khz_80band, its tanh too."""
    from mlx_audio.codec.models.bigvgan.bigvgan import BigVGAN, BigVGANConfig

    rates, sizes = [8, 8, 2, 2], [16, 16, 4, 4]
    blocks = ("2", KERNELS, [[1, 3]] * 3, "snakebeta", True)
    return BigVGAN(BigVGANConfig(80, rates, sizes, 512 // part, *blocks))


@decoder("indextts_bigvgan", (1, 1280, None), gain=0.9, part=8)
def indextts(part: int = 1) -> Made:
    """mlx_audio.tts.models.indextts.bigvgan, for a fixed speaker, whose encoder is left out."""
    from mlx_audio.tts.models.indextts import bigvgan

    rates, sizes = [4, 4, 4, 4, 2, 2], [8, 8, 4, 4, 4, 4]
    blocks = ("1", KERNELS, DILATIONS, "snakebeta", True)
    more = {"gpt_dim": 1280, "speaker_embedding_dim": 512}
    config = bigvgan.BigVGANConditioningConfig(100, rates, sizes, 1536 // part, *blocks, **more)
    model, speaker = bigvgan.BigVGANConditioning(config), noise(1, 1, 512)
    model.speaker_encoder = lambda _: speaker
    return model, lambda latents: model(latents, speaker)


class _Holder(nn.Module):
    """A module around a model that is none."""

    def __init__(self, inner: Any) -> None:
        super().__init__()
        self.inner = inner

    def __call__(self, x: mx.array) -> mx.array:
        return self.inner(x)


@decoder("confucius4_bigvgan", (1, 80, None), part=8)
def confucius4(part: int = 1) -> nn.Module:
    """mlx_audio.tts.models.confucius4.vocoder: no module, and it evaluates between its stages."""
    from mlx_audio.tts.models.confucius4 import vocoder

    W: dict[str, mx.array] = {}

    def conv(name: str, out: int, size: int, into: int, transposed: bool = False) -> None:
        shape = (into, out, size) if transposed else (out, into, size)
        W[f"{name}.weight"] = mx.random.normal(shape) * 1.1 / (into * size) ** 0.5
        W[f"{name}.bias"] = mx.zeros((out,))

    def activation(name: str, channels: int) -> None:
        W[f"{name}.act.alpha"] = W[f"{name}.act.beta"] = mx.zeros((channels,))
        W[f"{name}.upsample.filter"] = W[f"{name}.downsample.lowpass.filter"] = mx.ones(12) / 12

    channels = 1536 // part
    conv("conv_pre", channels, 7, 80)
    for stage, size in enumerate(vocoder.UP_KERNELS):
        conv(f"ups.{stage}.0", channels // 2, size, channels, transposed=True)
        channels //= 2
        for block, taps in enumerate(vocoder.RES_K, 3 * stage):
            for layer in range(3):
                for each in ("convs1", "convs2"):
                    conv(f"resblocks.{block}.{each}.{layer}", channels, taps, channels)
            for layer in range(6):
                activation(f"resblocks.{block}.activations.{layer}", channels)
    activation("activation_post", channels)
    conv("conv_post", 1, 7, channels)
    model = vocoder.BigVGANMLX.__new__(vocoder.BigVGANMLX)  # __init__ reads a checkpoint
    model.W = W
    mx.eval(W)
    return _Holder(model)


@decoder("dramabox_48khz_amp", (1, 2, None, 64), gain=1.0, part=8)
def dramabox_amp(part: int = 1) -> nn.Module:
    """mlx_audio.tts.models.dramabox.vocoder, its extension to 48 kHz by itself."""
    from mlx_audio.tts.models.dramabox.vocoder import Vocoder

    blocks: dict[str, Any] = {"resblock": "AMP1", "activation": "snakebeta"}
    ends = {"use_tanh_at_final": False, "use_bias_at_final": False}
    return Vocoder(None, *HIGH_RATE, None, 512 // part, **blocks, **ends)


@decoder("dramabox_24khz_hifigan", (1, 2, None, 64), gain=1.2, part=8)
def dramabox_hifigan(part: int = 1) -> nn.Module:
    """The same class with HiFi-GAN's blocks, as its defaults have it."""
    from mlx_audio.tts.models.dramabox.vocoder import Vocoder

    return Vocoder(upsample_initial_channel=1024 // part)


@decoder("melotts_hifigan_v3", (1, 192, None), gain=1.2)
def melotts_v3() -> nn.Module:
    """MeloTTS's generator with the residual blocks and sizes of HiFi-GAN V3, without a speaker."""
    from mlx_audio.tts.models.melotts.hifigan import Generator

    return Generator(192, "2", [3, 5, 7], [[1, 2], [2, 6], [3, 12]], [8, 8, 4], 256, [16, 16, 8])


@decoder("encodec_48khz", (1, None, 128), gain=1.0)
def encodec_48khz() -> nn.Module:
    """Encodec's decoder as facebook/encodec_48khz: stereo, not causal, with norms over time."""
    from mlx_audio.codec.models.encodec.encodec import EncodecConfig, EncodecDecoder

    ends = {"audio_channels": 2, "use_causal_conv": False, "norm_type": "time_group_norm"}
    return EncodecDecoder(EncodecConfig(upsampling_ratios=[8, 5, 4, 2], **ends))


@decoder("encodec_not_causal", (1, None, 128), gain=1.0)
def encodec_not_causal() -> nn.Module:
    """Encodec's decoder as facebook/encodec_32khz: padded on both sides, without norms."""
    from mlx_audio.codec.models.encodec.encodec import EncodecConfig, EncodecDecoder

    rest: dict[str, Any] = {"num_filters": 64, "use_causal_conv": False, "sampling_rate": 32000}
    return EncodecDecoder(EncodecConfig(upsampling_ratios=[8, 5, 4, 4], **rest))


@decoder("dac_24khz", (1, None, 1024), gain=0.85, part=8)
def dac_24khz(part: int = 1) -> nn.Module:
    """Descript's decoder as descript/dac_24khz: one of its strides is odd."""
    from mlx_audio.codec.models.descript.dac import Decoder

    return Decoder(1024, 1536 // part, [8, 5, 4, 2])


@decoder("snac_without_noise", (1, None, 768), gain=0.7, part=8)
def snac_without_noise(part: int = 1) -> nn.Module:
    """SNAC's decoder without its noise blocks and with plain convolutions."""
    from mlx_audio.codec.models.snac.layers import Decoder

    return Decoder(768, 1024 // part, [8, 8, 4, 2], noise=False, attn_window_size=None)


@decoder("mimi_seanet", (1, 512, None), gain=1.2)
def mimi_seanet() -> nn.Module:
    """mlx_audio.codec.models.mimi, its decoder behind the transformer, as kyutai/mimi."""
    from mlx_audio.codec.models.mimi.mimi import mimi_202407
    from mlx_audio.codec.models.mimi.modules.seanet import SeanetDecoder

    return SeanetDecoder(mimi_202407(32).seanet)


@decoder("mimi_upsample", (1, 512, None), gain=1.2)
def mimi_upsample() -> nn.Module:
    """mlx_audio.codec.models.mimi, its transposed convolution ahead of the transformer."""
    from mlx_audio.codec.models.mimi.modules.conv import ConvTrUpsample1d

    return ConvTrUpsample1d(2, dim=512, causal=True)


@decoder("pocket_tts_mimi", (1, 512, None), gain=1.2)
def pocket_tts() -> Made:
    """mlx_audio.tts.models.pocket_tts.mimi, decoding latents, as kyutai/pocket-tts."""
    from mlx_audio.tts.models.pocket_tts.config import MimiConfig
    from mlx_audio.tts.models.pocket_tts.mimi import MimiAdapter

    sizes: dict[str, Any] = {"dimension": 512, "channels": 1, "n_filters": 64, "compress": 2}
    sizes |= {"n_residual_layers": 1, "ratios": [6, 5, 4], "dilation_base": 2}
    sizes |= {"kernel_size": 7, "residual_kernel_size": 3, "last_kernel_size": 3}
    blocks = {"d_model": 512, "num_heads": 8, "num_layers": 2, "layer_scale": 0.01}
    blocks |= {"context": 250, "dim_feedforward": 2048}
    sizes |= {f"transformer_{name}": value for name, value in blocks.items()}
    sizes |= {"quantizer_dimension": 32, "quantizer_output_dimension": 512}
    sizes |= {"sample_rate": 24000, "frame_rate": 12.5, "encoder_enabled": False}
    model = MimiAdapter.from_config(MimiConfig.from_dict(sizes))
    return model, model.decode_from_latent


@decoder("higgs_audio_dac", (1, None, 256), gain=0.75)
def higgs_audio() -> nn.Module:
    """mlx_audio.codec.models.higgs_audio, its acoustic decoder, whose sizes are fixed there."""
    from mlx_audio.codec.models.higgs_audio.dac import AcousticDecoder

    return AcousticDecoder()


@decoder("voxcpm2_48khz", (1, None, 64), gain=0.9, part=8)
def voxcpm2(part: int = 1) -> Made:
    """mlx_audio.tts.models.voxcpm2.audio_vae, its decoder at 48 kHz, as its config has it."""
    from mlx_audio.tts.models.voxcpm2.audio_vae import CausalDecoder
    from mlx_audio.tts.models.voxcpm2.config import AudioVAEConfig

    config = AudioVAEConfig()
    sizes = (config.latent_dim, config.decoder_dim // part, config.decoder_rates)
    bins = config.sr_bin_boundaries
    model = CausalDecoder(*sizes, depthwise=True, sr_bin_boundaries=bins)
    return model, lambda latents: model(latents, mx.array(48000))


@decoder("voxtral_tts_tokenizer", (1, None, 37), gain=0.9, codes=21, part=2)
def voxtral_tts(part: int = 1) -> Made:
    """mlx_audio.tts.models.voxtral_tts, decoding codes; narrow with half of the layers."""
    from mlx_audio.tts.models.voxtral_tts import audio_tokenizer

    layers = ",".join(["2" if part == 1 else "1"] * 4)
    args = audio_tokenizer.AudioTokenizerArgs(decoder_transformer_lengths_str=layers)
    model = audio_tokenizer.VoxtralTTSAudioTokenizer(args)
    for module in model.modules():  # zeros, under names that `decoders.draw` does not know
        if isinstance(module, audio_tokenizer.WeightNormConv):
            shape = module.parametrizations["weight"]["original1"].shape
            module.parametrizations["weight"]["original1"] = mx.random.normal(shape)
        if isinstance(module, audio_tokenizer.SemanticCodebook):
            module.embedding_sum = mx.random.normal(module.embedding_sum.shape)
    return model, lambda codes: model.decode(codes + 2)  # the first two are no sound


@decoder("arktts_decoder", (1, None, 1024), gain=0.85, part=8)
def arktts_decoder(part: int = 1) -> nn.Module:
    """mlx_audio.tts.models.arktts.codec, its decoder behind the transformer."""
    from mlx_audio.tts.models.arktts.codec import ArkttsDecoder

    return ArkttsDecoder() if part == 1 else narrow_arktts(part)


@decoder("qwen3_tts_behind_transformer", (1, None, 1024), gain=0.9, part=8)
def qwen3_tts_decoder(part: int = 1) -> Made:
    """mlx_audio.tts.models.qwen3_tts, what stands behind the transformer of its tokenizer."""
    from mlx_audio.tts.models.qwen3_tts.config import Qwen3TTSTokenizerDecoderConfig
    from mlx_audio.tts.models.qwen3_tts.speech_tokenizer import Qwen3TTSSpeechTokenizerDecoder

    config = Qwen3TTSTokenizerDecoderConfig()
    config.decoder_dim //= part
    model = Qwen3TTSSpeechTokenizerDecoder(config)
    stages = [*[layer for block in model.upsample for layer in block], *model.decoder]

    def run(x: mx.array) -> mx.array:
        for stage in stages:
            x = stage(x)
        return x

    return model, run


@decoder("spark_wave_generator", (1, 1024, None), gain=0.85, part=8)
def spark(part: int = 1) -> nn.Module:
    """mlx_audio.tts.models.spark, its wave generator, as SparkAudio/Spark-TTS-0.5B."""
    from mlx_audio.tts.models.spark.modules.encoder_decoder.wave_generator import WaveGenerator

    return WaveGenerator(1024, 1536 // part, [8, 5, 4, 2], [16, 11, 8, 4])


@decoder("spark_upsample", (1, 384, None), gain=0.85)
def spark_upsample() -> nn.Module:
    """mlx_audio.tts.models.spark, its sampling block, which repeats frames in a Python loop."""
    from mlx_audio.tts.models.spark.modules.blocks.sampler import SamplingBlock

    return SamplingBlock(384, groups=384, upsample_scale=2)
