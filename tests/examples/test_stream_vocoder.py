"""The streaming example: the sound of the whole, and a pipe that resamples."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import stream_vocoder

import polyconv

EXAMPLE = Path(stream_vocoder.__file__)


def test_it_streams_a_clip_and_tells_how_fast(tmp_path, capsys):
    arguments = ["--frames", "20", "--chunk-ms", "50", "--out", str(tmp_path)]
    assert stream_vocoder.main(arguments) == 0
    told = capsys.readouterr().out
    for words in ("first sound after", "real-time factor", "p50", "p95", "p99", "5120 samples"):
        assert words in told
    assert (tmp_path / "streamed.wav").stat().st_size > 2 * 5120
    assert (tmp_path / "latency.png").read_bytes().startswith(b"\x89PNG")


def test_it_refuses_what_it_cannot_read(tmp_path, capsys):
    assert stream_vocoder.main(["--wav", str(tmp_path / "none.wav")]) == 1
    assert "none.wav" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        stream_vocoder.main(["--chunk-ms", "0"])


def test_a_pipe_is_resampled():
    x = (np.random.default_rng(0).standard_normal(50_000) * 3000).astype("<i2")
    run = subprocess.run(
        [sys.executable, str(EXAMPLE), "--pcm", "22050", "48000"],
        input=x.tobytes(),
        stdout=subprocess.PIPE,
        check=True,
        timeout=120,
    )
    got = np.frombuffer(run.stdout, "<i2")
    stream = polyconv.ResampleStream(22050, 48000)
    whole = stream.resample_chunk(x.astype(np.float32), last=True)
    assert got.shape == whole.shape
    assert np.abs(got - whole.round()).max() <= 1
