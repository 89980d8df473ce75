"""Does the example's log-mel agree with librosa and with torch.stft?

librosa's answer is kept as golden values (tests/data/mel_golden.npz, made by
make_mel_golden.py beside it); PyTorch's is computed here where it is installed.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("soundfile", reason="the examples read WAV files with soundfile")

REPOSITORY = Path(__file__).resolve().parents[2]
import mel  # noqa: E402
import speech  # noqa: E402

# Both references transform in float64; what is left is the float32 of the stored log-mel
# (about 1e-6 at -11.5) and of librosa's filterbank.
TOLERANCE = 5e-6


@pytest.fixture(scope="module")
def golden() -> dict[str, np.ndarray]:
    with np.load(REPOSITORY / "tests" / "data" / "mel_golden.npz") as arrays:
        return dict(arrays)


@pytest.fixture(scope="module")
def clip() -> np.ndarray:
    return speech.read_speech(REPOSITORY / "examples" / "data" / "speech.wav")


def test_filterbank_is_librosas(golden: dict[str, np.ndarray]) -> None:
    assert str(golden["provenance"]).startswith("librosa 0.")
    np.testing.assert_allclose(mel.mel_filterbank(), golden["filterbank"], atol=1e-8)


def test_log_mel_is_librosas(golden: dict[str, np.ndarray], clip: np.ndarray) -> None:
    got = mel.log_mel(clip[: int(golden["samples"])])
    assert got.shape == golden["log_mel"].shape == (64, 80)
    assert got.std() > 1.0  # speech, not silence that agrees at the clamp
    np.testing.assert_allclose(got, golden["log_mel"], atol=TOLERANCE)


def test_log_mel_is_torchs(clip: np.ndarray) -> None:
    torch = pytest.importorskip("torch", reason="needs PyTorch, whose STFT it is compared with")
    wave = torch.from_numpy(clip)[None, None].double()
    padded = torch.nn.functional.pad(wave, (384, 384), mode="reflect")[0]
    spectrum = torch.stft(
        padded,
        1024,
        hop_length=256,
        window=torch.hann_window(1024, dtype=torch.float64),
        center=False,
        return_complex=True,
    )
    magnitude = torch.sqrt(torch.view_as_real(spectrum).pow(2).sum(-1) + 1e-9)[0]
    bank = torch.from_numpy(mel.mel_filterbank())
    want = torch.log(torch.clamp(bank @ magnitude, min=1e-5)).T.numpy()
    np.testing.assert_allclose(mel.log_mel(clip), want, atol=TOLERANCE)


def test_scale_round_trips() -> None:
    hz = np.array([0.0, 440.0, 999.0, 1000.0, 1001.0, 6400.0, 8000.0])
    np.testing.assert_allclose(mel.mel_to_hz(mel.hz_to_mel(hz)), hz, rtol=1e-12)
    # Slaney: 1 kHz is mel 15, and 27 mels lie between 1 and 6.4 kHz.
    np.testing.assert_allclose(mel.hz_to_mel(np.array([1000.0, 6400.0])), [15.0, 42.0])


@pytest.mark.parametrize(("shape", "message"), [((2048, 2), "mono"), ((1023,), "1023 samples")])
def test_refuses_what_has_no_window(shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        mel.log_mel(np.zeros(shape, np.float32))
