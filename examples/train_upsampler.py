"""Trains a 4x speech upsampler on polyconv's layers: from 5.5 kHz to 22.05 kHz.

Answers: do the gradients train something? A small network learns what speech sounds like above
2.7 kHz, from the bundled clip and from sentences that espeak-ng speaks if it is there, and is
compared with linear interpolation on a clip that it never saw. Interrupted, it goes on from its
last checkpoint; see ``--help``.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
import numpy as np
import soundfile
from command_line import reason
from hifigan import PolyConv1d
from mel import SAMPLE_RATE
from mlx.utils import tree_flatten, tree_unflatten
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from speech import BUNDLED_CLIP, read_speech

import polyconv

FACTOR = 4
SENTENCES = (
    "The quick brown fox jumps over the lazy dog, six times each sunny Thursday.",
    "She sells sea shells by the shore; fresh fish is what his sister fetches.",
    "Voices carry consonants high above the pitch of any vowel.",
    "Peter chose a thick brush to paint the ship's short staircase.",
)
VOICES = ("en-us", "en-gb", "en-us+f3", "en-gb+m3")
SEGMENT, BATCH = 8192, 4  # output samples of a training example, and examples in a step


class Upsampler(nn.Module):
    """Linear interpolation plus what a network adds to it: `(N, L, 1)` to `(N, 4 L, 1)`."""

    def __init__(self, channels: int = 48) -> None:
        super().__init__()
        self.first = PolyConv1d(1, channels, 9, padding=4)
        self.blocks = [
            PolyConv1d(channels, channels, 3, padding=dilation, dilation=dilation)
            for dilation in (1, 3, 9, 1, 3, 9)
        ]
        self.up = polyconv.PolyConvTranspose1d(channels, channels // 2, 16, FACTOR, padding=6)
        self.last = PolyConv1d(channels // 2, 1, 9, padding=4)

    def __call__(self, x: mx.array) -> mx.array:
        y = self.first(x)
        for block in self.blocks:
            y = y + block(nn.leaky_relu(y, 0.1))
        y = self.up(nn.leaky_relu(y, 0.1))
        return interpolated(x) + self.last(nn.leaky_relu(y, 0.1))


def interpolated(x: mx.array) -> mx.array:
    """Linear interpolation, as a transposed convolution with a triangle."""
    ramp = mx.arange(1, FACTOR + 1) / FACTOR
    triangle = mx.concatenate([ramp, ramp[-2::-1]]).reshape(1, -1, 1)
    y = polyconv.conv_transpose1d(x, triangle, FACTOR, padding=FACTOR - 1)
    return mx.pad(y, [(0, 0), (0, FACTOR - 1), (0, 0)])  # behind the last sample nothing is known


def decimated(x: NDArray[np.float32]) -> NDArray[np.float32]:
    """Every fourth sample of what a windowed sinc leaves below the new Nyquist frequency."""
    t = np.arange(-64, 65)
    sinc = np.sinc(t / FACTOR * 0.95) / FACTOR * 0.95 * np.hanning(len(t) + 2)[1:-1]
    taps = mx.array(sinc.astype(np.float32)).reshape(1, -1, 1)
    whole = x[: len(x) // FACTOR * FACTOR]
    y = polyconv.conv1d(mx.array(whole).reshape(1, -1, 1), taps, FACTOR, padding=64)
    return np.array(y.reshape(-1)[: len(whole) // FACTOR])


def log_spectra(x: mx.array, size: int) -> mx.array:
    """Log power of half-overlapping windows of `(N, L)`, in bels."""
    window = mx.array(np.hanning(size).astype(np.float32))
    whole = x.shape[1] // size * size
    shifted = x[:, size // 2 : whole - size // 2]
    frames = [part.reshape(x.shape[0], -1, size) for part in (x[:, :whole], shifted)]
    spectra = mx.fft.rfft(mx.concatenate(frames, 1) * window)
    return mx.log10(mx.square(spectra.real) + mx.square(spectra.imag) + 1e-4)


def loss_of(model: Upsampler, low: mx.array, high: mx.array) -> mx.array:
    """Differences of waveforms and of log spectra at two resolutions."""
    got = model(low)[..., 0]
    spectral = [mx.abs(log_spectra(got, n) - log_spectra(high, n)).mean() for n in (256, 1024)]
    return 4 * mx.abs(got - high).mean() + spectral[0] + spectral[1]


def distance(got: mx.array, high: mx.array) -> float:
    """Log-spectral distance in dB: root mean square over frequencies, mean over windows."""
    apart = 10 * (log_spectra(got, 1024) - log_spectra(high, 1024))
    return mx.sqrt(mx.square(apart).mean(-1)).mean().item()


def spoken() -> list[NDArray[np.float32]]:
    """Sentences by espeak-ng, none where it is not installed."""
    program = shutil.which("espeak-ng")
    clips = []
    with tempfile.TemporaryDirectory() as folder:
        for i, (voice, text) in enumerate((v, s) for v in VOICES for s in SENTENCES if program):
            path = Path(folder) / f"{i}.wav"
            command = [str(program), "-v", voice, "-w", str(path), text]
            if subprocess.run(command, capture_output=True).returncode == 0:
                clips.append(read_speech(path))
    return clips


def examples(
    clips: Sequence[NDArray[np.float32]], rng: np.random.Generator
) -> tuple[mx.array, ...]:
    """A batch of low and high segments of clips, at random."""
    low, high = [], []
    for _ in range(BATCH):
        clip = clips[rng.integers(len(clips))]
        start = FACTOR * int(rng.integers((len(clip) - SEGMENT) // FACTOR))
        high.append(clip[start : start + SEGMENT])
        low.append(decimated(high[-1]))
    return mx.array(np.stack(low))[..., None], mx.array(np.stack(high))


def save(path: Path, model: Upsampler, optimizer: optim.Adam, losses: list[float]) -> None:
    """Everything that training goes on from, written whole or not at all."""
    state = {"model": model.parameters(), "optimizer": optimizer.state}
    arrays = dict(tree_flatten({**state, "losses": mx.array(losses)}))
    partial = path.with_name("partial.safetensors")
    mx.save_safetensors(str(partial), arrays)
    partial.replace(path)


def resume(path: Path, model: Upsampler, optimizer: optim.Adam) -> list[float]:
    """Restores what `save` wrote.

    Returns:
        The losses so far, one a step.

    Raises:
        ValueError: if the file is not such a checkpoint.
    """
    try:
        state = tree_unflatten(list(mx.load(str(path)).items()))
        model.load_weights(tree_flatten(state["model"]))
        optimizer.state = state["optimizer"]
        losses: list[float] = state["losses"].tolist()
        return losses
    except (RuntimeError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is no checkpoint of this example ({error})") from error


def train(
    model: Upsampler, clips: Sequence[NDArray[np.float32]], steps: int, out: Path, console: Console
) -> list[float]:
    """Trains up to `steps` steps in all, from the checkpoint in `out` if there is one."""
    optimizer = optim.Adam(learning_rate=2e-3)
    checkpoint = out / "checkpoint.safetensors"
    losses = resume(checkpoint, model, optimizer) if checkpoint.exists() else []
    if losses:
        console.print(f"going on from step {len(losses)} of {checkpoint}")
    step = nn.value_and_grad(model, lambda low, high: loss_of(model, low, high))
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("training", total=steps, completed=len(losses))
        while len(losses) < steps:
            low, high = examples(clips, np.random.default_rng(len(losses)))
            loss, gradients = step(low, high)
            optimizer.learning_rate = 2e-3 * 0.5 ** (3 * len(losses) / steps)
            optimizer.update(model, gradients)
            mx.eval(model.state, optimizer.state)
            losses.append(loss.item())
            said = f"step {len(losses)} of {steps}, loss {np.mean(losses[-20:]):.3f}"
            progress.update(task, advance=1, description=said)
            if len(losses) % 50 == 0 or len(losses) == steps:
                save(checkpoint, model, optimizer, losses)
    return losses


def write(out: Path, losses: list[float], sounds: dict[str, NDArray[np.float32]]) -> None:
    """The loss over steps as a picture, the sounds as WAVs."""
    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    axes.plot(losses, color="#9db8c9", linewidth=0.8, label="each step")
    smooth = np.convolve(losses, np.ones(20) / 20, "valid") if len(losses) >= 20 else losses
    axes.plot(range(len(losses) - len(smooth), len(losses)), smooth, label="mean of 20")
    axes.set(xlabel="step", ylabel="loss")
    axes.legend()
    figure.savefig(out / "loss.png", dpi=110)
    plt.close(figure)
    for name, samples in sounds.items():
        soundfile.write(out / f"{name}.wav", np.clip(samples, -1, 1), SAMPLE_RATE)


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=240, help="in all; default: 240")
    parser.add_argument("--restart", action="store_true", help="forget the checkpoint")
    parser.add_argument(
        "--bundled-only", action="store_true", help="train on the first half of the bundled clip"
    )
    parser.add_argument(
        "--out", type=Path, default=Path("build/upsampler"), help="default: build/upsampler"
    )
    args = parser.parse_args(argv)
    if args.steps < 1:
        parser.error("--steps must be at least 1")
    return args


def main(argv: Sequence[str] | None = None) -> int:
    args, console = parse_arguments(argv), Console(highlight=False)
    mx.random.seed(0)
    clip = read_speech(BUNDLED_CLIP)
    clips, held_out = ([] if args.bundled_only else spoken()), clip
    if not clips:
        half = len(clip) // 2
        clips, held_out = [clip[:half]], clip[half:]
    try:
        args.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        print(f"train_upsampler: {reason(error)}", file=sys.stderr)
        return 2
    if args.restart:
        (args.out / "checkpoint.safetensors").unlink(missing_ok=True)
    seconds = sum(map(len, clips)) / SAMPLE_RATE
    console.print(f"training on {len(clips)} clips, {seconds:.0f} s; held out: {BUNDLED_CLIP.name}")
    model = Upsampler()
    try:
        losses = train(model, clips, args.steps, args.out, console)
    except ValueError as error:
        print(f"train_upsampler: {error}", file=sys.stderr)
        return 2
    held_out = held_out[: len(held_out) // FACTOR * FACTOR]
    low = mx.array(decimated(held_out)).reshape(1, -1, 1)
    high = mx.array(held_out).reshape(1, -1)
    results = {"interpolated": interpolated(low)[..., 0], "upsampled": model(low)[..., 0]}
    found = {name: distance(y, high) for name, y in results.items()}
    write(args.out, losses, {**{k: np.array(y[0]) for k, y in results.items()}, "high": held_out})
    console.print(
        f"loss {np.mean(losses[:20]):.3f} in the first 20 steps, {np.mean(losses[-20:]):.3f} in "
        f"the last; log-spectral distance to the held-out clip {found['upsampled']:.1f} dB, of "
        f"linear interpolation {found['interpolated']:.1f} dB\n"
        f"wrote {args.out}: loss.png, three WAVs"
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
