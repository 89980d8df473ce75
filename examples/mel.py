"""Log-mel spectrogram of a speech clip, as HiFi-GAN was trained to read it.

Answers: which numbers does the generator expect for this waveform? The parameters and
the order of operations are those of meldataset.py in the authors' repository
(jik876/hifi-gan), the code of Kong et al. 2020, arXiv:2010.05646.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

SAMPLE_RATE = 22050
N_FFT = 1024
HOP = 256
N_MELS = 80
FMIN = 0.0
FMAX = 8000.0

# Slaney's mel scale (Auditory Toolbox, 1998): linear at 200/3 Hz a mel below 1 kHz (mel 15),
# then 27 mels for every factor of 6.4 in frequency.
_HZ_PER_MEL = 200.0 / 3.0
_BREAK_HZ = 1000.0
_BREAK_MEL = _BREAK_HZ / _HZ_PER_MEL
_MELS_PER_NEPER = 27.0 / np.log(6.4)

FloatArray = NDArray[np.float64]

# The periodic Hann window (torch.hann_window's default), one sample longer than np.hanning's.
WINDOW: FloatArray = np.hanning(N_FFT + 1)[:-1]
# What the clip is extended by at each end, so that N samples have N // HOP frames.
PADDING = (N_FFT - HOP) // 2
LOG_FLOOR = 1e-5


def hz_to_mel(hz: FloatArray) -> FloatArray:
    """Slaney mel of a frequency.

    Args:
        hz: frequencies in Hz, any shape.

    Returns:
        Mels, the same shape.
    """
    hz = np.asarray(hz, np.float64)
    # The maximum keeps the logarithm's argument positive on the linear side.
    high = _BREAK_MEL + _MELS_PER_NEPER * np.log(np.maximum(hz, _BREAK_HZ) / _BREAK_HZ)
    return np.where(hz < _BREAK_HZ, hz / _HZ_PER_MEL, high)


def mel_to_hz(mel: FloatArray) -> FloatArray:
    """Inverse of :func:`hz_to_mel`.

    Args:
        mel: mels, any shape.

    Returns:
        Frequencies in Hz, the same shape.
    """
    mel = np.asarray(mel, np.float64)
    high = _BREAK_HZ * np.exp((mel - _BREAK_MEL) / _MELS_PER_NEPER)
    return np.where(mel < _BREAK_MEL, mel * _HZ_PER_MEL, high)


def mel_heights(hz: FloatArray) -> FloatArray:
    """Where frequencies lie between the ends of the mel, from 0 (FMIN) to 1 (FMAX)."""
    lowest, highest = hz_to_mel(np.array([FMIN, FMAX]))
    return (hz_to_mel(hz) - lowest) / (highest - lowest)


def mel_filterbank() -> FloatArray:
    """Triangular filters equally spaced on Slaney's scale, each with unit area in Hz.

    Returns:
        Array of shape (N_MELS, N_FFT // 2 + 1), one row a band.
    """
    lowest, highest = hz_to_mel(np.array([FMIN, FMAX]))
    edges = mel_to_hz(np.linspace(lowest, highest, N_MELS + 2))
    bins = np.arange(N_FFT // 2 + 1) * (SAMPLE_RATE / N_FFT)
    lower, centre, upper = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    rising = (bins - lower) / (centre - lower)
    falling = (upper - bins) / (upper - centre)
    triangles = np.maximum(0.0, np.minimum(rising, falling))
    # A triangle of height 1 has area (upper - lower) / 2.
    return triangles * (2.0 / (upper - lower))


def magnitudes(waveform: NDArray[np.float32]) -> FloatArray:
    """Magnitude of the short-time Fourier transform, of frames centred on each hop.

    Args:
        waveform: samples in [-1, 1], shape (N,).

    Returns:
        Array of shape (N // HOP, N_FFT // 2 + 1).

    Raises:
        ValueError: if ``waveform`` is not 1-D or is shorter than one analysis window.
    """
    if waveform.ndim != 1:
        raise ValueError(f"expected a mono waveform of shape (N,), not {waveform.shape}")
    if len(waveform) < N_FFT:
        raise ValueError(f"the clip has {len(waveform)} samples; one analysis window needs {N_FFT}")
    padded = np.pad(waveform.astype(np.float64), PADDING, mode="reflect")
    frames = np.lib.stride_tricks.sliding_window_view(padded, N_FFT)[::HOP]
    spectrum = np.fft.rfft(frames * WINDOW, axis=-1)
    return np.sqrt(spectrum.real**2 + spectrum.imag**2 + 1e-9)


def log_mel(waveform: NDArray[np.float32]) -> NDArray[np.float32]:
    """80-band log-mel spectrogram of a mono clip at 22.05 kHz.

    Args:
        waveform: samples in [-1, 1], shape (N,).

    Returns:
        Natural-log mel magnitudes, shape (N // HOP, N_MELS): time first, as MLX's
        convolutions want it.

    Raises:
        ValueError: as :func:`magnitudes` does.
    """
    mel = magnitudes(waveform) @ mel_filterbank().T
    return np.log(np.maximum(mel, LOG_FLOOR)).astype(np.float32)
