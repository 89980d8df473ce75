"""The distributed vocoder: the sound of one process, what it sends, and its plan on paper."""

from __future__ import annotations

import functools
import json
import subprocess
import sys
from pathlib import Path

import distributed_vocoder
import mlx.core as mx
import numpy as np
import pytest
import soundfile
import vocoder_halos
from hifigan import VARIANTS, Generator, PolyConv1d, seed_weights
from mel import HOP

import polyconv
from tests.support.ranks import ended, started_with

EXAMPLE = Path(distributed_vocoder.__file__)
SECONDS = 1.6  # 138 frames

needs_ring = pytest.mark.skipif(
    not mx.distributed.is_available("ring"), reason="this MLX has no ring backend"
)


def ran(where: Path, n: int, halo: str, *more: str) -> tuple[np.ndarray, dict]:
    """The samples that n processes write, and rank 0's report."""
    out, report = where / f"{halo}-{n}", where / f"{halo}-{n}.json"
    command = [str(EXAMPLE), "--seconds", str(SECONDS), "--halo", halo, "--out", str(out)]
    command += ["--chunk-seconds", "0.3", "--report", str(report), *more]
    for status, told, errors in ended(started_with(where, n, *command), 120):
        assert status == 0, told + errors
    samples, rate = soundfile.read(out / "distributed.wav", dtype="int16")
    assert rate == 22050
    return samples.astype(int), json.loads(report.read_text())


@pytest.fixture(scope="module")
def where(tmp_path_factory):
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def run(where):
    return functools.cache(lambda n, halo: ran(where, n, halo))


def test_one_process_makes_the_sound_of_the_generator(run):
    samples, report = run(1, "once")
    generator = Generator(VARIANTS["v3"], polyconv.PolyConvTranspose1d, PolyConv1d)
    seed_weights(generator)
    clip = distributed_vocoder.log_mel(
        distributed_vocoder.read_speech(EXAMPLE.parent / "data/speech.wav")
    )
    whole = np.array(generator(mx.array(clip)[None, :138])[0, :, 0])
    assert samples.shape == whole.shape == (138 * HOP,)
    assert np.abs(samples - (whole * 32767).round()).max() <= 1
    assert report["ranks"][0]["halo_bytes"] == 0


@needs_ring
@pytest.mark.parametrize(
    ("n", "halo"),
    [(2, "once"), (2, "layers"), pytest.param(3, "once", marks=pytest.mark.slow)],
)
def test_several_processes_make_the_sound_of_one(run, n, halo):
    (alone, _), (samples, report) = run(1, "once"), run(n, halo)
    assert samples.shape == alone.shape
    assert np.abs(samples - alone).max() <= 1
    ranks = report["ranks"]
    assert [each["rank"] for each in ranks] == list(range(n))
    assert sum(each["audio_seconds"] for each in ranks) == pytest.approx(138 * HOP / 22050)
    assert all(each["compared"] > 0 and each["apart"] <= 1e-4 for each in ranks)
    sent = sum(each["halo_bytes"] for each in ranks)
    config = VARIANTS["v3"]
    if halo == "once":
        assert sent == (n - 1) * sum(vocoder_halos.margins(config)) * 80 * 4
    else:
        stretches = -(-138 // (2 * 26))
        assert sent == stretches * sum(each.halo_bytes for each in vocoder_halos.layers(config))


@needs_ring
@pytest.mark.parametrize("halo", ["once", pytest.param("layers", marks=pytest.mark.slow)])
def test_a_run_goes_on_where_it_was_ended(run, where, halo):
    whole, _ = run(2, halo)
    out = where / f"{halo}-2"
    with (out / "distributed.wav").open("r+b") as file:  # the second half of either part is lost
        for rank in range(2):
            file.seek(44 + 2 * HOP * (rank * 69 + 52))
            file.write(bytes(2 * HOP * 17))
    for rank in range(2):
        path = out / f"rank{rank}.json"
        told = json.loads(path.read_text())
        path.write_text(json.dumps({**told, "done": 40 if halo == "once" else 1}))
    samples, report = ran(where, 2, halo, "--resume")
    assert np.abs(samples - whole).max() <= 1
    made = sum(each["audio_seconds"] for each in report["ranks"]) * 22050 / HOP
    assert made == pytest.approx(58 if halo == "once" else 138 - 52)


def test_what_a_piece_depends_on_by_changing_it():
    """Mel frames beside a piece change its sound if they are within the margins, and only then."""
    config = VARIANTS["v3"]
    before, behind = vocoder_halos.margins(config)
    generator = Generator(config, polyconv.PolyConvTranspose1d, PolyConv1d)
    seed_weights(generator)
    mel = np.random.default_rng(0).standard_normal((1, 40, 80)).astype(np.float32)
    start, stop = 15, 25
    whole = np.array(generator(mx.array(mel)))[:, start * HOP : stop * HOP]
    for frame, matters in ((start - before, True), (start - before - 1, False)):
        assert changed(generator, mel, frame, whole, start) == matters
    for frame, matters in ((stop + behind - 1, True), (stop + behind, False)):
        assert changed(generator, mel, frame, whole, start) == matters


def changed(generator, mel, frame: int, whole: np.ndarray, start: int) -> bool:
    other = mel.copy()
    other[:, frame] += 100
    y = np.array(generator(mx.array(other)))[:, start * HOP :][:, : whole.shape[1]]
    return bool((y != whole).any())


def test_what_the_paper_counts():
    v1 = VARIANTS["v1"]
    assert len(vocoder_halos.layers(v1)) == 1 + 4 * (1 + 3 * 6) + 1 == 78
    # conv_pre, four upsampling layers, and blocks of 3, 7 and 11 taps at each stage.
    blocks = [256, 128, 64, 32]
    rates = [8, 64, 128, 256]
    expected = 7 * 80 * 512 + 7 * 32 * 256
    ups = [(512, 256, 16, 1), (256, 128, 16, 8), (128, 64, 4, 64), (64, 32, 4, 128)]
    expected += sum(a * b * k * rate for a, b, k, rate in ups)
    expected += sum(c * c * r * 6 * (3 + 7 + 11) for c, r in zip(blocks, rates))
    assert sum(layer.macs for layer in vocoder_halos.layers(v1)) == expected
    link = vocoder_halos.Link("", 1e6, 1e-3)
    one = vocoder_halos.Scaling(v1, 3600, 1, 1e9, link)
    assert (one.frames, one.by_layers, one.once) == (310078, 0, 0)
    many = vocoder_halos.Scaling(v1, 3600, 64, 1e9, link)
    assert many.compute == pytest.approx(4845 * expected / 1e9)
    assert many.by_layers == pytest.approx(2 * 425_088 / 1e6 + 312e-3)
    assert many.once == pytest.approx(2 * 26 * 80 * 4 / 1e6 + 4e-3 + 26 * expected / 1e9)
    most = vocoder_halos.largest(many, "once")
    for machines, more in ((most, True), (most + 1, False)):
        it = vocoder_halos.Scaling(v1, 3600, machines, 1e9, link)
        assert (it.efficiency(it.once) >= 0.5) == more


def test_its_command_line(tmp_path, capsys):
    for option, value in (
        *(("--seconds", "0.001"), ("--hours", "0"), ("--hours", "nan"), ("--hours", "inf")),
        *(("--chunk-seconds", "0"), ("--patience", "0"), ("--seed", "-1")),
    ):
        with pytest.raises(SystemExit):
            distributed_vocoder.main([option, value])
        told = capsys.readouterr().err
        assert f"argument {option}: {value} is not a number of at least" in told
    assert distributed_vocoder.main(["--wav", str(tmp_path / "none.wav")]) == 1
    assert "none.wav" in capsys.readouterr().err
    arguments = distributed_vocoder.parse_arguments(["--hours", "1"])
    assert arguments.frames == 310078
    ran = subprocess.run([sys.executable, EXAMPLE, "--help"], capture_output=True, text=True)
    assert "--patience" in ran.stdout
