"""How does an explanation look? A small SVG: time, bytes and MACs by method. Standard library only.

It is as wide as a phone, its text stays text, and its colours follow the reader's light or dark. A
page of its own is white in some browsers, also in the dark: so it brings its background.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from html import escape
from typing import NamedTuple

from polyconv.inspection.report import Explanation, Line, gain, interval
from polyconv.planning.rates import si

# In units of the drawing, of which a phone shows about one a pixel.
WIDTH, MARGIN = 440, 12
_ROW, _BAR, _LINE = 28, 14, 18
_BARS = 124  # where bars begin, right of the names
_LONGEST = 176  # of bars; their values are right of them
_IN_A_LINE = 58  # characters of the smallest text

_STYLE = """
 text { font: 14px system-ui, sans-serif; fill: #30343b; }
 .small { font-size: 13px; }
 .head, .taken { font-weight: bold; }
 .paper { fill: #fdfdfd; }
 .good { fill: #2a6f97; }
 .waste { fill: #c8384c; }
 .bounds { stroke: #30343b; stroke-width: 2; fill: none; }
 @media (prefers-color-scheme: dark) {
  text { fill: #d5dae2; }
  .paper { fill: #16191d; }
  .good { fill: #63b3de; }
  .waste { fill: #f28b98; }
  .bounds { stroke: #d5dae2; }
 }
"""


class _Bar(NamedTuple):
    """Of one method: coloured parts and bounds, in the panel's unit, and the value as text."""

    parts: tuple[tuple[str, float], ...] = ()
    bounds: tuple[float, float] | None = None
    told: str = "-"

    @property
    def end(self) -> float:
        return max(sum(size for _, size in self.parts), self.bounds[1] if self.bounds else 0.0)


def svg(told: Explanation) -> str:
    """The drawing of an explanation, as the text of a file."""
    panels = (
        ("Time of a call, with its bounds", (), _time),
        ("Bytes beside arguments and result", (("waste", "unfold"), ("good", "other")), _bytes),
        ("Multiply-accumulates", (("good", "needed"), ("waste", "on zeros")), _macs),
    )
    on = f"{told.call} -> {told.output_shape}, on {told.device}. "
    drawn, y = _texts(on + " ".join(gain(told)), MARGIN)
    for title, legend, bar_of in panels:
        drawn.append(_title(title, legend, y + _ROW))
        y += _ROW + 8
        rows = [(line, bar_of(line) if line.n_convs else _Bar()) for line in told.lines]
        unit = _LONGEST / (max(bar.end for _, bar in rows) or 1)
        for line, bar in rows:
            drawn += _row(line.method, line.method == told.chosen, bar, unit, y)
            y += _ROW
    about = (
        f"All is predicted for {told.device} by the rules of {told.rule_set}; nothing is measured. "
        "Nine times in ten a time lies between its bounds; the bar is its middle. The arrow marks "
        "what auto takes. Unfold are copies of all windows, other are all other buffers."
    )
    lines, y = _texts(about, y + 6)
    return _document([*drawn, *lines], y + MARGIN, told)


def _time(line: Line) -> _Bar:
    if line.time is None:
        return _Bar()
    bounds = line.time.least, line.time.most
    return _Bar((("good", line.time.seconds),), bounds, interval(line.time))


def _bytes(line: Line) -> _Bar:
    parts = ("waste", float(line.unfold_bytes)), ("good", float(line.temporary_bytes))
    return _Bar(parts, None, f"{si(line.unfold_bytes + line.temporary_bytes)}B")


def _macs(line: Line) -> _Bar:
    needed = float(line.macs - line.macs_on_zeros)
    return _Bar((("good", needed), ("waste", float(line.macs_on_zeros))), None, si(line.macs))


def _document(drawn: Sequence[str], height: int, told: Explanation) -> str:
    name = escape(f"Time, bytes and multiply-accumulates by method of {told.call}")
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
            f'width="100%" style="max-width: {2 * WIDTH}px" role="img">',
            f"<title>{name}</title>",
            f"<desc>{escape(' '.join(gain(told)))}</desc>",
            f"<style>{_STYLE}</style>",
            f'<rect class="paper" width="{WIDTH}" height="{height}"/>',
            *drawn,
            "</svg>\n",
        ]
    )


def _texts(words: str, y: int) -> tuple[list[str], int]:
    """A paragraph of small text below `y`, and where it ends."""
    lines = textwrap.wrap(words, _IN_A_LINE)
    drawn = [_text(MARGIN, y + _LINE * i, line, "small") for i, line in enumerate(lines, 1)]
    return drawn, y + _LINE * len(lines)


def _title(words: str, legend: Sequence[tuple[str, str]], y: int) -> str:
    names = " ".join(f'<tspan class="{kind}">{escape(name)}</tspan>' for kind, name in legend)
    return f'<text x="{MARGIN}" y="{y}"><tspan class="head">{escape(words)}</tspan> {names}</text>'


def _row(method: str, taken: bool, bar: _Bar, unit: float, y: int) -> list[str]:
    """A method's name, its bar and its value."""
    middle, base = y + _ROW / 2, y + _ROW // 2 + 5
    name = f"\u2192 {method}" if taken else method
    drawn = [_text(MARGIN, base, name, "name taken" if taken else "name")]
    x = float(_BARS)
    for kind, size in bar.parts:
        if size:
            at = f'x="{x:.1f}" y="{middle - _BAR / 2:g}" height="{_BAR}"'
            drawn.append(f'<rect class="{kind}" {at} width="{max(unit * size, 1):.1f}"/>')
        x += unit * size
    if bar.bounds:
        least, most = (f"{_BARS + unit * bound:.1f}" for bound in bar.bounds)
        ends = "".join(f"M{x} {middle - 4:g}v8" for x in (least, most))
        drawn.append(f'<path class="bounds" d="M{least} {middle:g}H{most}{ends}"/>')
    value = escape(bar.told.strip())
    drawn.append(f'<text x="{WIDTH - MARGIN}" y="{base}" text-anchor="end">{value}</text>')
    return drawn


def _text(x: int, y: int, words: str, kind: str) -> str:
    return f'<text class="{kind}" x="{x}" y="{y}">{escape(words)}</text>'
