"""Prints what the vocoder example measured, and writes its sound and picture.

Answers: is polyconv's output MLX's own, what did it cost, and what do the clip and the
generated waveform look like? A table for terminals, plain columns when piped.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import mlx.core as mx
import numpy as np
import soundfile
from matplotlib.axes import Axes
from measure import LAYER_REPEATS, Comparison, Run
from mel import HOP, SAMPLE_RATE, mel_heights
from numpy.typing import NDArray
from rich import box
from rich.console import Console
from rich.table import Table

from polyconv.inspection import blas
from polyconv.inspection.explain import gpu_told

METHOD = (
    "Times in seconds; ratios are native / polyconv. Layers: median of "
    f"{LAYER_REPEATS} passes after a warm-up, fed by the upsampling stack; models: one pass "
    "after another, evaluated layer by layer. MiB: most MLX memory live beyond the weights and "
    "the input."
)
NOT_RUN = "-"
# The table needs this many columns to print a comparison on one line.
ONE_LINE_WIDTH = 115
_SHAPES_HEADING = "(time x channels)"
_HEADINGS = (
    "max abs\ndiff",
    "native\ns",
    "polyconv\ns",
    "ratio",
    "native\nMiB",
    "polyconv\nMiB",
    "ratio",
)


def report_console() -> Console:
    """Console on stdout: as wide as the terminal, or wide enough for the table when piped."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(width=ONE_LINE_WIDTH, highlight=False)


def comparison_table(rows: Sequence[Comparison], console: Console) -> Table:
    """Table of the comparisons, whose terms ``METHOD`` explains.

    Args:
        rows: what was measured, in printing order.
        console: where it will be printed. A narrow one gets the shapes under the names, one
            that is piped gets neither rules nor colour.

    Returns:
        The table.
    """
    one_line = console.width >= ONE_LINE_WIDTH
    if console.is_terminal:
        table = Table(box=box.SIMPLE_HEAD, padding=(0, int(one_line)), header_style="bold")
    else:
        table = Table(box=None, header_style="")
    labels = ("", _SHAPES_HEADING) if one_line else (f"\n{_SHAPES_HEADING}",)
    for label in labels:
        table.add_column(label, no_wrap=True)
    for heading in _HEADINGS:
        table.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        names = (row.name, _shapes(row)) if one_line else (f"{row.name}\n{_shapes(row)}",)
        table.add_row(*names, *_cells(row))
    return table


def _shapes(row: Comparison) -> str:
    ends = (row.input_shape[1:], row.polyconv.output.shape[1:])
    return " -> ".join("x".join(map(str, shape)) for shape in ends)


def _cells(row: Comparison) -> list[str]:
    fast, slow, difference = row.polyconv, row.native, row.max_abs_difference()
    if slow is None or difference is None:
        lone = [NOT_RUN, NOT_RUN, _seconds(fast), NOT_RUN, NOT_RUN, _mebibytes(fast), NOT_RUN]
        return lone
    return [
        f"{difference:.1e}",
        _seconds(slow),
        _seconds(fast),
        f"{slow.seconds / fast.seconds:.2f}",
        _mebibytes(slow),
        _mebibytes(fast),
        f"{slow.peak_bytes / fast.peak_bytes:.2f}" if fast.peak_bytes else NOT_RUN,
    ]


def _seconds(run: Run) -> str:
    return f"{run.seconds:.2f}" if run.seconds >= 1 else f"{run.seconds:.4f}"


def _mebibytes(run: Run) -> str:
    return f"{run.peak_bytes / 2**20:.1f}"


def write_wav(path: Path, samples: NDArray[np.float32]) -> None:
    """Write samples in [-1, 1], shape (N,), as 16-bit PCM at 22.05 kHz."""
    soundfile.write(path, np.clip(samples, -1.0, 1.0), SAMPLE_RATE, subtype="PCM_16")


def write_picture(
    path: Path,
    mel: NDArray[np.float32],
    original: NDArray[np.float32],
    generated: NDArray[np.float32],
    label: str,
) -> None:
    """Draw the log-mel above the original and the generated waveform, on one time axis.

    Args:
        path: PNG to write.
        mel: log-mel, shape (T, 80).
        original: samples the mel was made from, shape (N,).
        generated: samples the generator made of it, shape (T * HOP,).
        label: what the generated waveform is.
    """
    seconds = len(mel) * HOP / SAMPLE_RATE
    with plt.rc_context({"axes.spines.top": False, "axes.spines.right": False}):
        figure, axes = plt.subplots(
            3, 1, figsize=(10, 7), sharex=True, height_ratios=(2.2, 1, 1), layout="constrained"
        )
        image = axes[0].imshow(
            mel.T, origin="lower", aspect="auto", extent=(0, seconds, 0, mel.shape[1]), cmap="magma"
        )
        ticks = np.array([0, 500, 1000, 2000, 4000, 8000])
        axes[0].set_yticks(mel.shape[1] * mel_heights(ticks), [f"{hz / 1000:g}" for hz in ticks])
        axes[0].set(ylabel="frequency, kHz", title="Log-mel spectrogram, the generator's input")
        figure.colorbar(image, ax=axes[0], label="log magnitude", pad=0.01, aspect=15)
        _draw_waveform(axes[1], original, "Original waveform", "#4c566a")
        _draw_waveform(axes[2], generated, f"Generated waveform ({label})", "#b5446e")
        axes[2].set(xlabel="time, s", xlim=(0, seconds))
        figure.savefig(path, dpi=130)
        plt.close(figure)


def _draw_waveform(axis: Axes, samples: NDArray[np.float32], title: str, colour: str) -> None:
    axis.axhline(0.0, color="0.85", linewidth=0.8)
    axis.plot(np.arange(len(samples)) / SAMPLE_RATE, samples, color=colour, linewidth=0.4)
    reach = max(0.05, 1.1 * float(np.abs(samples).max()))
    axis.set(title=title, ylabel="amplitude", ylim=(-reach, reach))


def machine_sentence() -> str:
    """What the numbers were measured with: MLX, device, and on a CPU the speed of its matmul."""
    device = "GPU" if mx.default_device().type == mx.DeviceType.gpu else "CPU"
    machine = f"{platform.system()} {platform.machine()} machine"
    where = f"This was MLX {version('mlx')} on the {device} of this {machine}"
    if device == "GPU":
        return f"{where}: {gpu_told()}."
    a = mx.random.normal((512, 512))
    mx.eval(a, a @ a)
    start = time.perf_counter()
    mx.eval(a @ a)
    speed = 2e-9 * 512**3 / (time.perf_counter() - start)
    return (
        f"{where}, whose matrix products ({_blas_name()}) ran at {speed:.1f} GFLOP/s: "
        "with another BLAS these times would differ."
    )


def _blas_name() -> str:
    """The BLAS that MLX's products on a CPU run on."""
    here = blas.in_force()
    if here is None:
        return "the BLAS that came with MLX"
    return Path(here).name
