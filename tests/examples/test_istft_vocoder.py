"""Is the inverse STFT one, does Griffin-Lim come as near as librosa's, is bad input refused?"""

from __future__ import annotations

import sys
from itertools import pairwise
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

for module in ("soundfile", "rich", "matplotlib"):
    pytest.importorskip(module, reason=f"the Griffin-Lim example needs {module}")
import distances  # noqa: E402
import griffin_lim  # noqa: E402
import istft_vocoder  # noqa: E402
import librosa_peer  # noqa: E402
import mel  # noqa: E402
import soundfile  # noqa: E402
import speech  # noqa: E402
import stft  # noqa: E402

from tests.support.refusals import file_is_refused  # noqa: E402

ITERATIONS = 32
HOP, N_FFT, PADDING = 256, 1024, 384


@pytest.fixture(scope="module")
def clip() -> np.ndarray:
    return istft_vocoder.read_clip(speech.BUNDLED_CLIP, None)


@pytest.fixture(scope="module")
def target(clip: np.ndarray) -> mx.array:
    return griffin_lim.magnitudes_of_mel(mel.log_mel(clip))


@pytest.fixture(scope="module")
def made(target: mx.array) -> griffin_lim.Reconstruction:
    return griffin_lim.griffin_lim(target, ITERATIONS)


# Of float32 sums of a thousand products, in whichever order a device adds them up.
ATOL = 1e-5


def _overlap_added(spectrum: np.ndarray) -> np.ndarray:
    """Inverse STFT of (T, 513) complex by NumPy's FFT in float64, one frame after the other."""
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(N_FFT) / N_FFT)
    sound, energy = np.zeros((2, (len(spectrum) - 1) * HOP + N_FFT))
    for t, frame in enumerate(np.fft.irfft(spectrum)):
        sound[t * HOP : t * HOP + N_FFT] += window * frame
        energy[t * HOP : t * HOP + N_FFT] += window**2
    return sound[PADDING:-PADDING] / energy[PADDING:-PADDING]


def test_inverse_is_float64_overlap_add() -> None:
    rng = np.random.default_rng(0)
    # No waveform's spectrum, and with imaginary parts at 0 and Nyquist, which count for nothing.
    spectrum = rng.standard_normal((9, 513)) + 1j * rng.standard_normal((9, 513))
    both = np.concatenate([spectrum.real, spectrum.imag], axis=1)[None]
    got = stft.InverseSTFT(9)(mx.array(both.astype(np.float32)))
    assert got.shape == (1, 9 * HOP, 1)
    np.testing.assert_allclose(got[0, :, 0], _overlap_added(spectrum), atol=ATOL)


def test_forward_has_the_magnitudes_of_mel_py(clip: np.ndarray) -> None:
    got = stft.magnitude(stft.stft(mx.array(clip)[None, :, None]))[0]
    want = mel.magnitudes(clip)
    assert got.shape == want.shape == (259, 513)
    # mel.py adds 1e-9 below the root.
    np.testing.assert_allclose(got, want, atol=np.sqrt(1e-9) + ATOL * want.max())


def test_inverse_of_forward_is_the_clip(clip: np.ndarray) -> None:
    again = stft.InverseSTFT(259)(stft.stft(mx.array(clip)[None, :, None]))
    np.testing.assert_allclose(again[0, :, 0], clip, atol=ATOL)
    assert np.abs(clip).max() > 0.3


def test_polyconv_is_the_native_op(target: mx.array) -> None:
    row = istft_vocoder.compare_inverse(target[:, 100:116], seed=0)
    assert row.input_shape == (1, 16, 1026)
    assert row.polyconv.output.shape == (1, 16 * HOP, 1)
    assert row.max_abs_difference() < 1e-5


def test_magnitudes_are_of_the_mel(clip: np.ndarray, target: mx.array) -> None:
    want = np.exp(mel.log_mel(clip).astype(np.float64))
    found = np.array(target[0], np.float64)
    assert found.min() >= 0
    missing = np.linalg.norm(found @ mel.mel_filterbank().T - want) / np.linalg.norm(want)
    assert missing < 3e-4
    first = np.array(griffin_lim.magnitudes_of_mel(mel.log_mel(clip), steps=1)[0], np.float64)
    assert np.linalg.norm(first @ mel.mel_filterbank().T - want) / np.linalg.norm(want) > 0.01


def test_log_spectral_distance_by_hand() -> None:
    want = np.zeros((2, 3))
    got = np.array([[3.0, 4.0, 0.0], [6.0, 6.0, 6.0]])
    assert distances.log_spectral_distance(got, want) == pytest.approx((5 / np.sqrt(3) + 6) / 2)
    half = mx.array([[1.0, 2.0], [3.0, 4.0]])
    assert distances.spectral_convergence(half, 2 * half) == 0.5
    assert distances.spectral_convergence(half, half) == 0


def test_distances_know_levels(clip: np.ndarray) -> None:
    """A tenth of the amplitude is 20 dB wherever both are above the floors."""
    assert distances.mel_distance(clip, clip) == distances.linear_distance(clip, clip) == 0
    noise = np.random.default_rng(0).standard_normal(8192).astype(np.float32)
    assert distances.mel_distance(noise / 10, noise) == pytest.approx(20, abs=0.01)
    assert distances.linear_distance(noise / 10, noise) == pytest.approx(20, abs=0.1)


def test_convergence_decreases(made: griffin_lim.Reconstruction) -> None:
    found = made.convergence
    assert len(found) == 1 + ITERATIONS
    # With momentum a step may go up, but not these ten.
    assert all(later < earlier for earlier, later in pairwise(found[:11]))
    assert found[-1] < found[10] < 0.3 * found[0]


def test_convergence_is_of_the_waveform(target: mx.array, made: griffin_lim.Reconstruction) -> None:
    found = stft.magnitude(stft.stft(made.waveform))
    assert distances.spectral_convergence(found, target) == made.convergence[-1]


def test_momentum_is_faster_than_none(target: mx.array) -> None:
    head = target[:, :48]
    plain, fast = (griffin_lim.griffin_lim(head, 20, momentum=m) for m in (0.0, 0.99))
    assert plain.convergence[:2] == pytest.approx(fast.convergence[:2])
    assert fast.convergence[-1] < 0.9 * plain.convergence[-1]
    # Griffin and Lim 1984: without it no step goes up.
    assert all(later <= earlier * (1 + 1e-5) for earlier, later in pairwise(plain.convergence))


@pytest.mark.usefixtures("on_cpu")  # as the same bits are promised of a CPU alone
def test_a_seed_gives_one_sound(target: mx.array) -> None:
    head = target[:, :16]
    first, again, other = (griffin_lim.griffin_lim(head, 2, seed) for seed in (5, 5, 6))
    assert mx.array_equal(first.waveform, again.waveform)
    assert not mx.allclose(first.waveform, other.waveform)


def test_it_is_speech_by_measurement(
    clip: np.ndarray, target: mx.array, made: griffin_lim.Reconstruction
) -> None:
    sound = np.array(made.waveform[0, :, 0])
    start = istft_vocoder.score_of_start(clip, target, 0)
    assert distances.mel_distance(sound, clip) < 2.5 < 6 < start.mel_db
    assert distances.linear_distance(sound, clip) < 5 < 7 < start.linear_db


@pytest.mark.slow
def test_it_is_within_a_tenth_of_librosas(
    clip: np.ndarray, made: griffin_lim.Reconstruction
) -> None:
    pytest.importorskip("librosa", reason="needs librosa, whose Griffin-Lim it is compared with")
    mels = librosa_peer.mel(clip), np.exp(mel.log_mel(clip))
    np.testing.assert_allclose(*mels, rtol=1e-4, atol=2e-5)  # librosa's has no floor
    sound = np.array(made.waveform[0, :, 0])
    theirs = istft_vocoder.score_of_librosa(clip, ITERATIONS, seed=0)
    assert distances.mel_distance(sound, clip) <= 1.1 * theirs.mel_db
    assert distances.linear_distance(sound, clip) <= 1.1 * theirs.linear_db
    assert theirs.mel_db < 2.6  # or it would be beaten by parameters that are not its mel's


def test_end_to_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--frames", "40", "--iterations", "3", "--out", str(tmp_path)]
    assert istft_vocoder.main(arguments) == 0
    told = capsys.readouterr().out
    for words in ("random phases", "Griffin-Lim, 3 iterations", "40x1026 -> 10240x1", "native"):
        assert words in told
    samples, rate = soundfile.read(tmp_path / "griffin_lim.wav")
    assert (len(samples), rate) == (40 * HOP, 22050)
    assert samples.std() > 0.01
    assert (tmp_path / "griffin_lim.png").read_bytes().startswith(b"\x89PNG")


def _write(path: Path, samples: np.ndarray, rate: int = 22050) -> Path:
    soundfile.write(path, samples, rate)
    return path


def test_user_errors_are_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tone = 0.1 * np.sin(np.arange(4096) / 10)
    cases = {
        _write(tmp_path / "silent.wav", 0 * tone): "is silent",
        _write(tmp_path / "short.wav", tone[:1000]): "1000 samples",
        _write(tmp_path / "rate.wav", tone, 16000): "at 16000 Hz",
        _write(tmp_path / "stereo.wav", np.stack([tone, tone], 1)): "2 channels",
        tmp_path / "missing.wav": "No such file",
    }
    out = tmp_path / "out"
    for path, reason in cases.items():
        arguments = ["--input", str(path), "--out", str(out)]
        file_is_refused(lambda given=arguments: istft_vocoder.main(given), path, reason, capsys)
    assert not out.exists()


def test_the_shortest_clip_and_a_quiet_one(tmp_path: Path) -> None:
    tone = 0.1 * np.sin(np.arange(N_FFT) / 10)
    for level in (1.0, 1e-3):
        path = _write(tmp_path / "short.wav", level * tone)
        options = ["--iterations", "1", "--out", str(tmp_path)]
        assert istft_vocoder.main(["--input", str(path), *options]) == 0


def test_compare_without_librosa(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "librosa", None)
    assert istft_vocoder.main(["--compare", "--out", str(tmp_path / "out")]) == 2
    assert "pip install librosa" in capsys.readouterr().err


@pytest.mark.parametrize(
    "option",
    [("--iterations", "0"), ("--frames", "3"), ("--momentum", "nan"), ("--seed", "4294967296")],
)
def test_bad_numbers_exit_with_2(option: tuple[str, str]) -> None:
    with pytest.raises(SystemExit) as stop:
        istft_vocoder.parse_arguments(option)
    assert stop.value.code == 2
