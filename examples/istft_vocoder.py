"""Speech to mel and back to speech without weights: Griffin-Lim on one transposed convolution.

Answers: does an inverse STFT by polyconv give sound that one understands, and what does it cost
against MLX's own op? Its 1026 channels become one, by a kernel of 1024 samples and stride 256.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import librosa_peer
import mlx.core as mx
import numpy as np
from command_line import Display, at_least, prepare_outputs, reason
from distances import linear_distance, mel_distance, spectral_convergence
from griffin_lim import MOMENTUM, Reconstruction, griffin_lim, magnitudes_of_mel, random_phases
from measure import LAYER_REPEATS, Comparison, Watch, run_once, run_repeatedly
from mel import HOP, LOG_FLOOR, SAMPLE_RATE, log_mel
from numpy.typing import NDArray
from report import comparison_table, machine_sentence, report_console, write_wav
from rich import box
from rich.console import Console
from rich.table import Table
from spectrograms import write_spectrograms
from speech import BUNDLED_CLIP, read_speech
from stft import InverseSTFT, magnitude, stft

OUTPUT_NAMES = ("griffin_lim.wav", "griffin_lim.png")
# The native op, at some 2 ms a frame on a CPU, runs on no more than these.
NATIVE_FRAMES = 512
METHOD = (
    "Spectral convergence: |difference| / |target| of magnitudes, the target being those found for "
    "the mel. Distances: log-spectral, to the clip, root mean square in a frame, mean over frames; "
    f"mel over 80 bands, linear up to 8 kHz. Inverse STFT: median of {LAYER_REPEATS} runs."
)
Samples = NDArray[np.float32]


@dataclass(frozen=True)
class Score:
    """How one waveform compares with the clip.

    Args:
        name: what made it.
        seconds: from the mel to the waveform, or None.
        convergence: spectral convergence to the magnitudes that it was made from.
        mel_db: log-spectral distance of the mels in dB.
        linear_db: of the linear spectra.
    """

    name: str
    seconds: float | None
    convergence: float
    mel_db: float
    linear_db: float


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Command line of the example, as ``--help`` describes it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    clip = "mono 22.05 kHz WAV (default: bundled)"
    add("--input", "--wav", type=Path, default=BUNDLED_CLIP, metavar="WAV", help=clip)
    add("--iterations", type=at_least(1, int), default=60, help="default: 60")
    plain = f"0 is plain Griffin-Lim (default: {MOMENTUM})"
    add("--momentum", type=at_least(0, float), default=MOMENTUM, help=plain)
    add("--seed", type=at_least(0, int, 2**32), default=0, help="of the first phases (default: 0)")
    add("--frames", type=at_least(4, int), help="use only the first frames")
    add("--compare", action="store_true", help="also by librosa, if it is installed")
    folder = "default: build/griffin_lim"
    add("--out", type=Path, default=Path("build/griffin_lim"), help=folder)
    return parser.parse_args(argv)


def read_clip(path: Path, frames: int | None) -> Samples:
    """Samples of whole hops, of which some are audible.

    Raises:
        ValueError: if the file is no such clip (see ``speech.read_speech``), or is silent.
        OSError: if it cannot be opened.
    """
    samples = read_speech(path)
    samples = samples[: min(len(samples) // HOP, frames or len(samples)) * HOP]
    if log_mel(samples).max() <= np.float32(np.log(LOG_FLOOR)):
        raise ValueError(f"{path} is silent: nothing rises above the mel's floor")
    return samples


def score(
    name: str, seconds: float | None, sound: Samples, target: mx.array, clip: Samples
) -> Score:
    """Judge a waveform, by the same code whatever made it."""
    found = magnitude(stft(mx.array(sound)[None, :, None]))
    distances = mel_distance(sound, clip), linear_distance(sound, clip)
    return Score(name, seconds, spectral_convergence(found, target), *distances)


def reconstruct(
    mel: Samples, arguments: argparse.Namespace, step: Callable[[str], None]
) -> tuple[mx.array, Reconstruction, float]:
    """The magnitudes found for a mel, what Griffin-Lim makes of them, and seconds for both."""
    results: list[tuple[mx.array, Reconstruction]] = []

    def compute() -> mx.array:
        target = magnitudes_of_mel(mel)
        made = griffin_lim(target, arguments.iterations, arguments.seed, arguments.momentum, step)
        results.append((target, made))
        return made.waveform

    seconds = run_once(compute).seconds
    return *results[0], seconds


def score_of_start(clip: Samples, target: mx.array, seed: int) -> Score:
    """The right magnitudes with the phases that Griffin-Lim starts from."""
    start = InverseSTFT(target.shape[1])(random_phases(target, seed))
    return score("random phases", None, np.array(start[0, :, 0]), target, clip)


def score_of_librosa(clip: Samples, iterations: int, seed: int) -> Score:
    """librosa's non-negative least squares and Griffin-Lim, of the same mel."""
    mel, found = log_mel(clip), []

    def compute() -> mx.array:
        found.append(librosa_peer.magnitudes_of_mel(mel))
        return mx.array(librosa_peer.griffin_lim(found[-1], iterations, seed))

    librosa_peer.griffin_lim(librosa_peer.magnitudes_of_mel(mel[:8]), 1, seed)  # compiles
    run = run_once(compute)
    name = f"librosa {librosa_peer.load().__version__}, {iterations} iterations"
    return score(name, run.seconds, np.array(run.output), mx.array(found[-1])[None], clip)


def compare_inverse(target: mx.array, seed: int) -> Comparison:
    """One inverse STFT by polyconv and by MLX's own op, on the same spectrum."""
    spectrum = random_phases(target[:, :NATIVE_FRAMES], seed)
    mx.eval(spectrum)
    inverse = InverseSTFT(spectrum.shape[1])
    fast = run_repeatedly(inverse.overlap_add, spectrum)
    slow = run_repeatedly(inverse.native_overlap_add, spectrum)
    name = f"inverse STFT, {spectrum.shape[1]} frames"
    return Comparison(name, tuple(spectrum.shape), fast, slow)


def score_table(rows: Sequence[Score], console: Console) -> Table:
    """One line a waveform; ``METHOD`` explains the columns."""
    style = {"box": box.SIMPLE_HEAD} if console.is_terminal else {"box": None, "header_style": ""}
    table = Table("", **style)
    for heading in ("s", "spectral\nconvergence", "mel\ndistance dB", "linear\ndistance dB"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        seconds = "-" if row.seconds is None else f"{row.seconds:.2f}"
        figures = f"{row.convergence:.3f}", f"{row.mel_db:.2f}", f"{row.linear_db:.2f}"
        table.add_row(row.name, seconds, *figures)
    return table


def measure(
    clip: Samples, arguments: argparse.Namespace, watch: Watch
) -> tuple[Reconstruction, list[Score], Comparison]:
    """Everything that is printed, and the sound."""
    iterations, seed, mel = arguments.iterations, arguments.seed, log_mel(clip)
    name = f"Griffin-Lim, {iterations} iterations"
    step = watch(f"{name}, {len(mel)} frames", iterations)
    target, made, seconds = reconstruct(mel, arguments, step)
    found = [
        score_of_start(clip, target, seed),
        score(name, seconds, np.array(made.waveform[0, :, 0]), target, clip),
    ]
    if arguments.compare:
        step = watch("librosa", 1)
        found.append(score_of_librosa(clip, iterations, seed))
        step("librosa")
    step = watch("one inverse STFT, polyconv and native", 1)
    row = compare_inverse(target, seed)
    step("inverse STFT")
    return made, found, row


def write_outputs(folder: Path, clip: Samples, made: Reconstruction, mel_db: float) -> None:
    """Write the WAV and the picture, and say where."""
    wav, picture = (folder / name for name in OUTPUT_NAMES)
    sound = np.array(made.waveform[0, :, 0])
    write_wav(wav, sound)
    write_spectrograms(picture, clip, sound, made.convergence, mel_db)
    print(f"wrote {wav} and {picture}")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the example.

    Args:
        argv: command line without the program's name, default ``sys.argv[1:]``.

    Returns:
        Exit code: 0, or 2 if the clip, librosa or the output folder cannot be used.
    """
    arguments = parse_arguments(argv)
    try:
        clip = read_clip(arguments.input, arguments.frames)
        if arguments.compare:
            librosa_peer.load()
        prepare_outputs(arguments.out, OUTPUT_NAMES)
    except (ValueError, OSError) as error:
        print(f"istft_vocoder: {reason(error)}", file=sys.stderr)
        return 2
    display = Display(1)
    with display.bars:
        made, found, row = measure(clip, arguments, display.watch)
    console = report_console()
    console.print(score_table(found, console))
    console.print(comparison_table([row], console))
    print(METHOD)
    write_outputs(arguments.out, clip, made, found[1].mel_db)
    print(f"{len(clip) / SAMPLE_RATE:.2f} s of sound. {machine_sentence()}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
