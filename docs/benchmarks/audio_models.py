"""The audio models of mlx-audio that upsample by transposed convolutions, to run whole.

`MODELS` has a factory by name. Each returns a module, the smallest that holds a model's transposed
convolutions and can be run, and a function that runs it once on a short random input and returns
the audio, evaluated. Layers are as large as in the published model; weights are random. The same
numbers come out of every run. Needs mlx-audio (written for 0.6.2), which a factory imports when it
is called. The factories enter the same models in `decoders.DECODERS`, as functions of one array.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import mlx.core as mx
import mlx.nn as nn
from decoders import DECODERS, Entry, Function, decoder, noise

Run: TypeAlias = "Callable[[], mx.array]"
Factory: TypeAlias = "Callable[[], tuple[nn.Module, Run]]"
Made: TypeAlias = "tuple[nn.Module, Function]"

# The residual blocks of HiFi-GAN V1, which many vocoders have kept.
KERNELS = [3, 7, 11]
DILATIONS = [[1, 3, 5]] * 3


@decoder("bigvgan_44khz_128", (1, 128, None), frames=3, gain=0.9, part=8)
def bigvgan(part: int = 1) -> nn.Module:
    """mlx_audio.codec.models.bigvgan, as nvidia/bigvgan_v2_44khz_128band_512x."""
    from mlx_audio.codec.models.bigvgan.bigvgan import BigVGAN, BigVGANConfig

    rates, sizes = [8, 4, 2, 2, 2, 2], [16, 8, 4, 4, 4, 4]
    blocks = ("1", KERNELS, DILATIONS, "snakebeta", True)
    return BigVGAN(BigVGANConfig(128, rates, sizes, 1536 // part, *blocks, False, False))


@decoder("encodec_24khz", (1, None, 128), frames=100, gain=1.0)
def encodec() -> nn.Module:
    """mlx_audio.codec.models.encodec, its decoder, as facebook/encodec_24khz."""
    from mlx_audio.codec.models.encodec.encodec import EncodecConfig, EncodecDecoder

    return EncodecDecoder(EncodecConfig(upsampling_ratios=[8, 5, 4, 2]))


@decoder("dac_44khz", (1, None, 1024), frames=4, gain=0.85, part=8)
def dac(part: int = 1) -> nn.Module:
    """mlx_audio.codec.models.descript, its decoder, as descript/dac_44khz."""
    from mlx_audio.codec.models.descript.dac import Decoder

    return Decoder(1024, 1536 // part, [8, 8, 4, 2])


@decoder("snac_24khz", (1, None, 768), frames=8, gain=0.7, part=8, noisy=True)
def snac(part: int = 1) -> nn.Module:
    """mlx_audio.codec.models.snac, its decoder, as hubertsiuzdak/snac_24khz."""
    from mlx_audio.codec.models.snac.layers import Decoder

    sizes = (768, 1024 // part, [8, 8, 4, 2])
    return Decoder(*sizes, noise=True, depthwise=True, attn_window_size=None)


@decoder("mimi", (1, 512, None), frames=10, gain=1.2)
def mimi() -> Made:
    """mlx_audio.codec.models.mimi, decoding latents, as kyutai/mimi (`mimi_202407`)."""
    from mlx_audio.codec.models.mimi.mimi import Mimi, mimi_202407

    model = Mimi(mimi_202407(32))

    def run(latents: mx.array) -> mx.array:
        cache = model.decoder_transformer.make_cache()
        return model.decoder(model.decoder_transformer(model.upsample(latents), cache=cache)[0])

    return model, run


@decoder("dacvae", (1, None, 1024), frames=2, gain=0.9, part=16)
def dacvae(part: int = 1) -> Made:
    """mlx_audio.codec.models.dacvae, its decoder without a watermark, as `DACVAEConfig` has it."""
    from mlx_audio.codec.models.dacvae.codec import DACVAEConfig, Decoder

    config = DACVAEConfig()
    model = Decoder(config.latent_dim, config.decoder_dim // part, config.decoder_rates)
    return model, lambda latents: model.decode_with_watermark(model(latents))


def text_and_curves(frames: int) -> mx.array:
    """Text in 512 channels, then the pitch (in Hz, voiced) and the loudness, two values a frame."""
    pitch = mx.linspace(150.0, 250.0, 2 * frames).reshape(1, frames, 2)
    curves = mx.concatenate([pitch, noise(1, 2 * frames).reshape(1, frames, 2)], axis=2)
    return mx.concatenate([noise(1, 512, frames), curves.transpose(0, 2, 1)], axis=1)


def apart(x: mx.array) -> tuple[mx.array, mx.array, mx.array]:
    """Text, pitch and loudness of an input of `text_and_curves`."""
    text, pitch, loudness = mx.split(x, [512, 514], axis=1)
    return text, pitch.transpose(0, 2, 1).reshape(1, -1), loudness.transpose(0, 2, 1).reshape(1, -1)


def kokoro_sized(decoder: Callable[..., nn.Module]) -> Made:
    """A decoder of the kind of Kokoro-82M's, at its sizes, and a style."""
    sizes: dict[str, Any] = {"upsample_rates": [10, 6], "upsample_kernel_sizes": [20, 12]}
    blocks = {"resblock_kernel_sizes": KERNELS, "resblock_dilation_sizes": DILATIONS}
    istft = {"gen_istft_n_fft": 20, "gen_istft_hop_size": 5}
    model = decoder(512, 128, 80, upsample_initial_channel=512, **sizes, **blocks, **istft)
    style = noise(1, 128)
    return model, lambda x: model(*apart(x), style)


@decoder("kokoro_82m", (1, 516, None), frames=10, gain=0.6, example=text_and_curves, noisy=True)
def kokoro() -> Made:
    """mlx_audio.tts.models.kokoro.istftnet, its decoder, as hexgrad/Kokoro-82M."""
    from mlx_audio.tts.models.kokoro.istftnet import Decoder

    return kokoro_sized(Decoder)


@decoder("chatterbox_hift", (1, 80, None), frames=20, noisy=True)
def chatterbox() -> Made:
    """mlx_audio.tts.models.chatterbox.s3gen, its HiFT generator, as ResembleAI/chatterbox."""
    from mlx_audio.tts.models.chatterbox.s3gen.f0_predictor import ConvRNNF0Predictor
    from mlx_audio.tts.models.chatterbox.s3gen.hifigan import HiFTGenerator

    model = HiFTGenerator(
        sampling_rate=24000,
        upsample_rates=[8, 5, 3],
        upsample_kernel_sizes=[16, 11, 7],
        source_resblock_kernel_sizes=[7, 7, 11],
        source_resblock_dilation_sizes=DILATIONS,
        f0_predictor=ConvRNNF0Predictor(),
    )
    model.f0_predictor.classifier.bias = mx.array([200.0])  # Hz: voiced, whatever the weights
    return model, lambda mel: model(mel)[0]


@decoder("voxcpm_44khz", (1, None, 64), frames=3, gain=0.9, part=8, narrow_gain=0.8)
def voxcpm(part: int = 1) -> nn.Module:
    """mlx_audio.tts.models.voxcpm.audio_vae, its decoder, as its config has it (44.1 kHz)."""
    from mlx_audio.tts.models.voxcpm.audio_vae import CausalDecoder
    from mlx_audio.tts.models.voxcpm.config import AudioVAEConfig

    config = AudioVAEConfig()
    sizes = (config.latent_dim, config.decoder_dim // part, config.decoder_rates)
    return CausalDecoder(*sizes, depthwise=True)


@decoder("longcat_audiodit_vae", (1, None, 64), frames=2, gain=0.5, part=8)
def longcat(part: int = 1) -> nn.Module:
    """mlx_audio.tts.models.longcat_audiodit.vae, its decoder, as `VaeConfig` has it."""
    from mlx_audio.tts.models.longcat_audiodit.config import VaeConfig
    from mlx_audio.tts.models.longcat_audiodit.vae import VaeDecoder

    config = VaeConfig()
    config.channels //= part
    return VaeDecoder(config)


@decoder("fish_s1_dac_44khz", (1, 1024, None), frames=4, gain=0.8, part=8)
def fish_s1_dac(part: int = 1) -> nn.Module:
    """mlx_audio.codec.models.fish_s1_dac, its decoder, as `build_ae` has it."""
    from mlx_audio.codec.models.fish_s1_dac.fish_s1_dac import Decoder

    return Decoder(1024, 1536 // part, [8, 8, 4, 2], causal=True)


@decoder("qwen3_tts_12hz", (1, 16, None), frames=2, gain=0.9, codes=2048, part=8)
def qwen3_tts(part: int = 1) -> nn.Module:
    """mlx_audio.tts.models.qwen3_tts, decoder of its speech tokenizer, as its config has it."""
    from mlx_audio.tts.models.qwen3_tts.config import Qwen3TTSTokenizerDecoderConfig
    from mlx_audio.tts.models.qwen3_tts.speech_tokenizer import Qwen3TTSSpeechTokenizerDecoder

    config = Qwen3TTSTokenizerDecoderConfig()
    config.decoder_dim //= part
    return Qwen3TTSSpeechTokenizerDecoder(config)


# Upsampling and kernel sizes of the two vocoders in it, which are built by a function.
LOW_RATE = ([5, 2, 2, 2, 2, 2], [11, 4, 4, 4, 4, 4])
HIGH_RATE = ([6, 5, 2, 2, 2], [12, 11, 4, 4, 4])


@decoder("dramabox_vocoder", (1, 2, None, 64), frames=4, gain=0.75, part=8)
def dramabox(part: int = 1) -> nn.Module:
    """mlx_audio.tts.models.dramabox.vocoder, with its extension to 48 kHz, as it is built there."""
    from mlx_audio.tts.models.dramabox import vocoder

    model = vocoder.build_dramabox_vocoder()
    if part > 1:  # both over again
        blocks: dict[str, Any] = {"resblock": "AMP1", "activation": "snakebeta"}
        blocks |= {"use_tanh_at_final": False, "use_bias_at_final": False}
        model.vocoder = vocoder.Vocoder(None, *LOW_RATE, None, 1536 // part, **blocks)
        model.bwe_generator = vocoder.Vocoder(None, *HIGH_RATE, None, 512 // part, **blocks)
    # Zeros until a checkpoint is loaded: the extension would not hear the vocoder.
    model.mel_stft.mel_basis = mx.random.uniform(shape=(64, 257))
    model.mel_stft.stft_fn.forward_basis = mx.random.normal((514, 1, 512))
    return model


@decoder("vibevoice_acoustic", (1, 64, None), frames=5, gain=1.2, part=8)
def vibevoice(part: int = 1) -> nn.Module:
    """mlx_audio.tts.models.vibevoice.acoustic_tokenizer, its decoder, as its config has it."""
    from mlx_audio.tts.models.vibevoice.acoustic_tokenizer import TokenizerDecoder
    from mlx_audio.tts.models.vibevoice.config import AcousticTokenizerConfig

    config = AcousticTokenizerConfig()
    if part > 1:
        config.decoder_n_filters = (config.decoder_n_filters or 32) // part
    return TokenizerDecoder(config)


@decoder("melotts_hifigan", (1, 192, None), frames=16, gain=1.2)
def melotts() -> Made:
    """mlx_audio.tts.models.melotts.hifigan, as myshell-ai/MeloTTS-English."""
    from mlx_audio.tts.models.melotts.hifigan import Generator

    rates, sizes = [8, 8, 2, 2, 2], [16, 16, 8, 2, 2]
    model = Generator(192, "1", KERNELS, DILATIONS, rates, 512, sizes, gin_channels=256)
    speaker = noise(1, 256, 1)
    return model, lambda latents: model(latents, speaker)


@decoder("tada_dac_24khz", (1, None, 1024), frames=10, gain=0.8, part=8)
def tada(part: int = 1) -> nn.Module:
    """mlx_audio.tts.models.tada.codec, its DAC decoder, as its defaults have it."""
    from mlx_audio.tts.models.tada.codec import DACDecoder

    return DACDecoder(96 // part)


@decoder("minimax_music3_vocoder", (1, 128, None), frames=3, gain=0.85, part=8)
def minimax_music3(part: int = 1) -> nn.Module:
    """mlx_audio.music.models.minimax_music3.vocoder, in stereo, as its config has it."""
    from mlx_audio.music.models.minimax_music3.config import ModelConfig
    from mlx_audio.music.models.minimax_music3.vocoder import Vocoder

    config = ModelConfig()
    config.vocoder_hidden_dim //= part
    return Vocoder(config)


def narrow_arktts(part: int) -> nn.Module:
    """Its decoder behind the transformer, with fewer channels than it has there."""
    from mlx_audio.tts.models.arktts import codec

    sizes = [1536 // part // 2**stage for stage in range(5)]
    blocks = map(codec.ArkttsDecoderBlock, sizes, sizes[1:], (8, 8, 4, 2))
    first = codec.ArkttsCausalConv1d(1024, sizes[0], kernel_size=7)
    last = codec.ArkttsCausalConv1d(sizes[-1], 1, kernel_size=7)
    model = codec.ArkttsDecoder()
    model.model = [first, *blocks, codec.ArkttsSnake1d(sizes[-1]), last]
    return model


@decoder("arktts_codec_44khz", (1, 10, None), frames=2, gain=0.85, codes=1024, part=8)
def arktts(part: int = 1) -> Made:
    """mlx_audio.tts.models.arktts.codec, decoding codes, whose sizes are fixed there."""
    from mlx_audio.tts.models.arktts.codec import ArkttsCodec

    model = ArkttsCodec()
    model.decoder = narrow_arktts(part) if part > 1 else model.decoder
    return model, model.decode


@decoder("nemotron_voicechat_codec", (1, None, 512), frames=5, part=8)
def nemotron(part: int = 1) -> Made:
    """mlx_audio.codec.models.nemotron_voicechat, decoding latents, as its config has it."""
    from mlx_audio.codec.models.nemotron_voicechat import codec

    config = codec.NemotronVoiceChatCodecConfig()
    config.base_channels //= part
    model = codec.NemotronVoiceChatCodec(config)
    return model, model.decode_latents


def _whole(entry: Entry) -> Factory:
    def factory() -> tuple[nn.Module, Run]:
        model, function, example, _ = entry.build()

        def evaluated() -> mx.array:
            mx.random.seed(1)  # of the noise that some models add to their signal
            audio = function(example)
            mx.eval(audio)
            return audio

        return model, evaluated

    return factory


MODELS: dict[str, Factory] = {name: _whole(entry) for name, entry in DECODERS.items()}
