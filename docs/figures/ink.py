"""Cells, wires and colours of the figures, which follow the reader's light or dark.

matplotlib draws in the colours of a light page; in the SVG each becomes a variable that is another
in the dark. Text stays text.
"""

from __future__ import annotations

import re
from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

# name: (in the light, in the dark)
PALETTE = {
    "ink": ("#30343b", "#d5dae2"),
    "on": ("#fefefe", "#16191d"),  # text on a filled cell
    "paper": ("#fdfdfd", "#16191d"),  # behind labels of wires
    "zero": ("#a3a8b0", "#6b727d"),
    "phase0": ("#2a6f97", "#63b3de"),
    "phase1": ("#c8384c", "#f28b98"),
    "phase2": ("#3c8054", "#79c795"),
    "phase3": ("#9c6410", "#e2ad55"),
}
LIGHT = {name: light for name, (light, _) in PALETTE.items()}
PHASES = [LIGHT[f"phase{i}"] for i in range(4)]
INK, ON, PAPER, ZERO = (LIGHT[name] for name in ("ink", "on", "paper", "zero"))

STYLE = {
    "svg.hashsalt": "polyconv",
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 11,
}


def new_figure(width: float, height: float, rows: int = 1) -> tuple[Figure, list[Axes]]:
    """A figure of `rows` panels, in inches: 6 are as wide as a page, and legible on a phone."""
    plt.rcParams.update(STYLE)
    figure, panels = plt.subplots(
        rows, 1, figsize=(width, height), layout="constrained", squeeze=False
    )
    return figure, list(panels[:, 0])


def cell(
    axes: Axes,
    x: float,
    y: float,
    text: str,
    colour: str,
    filled: bool = True,
    gid: str | None = None,
    wide: float = 0.84,
    high: float = 0.62,
    dashed: bool = False,
) -> None:
    """A labelled box about (x, y); `gid` names it and its label in the SVG."""
    face = colour if filled else "none"
    box = Rectangle((x - wide / 2, y - high / 2), wide, high, facecolor=face, edgecolor=colour)
    if dashed:
        box.set_linestyle((0, (2, 2)))
    ink = ON if filled else colour
    label = axes.text(x, y, text, ha="center", va="center", color=ink)
    if gid:
        box.set_gid(f"{gid}-box-{x:g}-{y:g}")
        label.set_gid(f"{gid}-label-{x:g}-{y:g}")
    axes.add_patch(box)


def note(axes: Axes, x: float, y: float, text: str, colour: str = INK, **options: object) -> None:
    """Text, centred at (x, y) unless told otherwise."""
    axes.text(x, y, text, color=colour, **{"ha": "center", "va": "center", **options})


def save(figure: Figure, target: Path, css: str = "") -> None:
    """Writes the figure, with variables for colours and `css` for what else moves or hides."""
    for axes in figure.axes:
        axes.set_aspect("equal")
        axes.axis("off")
        axes.autoscale_view()
    figure.savefig(
        target, metadata={"Date": None}, transparent=True, bbox_inches="tight", pad_inches=0.06
    )
    plt.close(figure)
    text = re.sub(r"(?<=: )#[0-9a-f]{6}\b", _variable, target.read_text())
    text = re.sub(r"font: (\d+)px [^;\"]*", r"font: \1px system-ui, sans-serif", text)
    text = "\n".join(line.rstrip() for line in text.splitlines()) + "\n"
    start = text.index(">", text.index("<svg ")) + 1
    target.write_text(f"{text[:start]}\n <style>{_colours()}{css} </style>{text[start:]}")


def _variable(match: re.Match[str]) -> str:
    names = [name for name, colour in LIGHT.items() if colour == match[0]]
    if not names:
        raise ValueError(f"a colour that is not in the palette: {match[0]}")
    return f"var(--{names[0]}, {match[0]})"


def _colours() -> str:
    light, dark = (
        " ".join(f"--{name}: {pair[i]};" for name, pair in PALETTE.items()) for i in (0, 1)
    )
    return f"\n:root {{ {light} }}\n@media (prefers-color-scheme: dark) {{ :root {{ {dark} }} }}\n"
