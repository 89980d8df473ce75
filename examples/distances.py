"""How far is a spectrogram from another?

Answers: by the same code for every waveform that is judged, how much of the magnitudes is missing,
and by how many decibels do mels and spectra differ?
"""

from __future__ import annotations

import mlx.core as mx
import numpy as np
from mel import FMAX, N_FFT, SAMPLE_RATE, FloatArray, log_mel, magnitudes
from numpy.typing import NDArray

DB_PER_NEPER = 20 / np.log(10)
# Linear spectra are compared down to so many dB below the reference's highest magnitude.
RANGE_DB = 80.0


def spectral_convergence(got: mx.array, target: mx.array) -> float:
    """Frobenius norm of the difference of magnitudes over that of the target; 0 is perfect."""
    missing = mx.sqrt(mx.square(got - target).sum() / mx.square(target).sum())
    return float(missing.item())


def log_spectral_distance(got_db: FloatArray, want_db: FloatArray) -> float:
    """``1/T sum_t sqrt(1/B sum_b (got[t, b] - want[t, b])^2)``, in dB.

    Root mean square over the B bands or bins of a frame (Gray and Markel 1976, "Distance measures
    for speech processing"), mean over the T frames.

    Args:
        got_db: levels in dB, shape (T, B).
        want_db: the reference's, the same shape.

    Returns:
        The distance in dB.
    """
    return float(np.sqrt(np.square(got_db - want_db).mean(axis=1)).mean())


def mel_distance(got: NDArray[np.float32], want: NDArray[np.float32]) -> float:
    """Log-spectral distance of the 80 mel bands, silence being -100 dB, the log-mel's floor.

    Args:
        got: samples, shape (N,).
        want: the reference's, the same shape.

    Returns:
        The distance in dB.
    """
    return log_spectral_distance(DB_PER_NEPER * log_mel(got), DB_PER_NEPER * log_mel(want))


def linear_distance(got: NDArray[np.float32], want: NDArray[np.float32]) -> float:
    """Log-spectral distance of the bins up to 8 kHz, where the mel ends, over a range of 80 dB.

    Args:
        got: samples, shape (N,).
        want: the reference's, the same shape.

    Returns:
        The distance in dB.
    """
    bins = int(FMAX * N_FFT / SAMPLE_RATE) + 1
    decibels = [DB_PER_NEPER * np.log(magnitudes(x)) for x in (got, want)]
    floor = decibels[1].max() - RANGE_DB
    return log_spectral_distance(*(np.maximum(x, floor)[:, :bins] for x in decibels))
