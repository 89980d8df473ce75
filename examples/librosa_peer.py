"""The same mel, made into sound by librosa: a second opinion on Griffin-Lim.

Answers: what does an independent library make of this mel? Needs librosa, which nothing else does.
"""

from __future__ import annotations

from types import ModuleType

import numpy as np
from mel import FMAX, FMIN, HOP, N_FFT, N_MELS, PADDING, SAMPLE_RATE
from numpy.typing import NDArray

MEL = {"sr": SAMPLE_RATE, "n_fft": N_FFT, "power": 1.0, "fmin": FMIN, "fmax": FMAX}
# mel.py pads by PADDING, so that librosa, told not to centre, has the same frames.
FRAMES = {"hop_length": HOP, "win_length": N_FFT, "window": "hann", "center": False}


def load() -> ModuleType:
    """librosa.

    Raises:
        ValueError: if it is not installed.
    """
    try:
        import librosa
    except ImportError as error:
        raise ValueError("--compare needs librosa: pip install librosa") from error
    return librosa  # type: ignore[no-any-return]


def mel(samples: NDArray[np.float32]) -> NDArray[np.float64]:
    """Mel magnitudes, shape (N // HOP, 80), of samples of shape (N,)."""
    padded = np.pad(samples.astype(np.float64), PADDING, mode="reflect")
    return load().feature.melspectrogram(y=padded, n_mels=N_MELS, **MEL, **FRAMES).T


def magnitudes_of_mel(log_mel: NDArray[np.float32]) -> NDArray[np.float32]:
    """Its non-negative least squares (L-BFGS-B): natural-log mel (T, 80) to (T, 513)."""
    return load().feature.inverse.mel_to_stft(np.exp(log_mel).T, **MEL).T


def griffin_lim(target: NDArray[np.float32], iterations: int, seed: int) -> NDArray[np.float32]:
    """Its Griffin-Lim (momentum 0.99, random phases): magnitudes (T, 513) to (T * HOP,).

    These two are what ``librosa.feature.inverse.mel_to_audio`` calls, which takes no seed.
    """
    sound = load().griffinlim(
        target.T, n_iter=iterations, n_fft=N_FFT, momentum=0.99, random_state=seed, **FRAMES
    )
    return np.asarray(sound[PADDING:-PADDING], np.float32)
