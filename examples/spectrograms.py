"""Draws a clip's spectrogram, its mel, and the spectrogram of what was made of the mel.

Answers: what is lost with the phases and the fine structure, and how fast does Griffin-Lim get
where it gets?
"""

from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
from distances import DB_PER_NEPER, RANGE_DB
from matplotlib.axes import Axes
from matplotlib.image import AxesImage
from mel import FMAX, HOP, SAMPLE_RATE, FloatArray, log_mel, magnitudes, mel_heights
from numpy.typing import NDArray

NYQUIST_KHZ = SAMPLE_RATE / 2000


def write_spectrograms(
    path: Path,
    clip: NDArray[np.float32],
    made: NDArray[np.float32],
    convergence: list[float],
    distance_db: float,
) -> None:
    """Three spectrograms on one time axis, and the convergence beside them.

    Args:
        path: PNG to write.
        clip: samples the mel was made from, shape (N,).
        made: samples made of the mel, shape (N,).
        convergence: spectral convergence by iteration, from 0.
        distance_db: log-spectral distance between their mels.
    """
    figure, grid = plt.subplots(
        4, 1, figsize=(10, 10), height_ratios=(1, 0.8, 1, 0.5), layout="constrained"
    )
    mel = DB_PER_NEPER * log_mel(clip).astype(np.float64)
    original, reconstructed = (DB_PER_NEPER * np.log(magnitudes(x)) for x in (clip, made))
    _draw(grid[0], original - original.max(), "Original speech")
    _draw(grid[1], mel - mel.max(), "Its mel, 80 bands without phases: all that is kept")
    title = f"Speech made of the mel by {len(convergence) - 1} Griffin-Lim iterations"
    image = _draw(
        grid[2],
        reconstructed - original.max(),
        f"{title}: its own mel is {distance_db:.1f} dB from the one above",
    )
    _label_mels(grid[1])
    for axes in (grid[0], grid[2]):
        _mark_the_highest_band(axes)
    for axes in grid[:2]:
        axes.tick_params(labelbottom=False)
    grid[2].set_xlabel("time, s")
    figure.colorbar(
        image, ax=list(grid[:3]), label="level, dB from the original's peak", pad=0.01, aspect=40
    )
    _draw_convergence(grid[3], convergence)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def _draw(axes: Axes, level: FloatArray, title: str) -> AxesImage:
    """Levels of shape (T, bands or bins), from the peak down."""
    axes.set_title(title, loc="left")
    axes.set_ylabel("frequency, kHz")
    extent = (0, len(level) * HOP / SAMPLE_RATE, 0, NYQUIST_KHZ)
    return axes.imshow(
        level.T, origin="lower", aspect="auto", extent=extent, cmap="magma", vmin=-RANGE_DB, vmax=0
    )


def _label_mels(axes: Axes) -> None:
    """The axis of mel bands, labelled in kHz."""
    ticks = np.array([0, 500, 1000, 2000, 4000, 8000])
    axes.set_yticks(NYQUIST_KHZ * mel_heights(ticks), [f"{hz / 1000:g}" for hz in ticks])


def _mark_the_highest_band(axes: Axes) -> None:
    line = {"color": "white", "linewidth": 0.8, "alpha": 0.7}
    axes.axhline(FMAX / 1000, linestyle=(0, (4, 4)), **line)
    axes.annotate(
        "the mel ends here",
        (0.995, FMAX / 1000),
        xycoords=("axes fraction", "data"),
        textcoords="offset points",
        xytext=(0, 4),
        ha="right",
        fontsize=9,
        color="white",
    )


def _draw_convergence(axes: Axes, convergence: list[float]) -> None:
    axes.plot(convergence, color="#b5446e", linewidth=1.6)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)
    axes.set(xlabel="iteration", ylabel="relative", xlim=(0, len(convergence) - 1))
    axes.set_ylim(0, 1.05 * max(convergence))
    axes.set_title(
        "Spectral convergence: how far from the magnitudes found for the mel", loc="left"
    )
    axes.annotate(
        f"{convergence[-1]:.3f}",
        (len(convergence) - 1, convergence[-1]),
        textcoords="offset points",
        xytext=(-4, 5),
        ha="right",
    )
