"""Draws phases.svg: a transposed convolution as it is defined, and as two phases.

make figures
"""

from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from polyconv.phases import split
from polyconv.spec import Axis

STRIDE, KERNEL, PADDING, SIZE = 2, 4, 1, 4
LO = KERNEL - 1 - PADDING
AXIS = Axis(SIZE, KERNEL, input_dilation=STRIDE, padding_lo=LO, padding_hi=LO)
COLOURS = ("#2a6f97", "#d1495b")
ZERO, INK = "#b9bdc4", "#30343b"
GAP = 1.4  # from cell to cell


def cell(axes: Axes, x: float, y: float, text: str, colour: str, filled: bool = True) -> None:
    face = colour if filled else "white"
    axes.add_patch(Rectangle((x - 0.42, y - 0.3), 0.84, 0.6, facecolor=face, edgecolor=colour))
    ink = "white" if filled else colour
    axes.text(x, y, text, ha="center", va="center", color=ink)


def wire(axes: Axes, x0: float, x1: float, colour: str, tap: int) -> None:
    """From output x0 up to sample x1; long wires are labelled low, short ones above them."""
    axes.plot([x0, x1], [0.3, 2.3], color=colour, lw=1.1, zorder=0)
    where = 0.2 if abs(x1 - x0) > GAP else 0.45
    box = {"facecolor": "white", "edgecolor": "none", "pad": 0.6}
    x, y = x0 + where * (x1 - x0), 0.3 + where * 2
    axes.text(x, y, f"w{tap}", fontsize=8, color=colour, ha="center", va="center", bbox=box)


def zero_filled(axes: Axes) -> None:
    """Every product of the definition, those with an inserted zero in grey."""
    for i in range(AXIS.dilated_size):
        real = i % STRIDE == 0
        text = f"x{i // STRIDE}" if real else "0"
        cell(axes, GAP * i, 2.6, text, INK if real else ZERO, filled=real)
    for t in range(AXIS.output_size):
        cell(axes, GAP * (t - 0.5), 0, f"y{t}", COLOURS[t % STRIDE])
        for k in range(KERNEL):
            at = t + k - LO
            if 0 <= at < AXIS.dilated_size:
                colour = COLOURS[t % STRIDE] if at % STRIDE == 0 else ZERO
                wire(axes, GAP * (t - 0.5), GAP * at, colour, k)
    axes.set_title("As defined: zeros between the samples, one convolution", fontsize=10)


def phases(axes: Axes) -> None:
    """The same outputs by phase: `split` says which taps and samples."""
    for i in range(SIZE):
        cell(axes, GAP * STRIDE * i, 2.6, f"x{i}", INK)
    for phase in split(AXIS):
        for m in range(AXIS.output_size // STRIDE):
            t = STRIDE * m + phase.residue
            cell(axes, GAP * (t - 0.5), 0, f"y{t}", COLOURS[phase.residue])
            for j, k in enumerate(phase.taps):
                at = m + j - phase.padding_lo
                if 0 <= at < SIZE:
                    x = GAP * STRIDE * at
                    wire(axes, GAP * (t - 0.5), x, COLOURS[phase.residue], k)
    axes.set_title("As computed: two phases, each an ordinary convolution", fontsize=10)


def main() -> None:
    plt.rcParams.update({"svg.hashsalt": "polyconv", "font.size": 10})
    figure, (above, below) = plt.subplots(2, 1, figsize=(8, 6), layout="constrained")
    zero_filled(above)
    phases(below)
    for axes in (above, below):
        axes.set_aspect("equal")
        axes.axis("off")
        axes.autoscale_view()
    target = Path(__file__).parent / "phases.svg"
    figure.savefig(target, metadata={"Date": None})
    plt.close(figure)


if __name__ == "__main__":
    main()
