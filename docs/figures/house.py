"""Draws docs/figures/house.svg: the wings of the package and the imports between them.

python docs/figures/house.py

Everything in it is read from the source: the wings and their order from
tests/whole/test_layering.py, the arrows from the imports, the words from the first line of each
wing's `__init__.py`.
"""

from __future__ import annotations

import ast
import sys
import textwrap
from html import escape
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from tests.whole import test_layering as layering  # noqa: E402

WIDTH, HEIGHT, GAP_X, GAP_Y, MARGIN = 250, 82, 44, 34, 12
DOORS = "polyconv"

STYLE = """
  .box { fill: #f4f1ea; stroke: #6b6257; }
  .pure { fill: #e6eef2; }
  .name { font: bold 15px sans-serif; fill: #222; }
  .says { font: 12px sans-serif; fill: #444; }
  .arrow { stroke: #6b6257; fill: none; stroke-width: 1.4; marker-end: url(#tip); }
  #tip path { fill: #6b6257; }
  @media (prefers-color-scheme: dark) {
    .box { fill: #2b2a28; stroke: #b9b0a3; }
    .pure { fill: #243038; }
    .name { fill: #eee; }
    .says { fill: #ccc; }
    .arrow { stroke: #b9b0a3; }
    #tip path { fill: #b9b0a3; }
  }
"""


def arrows() -> dict[str, set[str]]:
    """Of each wing, and of the doors, the wings that it imports from."""
    found: dict[str, set[str]] = {DOORS: set(), **{wing: set() for wing in layering.WINGS}}
    for module, others in layering.graph().items():
        here = layering.wing(module) or DOORS
        found[here] |= {layering.wing(each) for each in others} - {"", here}
    return found


def levels(found: dict[str, set[str]]) -> dict[str, int]:
    """How many floors each stands above the ground."""
    level: dict[str, int] = {}
    for wing in (*reversed(layering.WINGS), DOORS):
        level[wing] = max((level[each] + 1 for each in found[wing]), default=0)
    return level


def needed(found: dict[str, set[str]]) -> list[tuple[str, str]]:
    """The arrows that no way over other wings says already."""

    def reached(wing: str) -> set[str]:
        return found[wing].union(*map(reached, found[wing]))

    return [
        (wing, other)
        for wing, others in found.items()
        for other in sorted(others)
        if not any(other in reached(each) for each in others)
    ]


def says(wing: str) -> str:
    """The first line of a wing's docstring."""
    init = layering.PACKAGE / ("" if wing == DOORS else wing) / "__init__.py"
    return (ast.get_docstring(ast.parse(init.read_text())) or "").split("\n")[0]


def drawn() -> str:
    found = arrows()
    level = levels(found)
    floors = [[w for w in found if level[w] == n] for n in range(max(level.values()), -1, -1)]
    widest = max(map(len, floors))
    width = 2 * MARGIN + widest * WIDTH + (widest - 1) * GAP_X
    place: dict[str, tuple[float, float]] = {}
    for row, wings in enumerate(floors):
        left = (width - len(wings) * WIDTH - (len(wings) - 1) * GAP_X) / 2
        for column, wing in enumerate(wings):
            place[wing] = (left + column * (WIDTH + GAP_X), MARGIN + row * (HEIGHT + GAP_Y))
    lines = [_arrow(place, *pair) for pair in needed(found)]
    lines += [_box(wing, *at) for wing, at in place.items()]
    height = 2 * MARGIN + len(floors) * HEIGHT + (len(floors) - 1) * GAP_Y
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}">'
    )
    tip = '<path d="M 0 0 L 8 4 L 0 8 z"/>'
    marker = 'id="tip" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="8" markerHeight="8"'
    defs = f'<defs><marker {marker} orient="auto">{tip}</marker></defs>'
    title = "<title>The wings of polyconv; each imports only from those below it</title>"
    return "\n".join([head, title, f"<style>{STYLE}</style>", defs, *lines, "</svg>", ""])


def _arrow(place: dict[str, tuple[float, float]], above: str, below: str) -> str:
    (x1, y1), (x2, y2) = place[above], place[below]
    begin, end = (x1 + WIDTH / 2, y1 + HEIGHT), (x2 + WIDTH / 2, y2)
    bend = (end[1] - begin[1]) / 2
    first, second = f"{begin[0]} {begin[1] + bend}", f"{end[0]} {end[1] - bend}"
    path = f"M {begin[0]} {begin[1]} C {first}, {second}, {end[0]} {end[1]}"
    return f'<path class="arrow" d="{path}"/>'


def _box(wing: str, x: float, y: float) -> str:
    kind = "box pure" if wing in layering.PURE else "box"
    name = "polyconv: its doors" if wing == DOORS else f"{wing}/"
    text = [f'<text class="name" x="{x + 10}" y="{y + 22}">{name}</text>']
    for row, line in enumerate(textwrap.wrap(says(wing), 40)[:3]):
        where = f'x="{x + 10}" y="{y + 42 + 15 * row}"'
        text.append(f'<text class="says" {where}>{escape(line)}</text>')
    box = f'<rect class="{kind}" x="{x}" y="{y}" width="{WIDTH}" height="{HEIGHT}" rx="6"/>'
    return "\n".join([box, *text])


if __name__ == "__main__":
    (Path(__file__).parent / "house.svg").write_text(drawn())
