"""Runs a HiFi-GAN vocoder on polyconv's transposed convolutions, and on MLX's own.

Answers: does a real model give the same sound with polyconv, and what does it cost in time
and memory? Speech goes to a log-mel, the log-mel back to a waveform; see ``--help``.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from checkpoint import load_checkpoint
from command_line import Display, at_least, prepare_outputs, reason
from hifigan import VARIANTS, Generator, PolyConv1d, seed_weights
from measure import Comparison, Forward, Run, Watch, compare_layers, probe_native, run_model
from mel import HOP, SAMPLE_RATE, log_mel
from numpy.typing import NDArray
from report import (
    METHOD,
    comparison_table,
    machine_sentence,
    report_console,
    write_picture,
    write_wav,
)
from speech import BUNDLED_CLIP, read_speech

from polyconv import PolyConvTranspose1d

OUTPUT_NAMES = ("generated.wav", "vocoder.png")


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Command line of the example, as ``--help`` describes it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--wav", type=Path, default=BUNDLED_CLIP, help="mono 22.05 kHz WAV (default: bundled)"
    )
    parser.add_argument("--variant", choices=VARIANTS, default="v1", help="default: v1")
    parser.add_argument(
        "--weights",
        type=Path,
        help="HiFi-GAN checkpoint of this variant: .safetensors or PyTorch's own format",
    )
    parser.add_argument("--frames", type=at_least(1, int), help="use only the first frames")
    parser.add_argument(
        "--native-seconds",
        type=at_least(0, float),
        default=10.0,
        help="time for the native runs it is compared with; 0 skips them (default: 10)",
    )
    parser.add_argument(
        "--layers-only", action="store_true", help="run the transposed convolutions alone"
    )
    parser.add_argument("--seed", type=at_least(0, int), default=0, help="of random weights")
    parser.add_argument(
        "--out", type=Path, default=Path("build/vocoder"), help="default: build/vocoder"
    )
    return parser.parse_args(argv)


def build_generators(arguments: argparse.Namespace) -> tuple[Generator, Generator]:
    """The same generator with polyconv's layers and with MLX's, sharing their weights."""
    config = VARIANTS[arguments.variant]
    polyconv = Generator(config, PolyConvTranspose1d, PolyConv1d)
    native = Generator(config, nn.ConvTranspose1d)
    if arguments.weights:
        load_checkpoint(polyconv, arguments.weights)
    else:
        seed_weights(polyconv, arguments.seed)
    native.update(polyconv.parameters())
    mx.eval(polyconv.parameters(), native.parameters())
    return polyconv, native


def forward_of(generator: Generator, layers_only: bool) -> Forward:
    """The pass to measure: the whole generator, or its transposed convolutions alone."""
    return generator.upsampling_stack if layers_only else generator


def measure(
    polyconv: Generator,
    native: Generator,
    mel: mx.array,
    arguments: argparse.Namespace,
    watch: Watch,
) -> tuple[list[Comparison], Run]:
    """Everything that is timed, and the run on the whole clip, whose output is the sound."""
    fast = forward_of(polyconv, arguments.layers_only)
    model = "stack" if arguments.layers_only else "generator"
    total = mel.shape[1]
    run_model(fast, mel, watch(f"polyconv, warm-up, {total} frames"))
    whole = run_model(fast, mel, watch(f"polyconv, whole clip, {total} frames"))
    if not arguments.native_seconds:
        lone = Comparison(f"{model}, {total} frames", tuple(mel.shape), whole, None)
        return [*compare_layers(polyconv, None, mel, watch), lone], whole
    slow = forward_of(native, arguments.layers_only)
    frames, reference = probe_native(slow, mel, arguments.native_seconds, watch)
    head = mel[:, :frames]
    rows = compare_layers(polyconv, native, head, watch)
    name = f"{model}, {frames} frames"
    if frames == total:
        return [*rows, Comparison(name, tuple(mel.shape), whole, reference)], whole
    run_model(fast, head, watch(f"polyconv, warm-up, {frames} frames"))
    again = run_model(fast, head, watch(f"polyconv, {frames} frames"))
    rows.append(Comparison(name, tuple(head.shape), again, reference))
    rows.append(Comparison(f"{model}, {total} frames", tuple(mel.shape), whole, None))
    return rows, whole


def write_outputs(
    arguments: argparse.Namespace, samples: NDArray[np.float32], mel: NDArray[np.float32], run: Run
) -> None:
    """Write the generated WAV and the picture, and say where."""
    generated = np.array(run.output[0, :, 0])
    wav, picture = (arguments.out / name for name in OUTPUT_NAMES)
    label = f"random weights, seed {arguments.seed}: noise, not speech"
    if arguments.weights:
        label = arguments.weights.name
    write_wav(wav, generated)
    write_picture(picture, mel, samples[: len(generated)], generated, label)
    print(f"wrote {wav} and {picture}")


def summary(rows: Sequence[Comparison], whole: Run, frames: int) -> str:
    """The last line: what was measured, in plain words."""
    sentences = [
        f"Measured: polyconv ran on {frames} frames ({frames * HOP / SAMPLE_RATE:.2f} s of sound) "
        f"in {whole.seconds:.1f} s."
    ]
    compared = [(row, row.native) for row in rows if row.native is not None]
    if compared:
        model, native = compared[-1]
        largest = max(row.max_abs_difference() or 0.0 for row, _ in compared)
        compared_frames = model.input_shape[1]
        which = "all" if compared_frames == frames else f"the first {compared_frames}"
        sentences.append(
            f"On {which} of them, with the same weights, native MLX took "
            f"{native.seconds:.2f} s and polyconv {model.polyconv.seconds:.2f} s, and no "
            f"output differed by more than {largest:.1e}."
        )
    else:
        sentences.append("Native MLX was not run, so nothing was compared.")
    return " ".join([*sentences, machine_sentence(), "No time is extrapolated from another."])


def main(argv: Sequence[str] | None = None) -> int:
    """Run the example.

    Args:
        argv: command line without the program's name, default ``sys.argv[1:]``.

    Returns:
        Exit code: 0, or 2 if the clip, the weights or the output folder cannot be used.
    """
    arguments = parse_arguments(argv)
    try:
        samples = read_speech(arguments.wav)
        polyconv, native = build_generators(arguments)
        if not arguments.layers_only:
            prepare_outputs(arguments.out, OUTPUT_NAMES)
    except (ValueError, OSError) as error:
        print(f"vocoder_upsampler: {reason(error)}", file=sys.stderr)
        return 2
    mel = log_mel(samples)[: arguments.frames]
    if not arguments.weights:
        print("Random weights: the sound is noise; only parity, time and memory mean something.")
    display = Display(len(polyconv.step_names(arguments.layers_only)))
    with display.bars:
        rows, whole = measure(polyconv, native, mx.array(mel[None]), arguments, display.watch)
    console = report_console()
    console.print(comparison_table(rows, console))
    print(METHOD)
    if not arguments.layers_only:
        write_outputs(arguments, samples, mel, whole)
    print(summary(rows, whole, len(mel)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
