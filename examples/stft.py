"""Short-time Fourier transform and its inverse in MLX, framed as mel.py frames a clip.

Answers: which complex spectrum has a waveform, and which waveform comes closest to a spectrum that
is none's? The inverse, real and imaginary parts to samples, is one transposed convolution.
"""

from __future__ import annotations

import mlx.core as mx
import numpy as np
from mel import HOP, N_FFT, PADDING, WINDOW

import polyconv

BINS = N_FFT // 2 + 1


def synthesis_weight() -> mx.array:
    """The windowed inverse DFT as a weight of ``conv_transpose1d``.

    A frame of the inverse DFT of a real signal is
    ``x[k] = (X[0] + (-1)^k X[N/2] + 2 sum over 0 < f < N/2 of Re X[f] e^(2 pi i f k / N)) / N``:
    linear in real and imaginary parts, so a matrix of N rows. A transposed convolution of stride
    HOP puts its products with each frame HOP samples apart and adds them, which is overlap-add.

    Returns:
        Array of shape (1, N_FFT, 2 * BINS), channels being real parts, then imaginary parts.
    """
    f, k = np.arange(BINS), np.arange(N_FFT)[:, None]
    angle = 2 * np.pi / N_FFT * (f * k % N_FFT)  # the remainder keeps the angles exact
    twice = np.where((f == 0) | (f == N_FFT // 2), 1.0, 2.0) / N_FFT
    real, imag = twice * np.cos(angle), -twice * np.sin(angle)
    weight = WINDOW[:, None] * np.concatenate([real, imag], axis=1)
    return mx.array(weight[None].astype(np.float32))


class InverseSTFT:
    """Least-squares inverse of :func:`stft`: windowed overlap-add over the windows' energy.

    Of all waveforms it gives the one whose spectrum is nearest to the argument (Griffin and Lim
    1984, "Signal estimation from modified short-time Fourier transform", their LSEE-MSTFT), as
    far as frames do not reach over the ends. Of a waveform's own spectrum that is the waveform.

    Args:
        frames: T, at least 4.
    """

    def __init__(self, frames: int) -> None:
        self.weight = polyconv.pack(synthesis_weight())
        squared = mx.array(np.square(WINDOW)[None, :, None].astype(np.float32))
        # 1.5, and 0.75 at the ends: padding crops the samples that lie at the edge of one window.
        self.energy = polyconv.conv_transpose1d(mx.ones((1, frames, 1)), squared, HOP, PADDING)

    def overlap_add(self, spectrum: mx.array) -> mx.array:
        """The transposed convolution alone, (1, T, 2 * BINS) to (1, T * HOP, 1)."""
        return polyconv.conv_transpose1d(spectrum, self.weight, HOP, PADDING)

    def native_overlap_add(self, spectrum: mx.array) -> mx.array:
        """The same by MLX's own op."""
        return mx.conv_transpose1d(spectrum, self.weight.array, HOP, PADDING)

    def __call__(self, spectrum: mx.array) -> mx.array:
        """Waveform of a spectrum.

        Args:
            spectrum: real parts, then imaginary parts, shape (1, T, 2 * BINS).

        Returns:
            Samples, shape (1, T * HOP, 1).
        """
        return self.overlap_add(spectrum) / self.energy


def stft(waveform: mx.array) -> mx.array:
    """Complex spectrum, by MLX's FFT.

    As a convolution from 1 to 1026 channels it would be as much arithmetic as the inverse; by FFT
    it took a tenth of the time on a CPU with OpenBLAS (docs/griffin_lim.md).

    Args:
        waveform: samples, shape (1, T * HOP, 1), of at least PADDING + 1 samples.

    Returns:
        Real parts, then imaginary parts, shape (1, T, 2 * BINS).
    """
    x = waveform.reshape(-1)
    # NumPy's "reflect": the first and the last sample are not repeated.
    x = mx.concatenate([x[PADDING:0:-1], x, x[-2 : -PADDING - 2 : -1]])
    frames = mx.as_strided(x, (1 + (x.size - N_FFT) // HOP, N_FFT), (HOP, 1))
    spectrum = mx.fft.rfft(frames * mx.array(WINDOW.astype(np.float32)))
    return mx.concatenate([spectrum.real, spectrum.imag], axis=-1)[None]


def magnitude(spectrum: mx.array) -> mx.array:
    """Magnitudes of what :func:`stft` returns, shape (1, T, BINS)."""
    return mx.sqrt(mx.square(spectrum[..., :BINS]) + mx.square(spectrum[..., BINS:]))
