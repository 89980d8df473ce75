"""Does the vocoder example run end to end, compare fairly, and refuse bad input plainly?

That its generator computes what PyTorch's HiFi-GAN computes is tested in test_checkpoint.py.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

for module in ("soundfile", "rich", "matplotlib"):
    pytest.importorskip(module, reason=f"the vocoder example needs {module}")
import hifigan  # noqa: E402
import measure  # noqa: E402
import soundfile  # noqa: E402
import speech  # noqa: E402
import vocoder_upsampler  # noqa: E402

import polyconv  # noqa: E402
from polyconv import PolyConvTranspose1d  # noqa: E402
from tests.support.refusals import file_is_refused  # noqa: E402

SCRIPT = Path(vocoder_upsampler.__file__)
SMALL = hifigan.GeneratorConfig((4, 2), (8, 4), 16, 1, (3, 5), ((1, 3), (1, 3)))


def _mel(frames: int) -> mx.array:
    noise = np.random.default_rng(1).standard_normal((1, frames, 80), np.float32)
    return mx.array(2 * noise - 5)


def _run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), *map(str, arguments)]
    # The script must find the package under test, installed or not.
    package = str(Path(polyconv.__file__).resolve().parent.parent)
    environment = {**os.environ, "PYTHONPATH": package}
    return subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)


def _largest_difference(summary: str) -> float:
    found = re.search(r"no output differed by more than (\d\.\de[+-]\d+)\.", summary)
    assert found, summary
    return float(found[1])


@pytest.mark.parametrize("variant", ["v1", "v2", "v3"])
def test_published_sizes(variant: str) -> None:
    generator = hifigan.Generator(hifigan.VARIANTS[variant])
    count = sum(v.size for _, v in nn.utils.tree_flatten(generator.parameters()))
    # Kong et al. 2020, Table 1: 13.92 M, 0.92 M and 1.46 M, cut after two decimals.
    assert count // 10_000 == {"v1": 1392, "v2": 92, "v3": 146}[variant]
    assert np.prod(hifigan.VARIANTS[variant].upsample_rates) == 256


def test_polyconv_generator_matches_native() -> None:
    native = hifigan.Generator(SMALL)
    hifigan.seed_weights(native)
    fast = hifigan.Generator(SMALL, PolyConvTranspose1d)
    fast.update(native.parameters())
    want, got = native(_mel(9)), fast(_mel(9))
    assert got.shape == (1, 9 * 8, 1)
    assert float(mx.std(want)) > 0.01
    np.testing.assert_allclose(np.array(got), np.array(want), atol=1e-5)


def test_steps_are_announced_in_order() -> None:
    generator = hifigan.Generator(SMALL)
    seen: list[str] = []
    generator(_mel(2), lambda name, x: seen.append(name))
    assert seen == generator.step_names()
    seen.clear()
    generator.upsampling_stack(_mel(2), lambda name, x: seen.append(name))
    assert seen == generator.step_names(upsampling_only=True) == ["conv_pre", "ups.0", "ups.1"]


def test_seeded_weights_repeat() -> None:
    first, again, other = (hifigan.Generator(SMALL) for _ in range(3))
    hifigan.seed_weights(first, 3)
    hifigan.seed_weights(again, 3)
    hifigan.seed_weights(other, 4)
    assert mx.array_equal(first(_mel(2)), again(_mel(2)))
    assert not mx.array_equal(first(_mel(2)), other(_mel(2)))


def _silent_watch(description: str, steps: int | None = None):
    return lambda name: None


@pytest.mark.parametrize(("per_frame", "budget", "frames"), [(0.1, 10.0, 50), (0.5, 10.0, 10)])
def test_probe_grows_to_the_budget(
    monkeypatch: pytest.MonkeyPatch, per_frame: float, budget: float, frames: int
) -> None:
    lengths: list[int] = []

    def fake_run(forward: object, mel: mx.array, step: object) -> measure.Run:
        lengths.append(mel.shape[1])
        return measure.Run(mel, per_frame * mel.shape[1], 1)

    monkeypatch.setattr(measure, "run_model", fake_run)
    found, run = measure.probe_native(None, _mel(50), budget, _silent_watch)
    assert found == frames == lengths[-1]
    assert run.seconds == pytest.approx(per_frame * frames)
    assert lengths[:-1] == sorted(set(lengths))
    assert lengths[-2] == lengths[-1]  # what is told is not the first pass of its length


def test_layers_only_end_to_end(tmp_path: Path) -> None:
    arguments = ("--layers-only", "--variant", "v2", "--frames", "6", "--native-seconds", "999")
    done = _run(*arguments, "--out", tmp_path)
    assert done.returncode == 0, done.stderr
    for row in ("ups.0", "ups.1", "ups.2", "ups.3", "stack, 6 frames"):
        assert row in done.stdout
    assert "6x128 -> 48x64" in done.stdout
    assert "noise" in done.stdout.splitlines()[0]
    last = done.stdout.splitlines()[-1]
    assert last.startswith("Measured: polyconv ran on 6 frames")
    assert _largest_difference(last) < 1e-4
    assert "Metal" not in done.stdout


def test_whole_generator_end_to_end(tmp_path: Path) -> None:
    done = _run("--variant", "v3", "--frames", "5", "--native-seconds", "999", "--out", tmp_path)
    assert done.returncode == 0, done.stderr
    samples, rate = soundfile.read(tmp_path / "generated.wav")
    assert (len(samples), rate) == (5 * 256, 22050)
    assert samples.std() > 0.01
    assert (tmp_path / "vocoder.png").read_bytes().startswith(b"\x89PNG")
    assert "5x256 -> 40x128" in done.stdout
    assert _largest_difference(done.stdout.splitlines()[-1]) < 1e-4


def test_native_can_be_skipped(tmp_path: Path) -> None:
    arguments = ("--layers-only", "--variant", "v2", "--frames", "3", "--native-seconds", "0")
    done = _run(*arguments, "--out", tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Native MLX was not run" in done.stdout.splitlines()[-1]


def _write(path: Path, samples: np.ndarray, rate: int = 22050, kind: str = "WAV") -> Path:
    soundfile.write(path, samples, rate, format=kind)
    return path


def test_bundled_clip() -> None:
    samples = speech.read_speech(vocoder_upsampler.BUNDLED_CLIP)
    assert 3 * 22050 <= len(samples) <= 5 * 22050
    assert 0.3 < np.abs(samples).max() < 1.0


def test_user_errors_are_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tone = 0.1 * np.sin(np.arange(4096) / 10)
    (tmp_path / "text.wav").write_text("this is not a WAV file")
    (tmp_path / "empty.wav").write_bytes(b"")
    cases = {
        _write(tmp_path / "stereo.wav", np.stack([tone, tone], 1)): "2 channels",
        _write(tmp_path / "rate.wav", tone, 44100): "at 44100 Hz",
        _write(tmp_path / "short.wav", tone[:1000]): "1000 samples",
        _write(tmp_path / "none.wav", tone[:0]): "0 samples",
        _write(tmp_path / "sound.flac", tone, kind="FLAC"): "is FLAC, not WAV",
        tmp_path / "text.wav": "not a readable WAV",
        tmp_path / "empty.wav": "not a readable WAV",
        tmp_path / "missing.wav": "No such file",
        tmp_path: "Is a directory",
    }
    out = tmp_path / "out"
    for path, reason in cases.items():
        arguments = ["--wav", str(path), "--out", str(out)]
        file_is_refused(lambda given=arguments: vocoder_upsampler.main(given), path, reason, capsys)
    assert not out.exists()


def test_bad_weights_exit_with_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "bad.pt").write_bytes(b"junk")
    (tmp_path / "bad.safetensors").write_bytes(b"junk")
    cases = {
        "bad.pt": "damaged or not a PyTorch checkpoint",
        "bad.safetensors": "damaged or not a safetensors file",
        "missing.safetensors": "No such file",
        "missing.pt": "No such file",
    }
    for name, reason in cases.items():
        weights = str(tmp_path / name)
        assert vocoder_upsampler.main(["--weights", weights, "--out", str(tmp_path)]) == 2
        told = capsys.readouterr().err
        assert weights in told
        assert reason in told
        assert len(told.splitlines()) == 1


def test_output_folder_is_tried_first(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "vocoder.png").mkdir()
    for out, reason in ((tmp_path / "file", "File exists"), (tmp_path, "Is a directory")):
        assert vocoder_upsampler.main(["--variant", "v2", "--out", str(out)]) == 2
        assert reason in capsys.readouterr().err


@pytest.mark.parametrize("option", [("--frames", "0"), ("--native-seconds", "nan")])
def test_bad_numbers_exit_with_2(option: tuple[str, str]) -> None:
    with pytest.raises(SystemExit) as stop:
        vocoder_upsampler.parse_arguments(option)
    assert stop.value.code == 2
