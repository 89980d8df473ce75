"""Two axes: the taps of a kernel by phase, and the four outputs woven into one."""

from __future__ import annotations

from itertools import product

from ink import INK, PHASES, ZERO, cell, new_figure, note
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from polyconv.problem.phases import Phase, split
from polyconv.problem.spec import Axis

STRIDE, KERNEL, PADDING, SIZE = 2, 4, 1, 3
LO = KERNEL - 1 - PADDING
AXIS = Axis(SIZE, KERNEL, input_dilation=STRIDE, padding_lo=LO, padding_hi=LO)
SHOWN = (2, 3)  # the output whose window is drawn
STEP = 0.75  # from cell to cell
BOX = {"wide": 0.68, "high": 0.68}


def phases() -> list[tuple[Phase, Phase]]:
    """A phase of the rows with one of the columns."""
    return list(product(split(AXIS), repeat=2))


def number(down: int, right: int) -> int:
    """Of the phase with these residues."""
    return STRIDE * down + right


def phase_of_tap(tap: tuple[int, int]) -> int:
    for down, right in phases():
        if tap[0] in down.taps and tap[1] in right.taps:
            return number(down.residue, right.residue)
    raise ValueError(f"a tap in no phase: {tap}")


def phases_figure() -> Figure:
    """One window on the zero-filled picture; the kernel by phase; the four kernels."""
    figure, (above, below) = new_figure(6, 6.6, rows=2)
    _window(above)
    _kernels(below)
    return figure


def _window(axes: Axes) -> None:
    """The zero-filled picture, and on it the kernel where it makes one output."""
    shown = number(*(t % STRIDE for t in SHOWN))
    for row, column in product(range(-1, AXIS.dilated_size + 1), repeat=2):
        inside = min(row, column) >= 0 and max(row, column) < AXIS.dilated_size
        real = inside and row % STRIDE == column % STRIDE == 0
        text = f"x{row // STRIDE}{column // STRIDE}" if real else "0"
        in_window = all(0 <= at - t + LO < KERNEL for at, t in zip((row, column), SHOWN))
        colour = (PHASES[shown] if in_window else INK) if real else ZERO
        cell(axes, STEP * column, -STEP * row, text, colour, real, dashed=not inside, **BOX)
    corner = [STEP * (t - LO - 0.5) for t in SHOWN]
    side = STEP * KERNEL
    frame = {"facecolor": "none", "edgecolor": PHASES[shown], "linewidth": 2.4}
    axes.add_patch(Rectangle((corner[1], -corner[0] - side), side, side, **frame))
    axes.set_title(
        f"y{SHOWN[0]}{SHOWN[1]} as defined: 16 taps on a picture filled with zeros,\n"
        f"of which {len(met_by(SHOWN))} meet a sample",
        color=INK,
    )


def met_by(output: tuple[int, int]) -> list[tuple[int, int]]:
    """The taps of an output that meet a sample."""
    found = []
    for down, right in phases():
        if (down.residue, right.residue) != tuple(t % STRIDE for t in output):
            continue
        for (i, row), (j, column) in product(enumerate(down.taps), enumerate(right.taps)):
            at = (
                output[0] // STRIDE - down.padding_lo + i,
                output[1] // STRIDE - right.padding_lo + j,
            )
            if min(at) >= 0 and max(at) < SIZE:
                found.append((row, column))
    return found


def _kernels(axes: Axes) -> None:
    """The kernel with each tap in the colour of its phase, and the phases' own kernels."""
    for tap in product(range(KERNEL), repeat=2):
        colour = PHASES[phase_of_tap(tap)]
        cell(axes, STEP * tap[1], -STEP * tap[0], f"w{tap[0]}{tap[1]}", colour, **BOX)
    _arrow(axes, 3.0)
    for down, right in phases():
        colour = PHASES[number(down.residue, right.residue)]
        for (i, row), (j, column) in product(enumerate(down.taps), enumerate(right.taps)):
            x = 4.6 + 2 * right.residue + STEP * j
            y = 0.25 - 2 * down.residue - STEP * i
            cell(axes, x, y, f"w{row}{column}", colour, **BOX)
    axes.set_title("The taps by phase: four kernels of 2 by 2", color=INK)


def _arrow(axes: Axes, x: float, y: float = -1.125) -> None:
    style = {"arrowstyle": "-|>", "color": ZERO, "lw": 1.6}
    axes.annotate("", (x + 0.7, y), (x - 0.1, y), arrowprops=style)


def weaving_figure() -> Figure:
    """Four outputs of the input's size, and the one they make."""
    figure, (axes,) = new_figure(6, 3.6)
    for down, right in phases():
        colour = PHASES[number(down.residue, right.residue)]
        for row, column in product(range(SIZE), repeat=2):
            y, x = STRIDE * row + down.residue, STRIDE * column + right.residue
            small = (2.5 * right.residue + STEP * column, -2.5 * down.residue - STEP * row)
            cell(axes, *small, f"y{y}{x}", colour, **BOX)
            cell(axes, 6 + STEP * x, -0.15 - STEP * y, f"y{y}{x}", colour, **BOX)
    _arrow(axes, 4.7, -2.0)
    note(axes, 2.0, 0.85, "four convolutions of the 3 by 3 input")
    note(axes, 6 + 2.5 * STEP, 0.85, "woven: 6 by 6")
    return figure
