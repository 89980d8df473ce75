"""Streams: a vocoder that speaks while mel frames come in, or an upsampler in a shell pipeline.

Answers: how soon is the first sound there, does a generator keep up with real time in chunks of so
many milliseconds, and is the sound the same as made at once? With ``--pcm IN OUT`` it reads 16-bit
mono PCM at IN samples a second from stdin and writes it at OUT to stdout.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import mlx.core as mx
import numpy as np
import soundfile
from checkpoint import load_checkpoint
from command_line import reason
from hifigan import VARIANTS, Generator, PolyConv1d, seed_weights
from mel import HOP, SAMPLE_RATE, log_mel
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from speech import BUNDLED_CLIP, read_speech

import polyconv

PCM_BYTES = 2 * 16384  # read from stdin at a time
# Sums of float32 in another order: what chunks may differ by from the whole.
TOLERANCE = 1e-4


@dataclass(frozen=True)
class Chunk:
    """One chunk of mel frames: how many samples came of it, and after how many seconds."""

    samples: int
    seconds: float


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Command line of the example, as ``--help`` describes it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--wav", type=Path, default=BUNDLED_CLIP, help="mono 22.05 kHz WAV")
    parser.add_argument("--variant", choices=VARIANTS, default="v3", help="default: v3")
    parser.add_argument("--weights", type=Path, help="HiFi-GAN checkpoint of this variant")
    parser.add_argument("--chunk-ms", type=float, default=70.0, help="default: 70")
    parser.add_argument("--frames", type=int, help="use only the first frames")
    parser.add_argument("--out", type=Path, default=Path("build/stream"))
    parser.add_argument("--seed", type=int, default=0, help="of random weights")
    parser.add_argument(
        "--pcm", nargs=2, type=int, metavar=("IN", "OUT"), help="resample stdin to stdout instead"
    )
    arguments = parser.parse_args(argv)
    if not 0 < arguments.chunk_ms < float("inf"):
        parser.error(f"--chunk-ms must be positive, not {arguments.chunk_ms}")
    return arguments


def resample_pipe(in_rate: int, out_rate: int) -> None:
    """Resamples 16-bit PCM from stdin to stdout, a block at a time; memory stays flat."""
    # Blocks give a sample more or less, and MLX would keep freed buffers of every such size.
    mx.set_cache_limit(1 << 20)
    stream = polyconv.ResampleStream(in_rate, out_rate)
    odd = b""
    while True:
        block = sys.stdin.buffer.read(PCM_BYTES)
        data = odd + block
        whole = len(data) - len(data) % 2
        odd = data[whole:]
        samples = np.frombuffer(data[:whole], "<i2").astype(np.float32)
        y = np.asarray(stream.resample_chunk(samples, last=not block))
        sys.stdout.buffer.write(y.round().clip(-32768, 32767).astype("<i2").tobytes())
        if not block:
            sys.stdout.buffer.flush()
            return


def generate(
    streamed: polyconv.StreamedModel, mel: mx.array, frames: int
) -> Iterator[tuple[NDArray[np.float32], float]]:
    """Sound by chunks of so many frames, with the seconds that each took; the tail at the end."""
    for start in range(0, mel.shape[1] + frames, frames):
        begin = time.perf_counter()
        chunk = mel[:, start : start + frames]
        y = streamed.step(chunk) if chunk.shape[1] else streamed.flush()
        samples = np.array(y[0, :, 0])
        yield samples, time.perf_counter() - begin
        if not chunk.shape[1]:
            return


def run(
    streamed: polyconv.StreamedModel, mel: mx.array, frames: int, path: Path
) -> tuple[NDArray[np.float32], list[Chunk]]:
    """Writes the sound as it comes, and tells of each chunk."""
    sounds, chunks = [], []
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    console = Console(stderr=True)
    bars = Progress(*columns, console=console, disable=not console.is_terminal)
    with soundfile.SoundFile(path, "w", SAMPLE_RATE, 1, "PCM_16") as file, bars:
        task = bars.add_task("streaming", total=-(-mel.shape[1] // frames) + 1)
        for samples, seconds in generate(streamed, mel, frames):
            file.write(samples)
            sounds.append(samples)
            chunks.append(Chunk(len(samples), seconds))
            bars.update(task, advance=1, description=f"{1e3 * seconds:.0f} ms a chunk")
    return np.concatenate(sounds), chunks


def report(chunks: list[Chunk], frames: int, n_frames: int) -> str:
    """Time to the first sound, real-time factor, and how long chunks took."""
    first = next(i for i, chunk in enumerate(chunks) if chunk.samples)
    waited = sum(chunk.seconds for chunk in chunks[: first + 1])
    heard = (first + 1) * frames * HOP / SAMPLE_RATE
    spent = sum(chunk.seconds for chunk in chunks)
    ms = 1e3 * np.array([chunk.seconds for chunk in chunks[first:-1] or chunks])
    p50, p95, p99 = np.percentile(ms, (50, 95, 99))
    return (
        f"first sound after {1e3 * waited:.0f} ms of computing, from {1e3 * heard:.0f} ms of mel\n"
        f"real-time factor {spent / (n_frames * HOP / SAMPLE_RATE):.2f} (below 1 keeps up)\n"
        f"a chunk of {frames} frames, {1e3 * frames * HOP / SAMPLE_RATE:.1f} ms: "
        f"p50 {p50:.1f} ms, p95 {p95:.1f} ms, p99 {p99:.1f} ms"
    )


def draw(chunks: list[Chunk], frames: int, path: Path) -> None:
    """The time of each chunk against when it is due."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    due = 1e3 * frames * HOP / SAMPLE_RATE
    figure, axes = plt.subplots(figsize=(8, 3), layout="constrained")
    ms = [1e3 * chunk.seconds for chunk in chunks]
    axes.plot(np.arange(len(chunks)) * due / 1e3, ms, marker=".")
    axes.axhline(due, color="black", linewidth=0.8, linestyle="--")
    axes.annotate("real time", (0, due), textcoords="offset points", xytext=(2, 3), fontsize=8)
    axes.set(xlabel="seconds of mel", ylabel="ms a chunk")
    axes.set_ylim(0, 1.15 * max(due, *ms))
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the example; returns the exit status."""
    arguments = parse_arguments(argv)
    try:
        if arguments.pcm:
            resample_pipe(*arguments.pcm)
            return 0
        generator = Generator(VARIANTS[arguments.variant], polyconv.PolyConvTranspose1d, PolyConv1d)
        if arguments.weights:
            load_checkpoint(generator, arguments.weights)
        else:
            seed_weights(generator, arguments.seed)
        mel = mx.array(log_mel(read_speech(arguments.wav)))[None, : arguments.frames]
    except (OSError, ValueError) as error:
        print(f"stream_vocoder: {reason(error)}", file=sys.stderr)
        return 1
    mx.eval(generator.parameters(), mel)
    frames = max(1, round(arguments.chunk_ms / 1e3 * SAMPLE_RATE / HOP))
    arguments.out.mkdir(parents=True, exist_ok=True)
    streamed = polyconv.stream(generator)
    for _ in generate(streamed, mel[:, : 3 * frames], frames):  # plans, and cuts up weights
        pass
    sound, chunks = run(streamed, mel, frames, arguments.out / "streamed.wav")
    print(f"{arguments.variant}: {report(chunks, frames, mel.shape[1])}")
    whole = np.array(generator(mel)[0, :, 0])
    apart = float(np.abs(sound - whole).max()) if sound.shape == whole.shape else float("inf")
    print(f"{sound.size} samples, at most {apart:.1e} from the whole made at once")
    draw(chunks, frames, arguments.out / "latency.png")
    print(f"written: {arguments.out / 'streamed.wav'}, {arguments.out / 'latency.png'}")
    return 0 if apart <= TOLERANCE else 1


if __name__ == "__main__":
    sys.exit(main())
