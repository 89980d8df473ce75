"""Reads the speech clip that the vocoder example works on.

Answers: is this file a mono WAV at the rate the generator was trained for? Anything else is
refused in one sentence, since resampling or mixing down would change what is compared.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import soundfile
from mel import N_FFT, SAMPLE_RATE
from numpy.typing import NDArray

BUNDLED_CLIP = Path(__file__).resolve().parent / "data" / "speech.wav"


def read_speech(path: Path) -> NDArray[np.float32]:
    """Samples of a mono 22.05 kHz WAV.

    Args:
        path: the file.

    Returns:
        Samples in [-1, 1], shape (N,).

    Raises:
        ValueError: if it is not a WAV, is stereo, empty, too short for one analysis window,
            at another rate, or holds samples that are not finite.
        OSError: if it cannot be opened.
    """
    with path.open("rb") as file:
        try:
            with soundfile.SoundFile(file) as sound:
                kind, rate, channels = sound.format, sound.samplerate, sound.channels
                samples: NDArray[np.float32] = sound.read(dtype="float32")
        except soundfile.LibsndfileError as error:
            raise ValueError(f"{path} is not a readable WAV file ({error.error_string})") from error
    if kind not in ("WAV", "WAVEX", "RF64"):
        raise ValueError(f"{path} is {kind}, not WAV")
    if channels != 1:
        raise ValueError(f"{path} has {channels} channels; mix it down to one first")
    if rate != SAMPLE_RATE:
        raise ValueError(f"{path} is at {rate} Hz; resample it to {SAMPLE_RATE} Hz first")
    if len(samples) < N_FFT:
        raise ValueError(f"{path} has {len(samples)} samples; one analysis window needs {N_FFT}")
    if not np.isfinite(samples).all():
        raise ValueError(f"{path} holds samples that are not finite")
    return samples
