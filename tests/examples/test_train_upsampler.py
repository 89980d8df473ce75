"""The example that trains: it goes on where it stopped, and trains on what it says."""

import mlx.core as mx
import numpy as np
import pytest


@pytest.fixture
def example():
    pytest.importorskip("rich", reason="examples need the examples extra")
    pytest.importorskip("matplotlib")
    import train_upsampler

    return train_upsampler


def test_the_example_trains_and_goes_on_where_it_stopped(example, tmp_path, capsys):
    through, twice = tmp_path / "through", tmp_path / "twice"
    run = lambda out, steps: example.main(  # noqa: E731
        ["--bundled-only", "--steps", str(steps), "--out", str(out)]
    )
    assert run(through, 4) == 0
    assert run(twice, 2) == run(twice, 4) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "going on from step 2" in said
    assert "log-spectral distance" in said
    losses = [mx.load(str(out / "checkpoint.safetensors"))["losses"] for out in (through, twice)]
    # The learning rate falls over the steps that are asked for, so the first two differ.
    assert losses[0].shape == losses[1].shape == (4,)
    assert sorted(path.name for path in through.iterdir()) == [
        "checkpoint.safetensors",
        "high.wav",
        "interpolated.wav",
        "loss.png",
        "upsampled.wav",
    ]
    (twice / "checkpoint.safetensors").write_bytes(b"nonsense")
    assert run(twice, 4) == 2
    assert "is no checkpoint of this example" in capsys.readouterr().err


def test_a_resumed_run_is_the_same_run(example, tmp_path, monkeypatch):
    """Stopped in the middle and gone on, with the same number of steps asked for."""
    monkeypatch.setattr(example, "SEGMENT", 2048)
    monkeypatch.setattr(example, "BATCH", 1)
    clips = [np.random.default_rng(0).standard_normal(20000).astype(np.float32)]
    from rich.console import Console

    def trained(out, stop):
        out.mkdir(exist_ok=True)
        mx.random.seed(0)
        model, calls, examples = example.Upsampler(4), 0, example.examples

        def interrupted(*args):
            nonlocal calls
            calls += 1
            if calls > stop:
                raise KeyboardInterrupt
            return examples(*args)

        with monkeypatch.context() as patch:
            patch.setattr(example, "examples", interrupted)
            return example.train(model, clips, 60, out, Console(quiet=True))

    whole = trained(tmp_path / "whole", 60)
    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path / "parts", 55)
    assert trained(tmp_path / "parts", 60) == pytest.approx(whole, rel=1e-5)


def test_what_is_trained_on_is_what_it_says(example):
    tone = np.sin(2 * np.pi * 300 / example.SAMPLE_RATE * np.arange(8000)).astype(np.float32)
    low = example.decimated(tone)
    assert np.abs(low[50:-50] - tone[::4][50:-50]).max() < 0.01
    high = np.sin(2 * np.pi * 5000 / example.SAMPLE_RATE * np.arange(8000)).astype(np.float32)
    assert np.abs(example.decimated(high)[50:-50]).max() < 0.01
    ramp = mx.arange(5.0).reshape(1, 5, 1)
    assert np.allclose(example.interpolated(ramp)[0, :17, 0], np.arange(17) / 4)
    same = mx.random.normal((1, 8000))
    assert example.distance(same, same) == 0
    assert example.distance(10 * same, same) == pytest.approx(20, abs=0.5)
