"""Makes mel_golden.npz: librosa's own answer for the bundled clip, kept as golden values.

Run once from the repository root, with librosa and soundfile installed:
``python tests/data/make_mel_golden.py``. The library and its tests do not need librosa.
"""

from __future__ import annotations

import librosa
import numpy as np
import soundfile

SAMPLES = 16384

samples, rate = soundfile.read("examples/data/speech.wav", dtype="float64")
padded = np.pad(samples[:SAMPLES], 384, mode="reflect")
spectrum = librosa.stft(padded, n_fft=1024, hop_length=256, win_length=1024, center=False)
magnitude = np.sqrt(spectrum.real**2 + spectrum.imag**2 + 1e-9)
filterbank = librosa.filters.mel(sr=rate, n_fft=1024, n_mels=80, fmin=0, fmax=8000)
log_mel = np.log(np.maximum(filterbank @ magnitude, 1e-5)).T
np.savez_compressed(
    "tests/data/mel_golden.npz",
    filterbank=filterbank.astype(np.float32),
    log_mel=log_mel.astype(np.float32),
    samples=SAMPLES,
    provenance=f"librosa {librosa.__version__}, python tests/data/make_mel_golden.py",
)
