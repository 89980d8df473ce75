"""The audio models of mlx-audio that upsample by transposed convolutions, to run whole.

`MODELS` has a factory by name. Each returns a module, the smallest that holds a model's transposed
convolutions and can be run, and a function that runs it once on a short random input and returns
the audio, evaluated. Layers are as large as in the published model; weights are random. The same
numbers come out of every run. Needs mlx-audio (written for 0.6.2), which a factory imports when it
is called.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, TypeAlias

import mlx.core as mx
import mlx.nn as nn

Run: TypeAlias = "Callable[[], mx.array]"
Factory: TypeAlias = "Callable[[], tuple[nn.Module, Run]]"

MODELS: dict[str, Factory] = {}

# The residual blocks of HiFi-GAN V1, which many vocoders have kept.
_KERNELS = [3, 7, 11]
_DILATIONS = [[1, 3, 5]] * 3


def _model(name: str, gain: float | None = None) -> Callable[[Factory], Factory]:
    """Enters a factory in `MODELS`, seeded, and with a gain its convolutions drawn with it."""

    def enter(factory: Factory) -> Factory:
        @functools.wraps(factory)
        def seeded() -> tuple[nn.Module, Run]:
            mx.random.seed(0)
            model, run = factory()
            if gain is not None:
                _draw(model, gain)
            model.eval()
            mx.eval(model.parameters())  # not in the first run

            def evaluated() -> mx.array:
                mx.random.seed(1)  # of the noise that some models add to their signal
                audio = run()
                mx.eval(audio)
                return audio

            return model, evaluated

        MODELS[name] = seeded
        return seeded

    return enter


def _noise(*shape: int) -> mx.array:
    """An input: a spectrogram, or what a model has instead."""
    return mx.random.normal(shape, key=mx.random.key(2))


def _codes(size: int, *shape: int) -> mx.array:
    """An input of indices into codebooks."""
    return mx.random.randint(0, size, shape, key=mx.random.key(2))


def _draw(model: nn.Module, gain: float) -> None:
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


@_model("bigvgan_44khz_128", gain=0.9)
def bigvgan() -> tuple[nn.Module, Run]:
    """mlx_audio.codec.models.bigvgan, as nvidia/bigvgan_v2_44khz_128band_512x."""
    from mlx_audio.codec.models.bigvgan.bigvgan import BigVGAN, BigVGANConfig

    rates, sizes = [8, 4, 2, 2, 2, 2], [16, 8, 4, 4, 4, 4]
    blocks = ("1", _KERNELS, _DILATIONS, "snakebeta", True)
    config = BigVGANConfig(128, rates, sizes, 1536, *blocks, False, False)
    model, mel = BigVGAN(config), _noise(1, 128, 3)
    return model, lambda: model(mel)


@_model("encodec_24khz", gain=1.0)
def encodec() -> tuple[nn.Module, Run]:
    """mlx_audio.codec.models.encodec, its decoder, as facebook/encodec_24khz."""
    from mlx_audio.codec.models.encodec.encodec import EncodecConfig, EncodecDecoder

    model = EncodecDecoder(EncodecConfig(upsampling_ratios=[8, 5, 4, 2]))
    latents = _noise(1, 100, 128)
    return model, lambda: model(latents)


@_model("dac_44khz", gain=0.85)
def dac() -> tuple[nn.Module, Run]:
    """mlx_audio.codec.models.descript, its decoder, as descript/dac_44khz."""
    from mlx_audio.codec.models.descript.dac import Decoder

    model, latents = Decoder(1024, 1536, [8, 8, 4, 2]), _noise(1, 4, 1024)
    return model, lambda: model(latents)


@_model("snac_24khz", gain=0.7)
def snac() -> tuple[nn.Module, Run]:
    """mlx_audio.codec.models.snac, its decoder, as hubertsiuzdak/snac_24khz."""
    from mlx_audio.codec.models.snac.layers import Decoder

    model = Decoder(768, 1024, [8, 8, 4, 2], noise=True, depthwise=True, attn_window_size=None)
    latents = _noise(1, 8, 768)
    return model, lambda: model(latents)


@_model("mimi", gain=1.2)
def mimi() -> tuple[nn.Module, Run]:
    """mlx_audio.codec.models.mimi, decoding latents, as kyutai/mimi (`mimi_202407`)."""
    from mlx_audio.codec.models.mimi.mimi import Mimi, mimi_202407

    model, latents = Mimi(mimi_202407(32)), _noise(1, 512, 10)

    def run() -> mx.array:
        cache = model.decoder_transformer.make_cache()
        return model.decoder(model.decoder_transformer(model.upsample(latents), cache=cache)[0])

    return model, run


@_model("dacvae", gain=0.9)
def dacvae() -> tuple[nn.Module, Run]:
    """mlx_audio.codec.models.dacvae, its decoder without a watermark, as `DACVAEConfig` has it."""
    from mlx_audio.codec.models.dacvae.codec import DACVAEConfig, Decoder

    config = DACVAEConfig()
    model = Decoder(config.latent_dim, config.decoder_dim, config.decoder_rates)
    latents = _noise(1, 2, config.latent_dim)
    return model, lambda: model.decode_with_watermark(model(latents))


@_model("kokoro_82m", gain=0.6)
def kokoro() -> tuple[nn.Module, Run]:
    """mlx_audio.tts.models.kokoro.istftnet, its decoder, as hexgrad/Kokoro-82M."""
    from mlx_audio.tts.models.kokoro.istftnet import Decoder

    sizes: dict[str, Any] = {"upsample_rates": [10, 6], "upsample_kernel_sizes": [20, 12]}
    blocks = {"resblock_kernel_sizes": _KERNELS, "resblock_dilation_sizes": _DILATIONS}
    istft = {"gen_istft_n_fft": 20, "gen_istft_hop_size": 5}
    model = Decoder(512, 128, 80, upsample_initial_channel=512, **sizes, **blocks, **istft)
    text, loudness, style = _noise(1, 512, 10), _noise(1, 20), _noise(1, 128)
    pitch = mx.linspace(150.0, 250.0, 20)[None]  # in Hz, voiced
    return model, lambda: model(text, pitch, loudness, style)


@_model("chatterbox_hift")
def chatterbox() -> tuple[nn.Module, Run]:
    """mlx_audio.tts.models.chatterbox.s3gen, its HiFT generator, as ResembleAI/chatterbox."""
    from mlx_audio.tts.models.chatterbox.s3gen.f0_predictor import ConvRNNF0Predictor
    from mlx_audio.tts.models.chatterbox.s3gen.hifigan import HiFTGenerator

    model = HiFTGenerator(
        sampling_rate=24000,
        upsample_rates=[8, 5, 3],
        upsample_kernel_sizes=[16, 11, 7],
        source_resblock_kernel_sizes=[7, 7, 11],
        source_resblock_dilation_sizes=_DILATIONS,
        f0_predictor=ConvRNNF0Predictor(),
    )
    model.f0_predictor.classifier.bias = mx.array([200.0])  # Hz: voiced, whatever the weights
    mel = _noise(1, 80, 20)
    return model, lambda: model(mel)[0]


@_model("voxcpm_44khz", gain=0.9)
def voxcpm() -> tuple[nn.Module, Run]:
    """mlx_audio.tts.models.voxcpm.audio_vae, its decoder, as its config has it (44.1 kHz)."""
    from mlx_audio.tts.models.voxcpm.audio_vae import CausalDecoder
    from mlx_audio.tts.models.voxcpm.config import AudioVAEConfig

    config = AudioVAEConfig()
    sizes = (config.latent_dim, config.decoder_dim, config.decoder_rates)
    model, latents = CausalDecoder(*sizes, depthwise=True), _noise(1, 3, config.latent_dim)
    return model, lambda: model(latents)


@_model("longcat_audiodit_vae", gain=0.5)
def longcat() -> tuple[nn.Module, Run]:
    """mlx_audio.tts.models.longcat_audiodit.vae, its decoder, as `VaeConfig` has it."""
    from mlx_audio.tts.models.longcat_audiodit.config import VaeConfig
    from mlx_audio.tts.models.longcat_audiodit.vae import VaeDecoder

    config = VaeConfig()
    model, latents = VaeDecoder(config), _noise(1, 2, config.latent_dim)
    return model, lambda: model(latents)


@_model("fish_s1_dac_44khz", gain=0.8)
def fish_s1_dac() -> tuple[nn.Module, Run]:
    """mlx_audio.codec.models.fish_s1_dac, its decoder, as `build_ae` has it."""
    from mlx_audio.codec.models.fish_s1_dac.fish_s1_dac import Decoder

    model, latents = Decoder(1024, 1536, [8, 8, 4, 2], causal=True), _noise(1, 1024, 4)
    return model, lambda: model(latents)


@_model("qwen3_tts_12hz", gain=0.9)
def qwen3_tts() -> tuple[nn.Module, Run]:
    """mlx_audio.tts.models.qwen3_tts, decoder of its speech tokenizer, as its config has it."""
    from mlx_audio.tts.models.qwen3_tts.config import Qwen3TTSTokenizerDecoderConfig
    from mlx_audio.tts.models.qwen3_tts.speech_tokenizer import Qwen3TTSSpeechTokenizerDecoder

    config = Qwen3TTSTokenizerDecoderConfig()
    model = Qwen3TTSSpeechTokenizerDecoder(config)
    codes = _codes(config.codebook_size, 1, config.num_quantizers, 2)
    return model, lambda: model(codes)


@_model("dramabox_vocoder", gain=0.75)
def dramabox() -> tuple[nn.Module, Run]:
    """mlx_audio.tts.models.dramabox.vocoder, with its extension to 48 kHz, as it is built there."""
    from mlx_audio.tts.models.dramabox.vocoder import build_dramabox_vocoder

    model, mel = build_dramabox_vocoder(), _noise(1, 2, 4, 64)
    # Zeros until a checkpoint is loaded: the extension would not hear the vocoder.
    model.mel_stft.mel_basis = mx.random.uniform(shape=(64, 257))
    model.mel_stft.stft_fn.forward_basis = mx.random.normal((514, 1, 512))
    return model, lambda: model(mel)


@_model("vibevoice_acoustic", gain=1.2)
def vibevoice() -> tuple[nn.Module, Run]:
    """mlx_audio.tts.models.vibevoice.acoustic_tokenizer, its decoder, as its config has it."""
    from mlx_audio.tts.models.vibevoice.acoustic_tokenizer import TokenizerDecoder
    from mlx_audio.tts.models.vibevoice.config import AcousticTokenizerConfig

    config = AcousticTokenizerConfig()
    model, latents = TokenizerDecoder(config), _noise(1, config.vae_dim, 5)
    return model, lambda: model(latents)


@_model("melotts_hifigan", gain=1.2)
def melotts() -> tuple[nn.Module, Run]:
    """mlx_audio.tts.models.melotts.hifigan, as myshell-ai/MeloTTS-English."""
    from mlx_audio.tts.models.melotts.hifigan import Generator

    rates, sizes = [8, 8, 2, 2, 2], [16, 16, 8, 2, 2]
    model = Generator(192, "1", _KERNELS, _DILATIONS, rates, 512, sizes, gin_channels=256)
    latents, speaker = _noise(1, 192, 16), _noise(1, 256, 1)
    return model, lambda: model(latents, speaker)


@_model("tada_dac_24khz", gain=0.8)
def tada() -> tuple[nn.Module, Run]:
    """mlx_audio.tts.models.tada.codec, its DAC decoder, as its defaults have it."""
    from mlx_audio.tts.models.tada.codec import DACDecoder

    model, latents = DACDecoder(), _noise(1, 10, 1024)
    return model, lambda: model(latents)


@_model("minimax_music3_vocoder", gain=0.85)
def minimax_music3() -> tuple[nn.Module, Run]:
    """mlx_audio.music.models.minimax_music3.vocoder, in stereo, as its config has it."""
    from mlx_audio.music.models.minimax_music3.config import ModelConfig
    from mlx_audio.music.models.minimax_music3.vocoder import Vocoder

    model, latents = Vocoder(ModelConfig()), _noise(1, 128, 3)
    return model, lambda: model(latents)


@_model("arktts_codec_44khz", gain=0.85)
def arktts() -> tuple[nn.Module, Run]:
    """mlx_audio.tts.models.arktts.codec, decoding codes, whose sizes are fixed there."""
    from mlx_audio.tts.models.arktts.codec import ArkttsCodec

    model, codes = ArkttsCodec(), _codes(1024, 1, 10, 2)
    return model, lambda: model.decode(codes)


@_model("nemotron_voicechat_codec")
def nemotron() -> tuple[nn.Module, Run]:
    """mlx_audio.codec.models.nemotron_voicechat, decoding latents, as its config has it."""
    from mlx_audio.codec.models.nemotron_voicechat.codec import NemotronVoiceChatCodec

    model, latents = NemotronVoiceChatCodec(), _noise(1, 5, 512)
    return model, lambda: model.decode_latents(latents)
