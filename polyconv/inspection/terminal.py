"""An explanation for a user of the command line: as JSON, text, a table or a drawing."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from polyconv.inspection import chart, report
from polyconv.inspection.report import Explanation


def show(explanation: Explanation, as_json: bool) -> None:
    """Prints an explanation."""
    if as_json:
        print(json.dumps(explanation.to_dict()))
    elif not sys.stdout.isatty() or not _showed_rich(explanation):
        print(explanation)


def draw(explanation: Explanation, path: Path) -> None:
    """Writes the drawing of an explanation. A file that is there already is overwritten."""
    if path.suffix.lower() != ".svg":
        raise ValueError(f"--plot writes SVG, so FILE must end in .svg; got {path}")
    path.write_text(chart.svg(explanation), encoding="utf-8")


def _showed_rich(explanation: Explanation) -> bool:
    """Prints a table that fits the terminal, if `rich` (an extra) is there."""
    try:
        from rich import box
        from rich.console import Console
        from rich.table import Table
    except ImportError:
        return False
    headings, *rows = report.rows(explanation)
    table = Table(*headings, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for row in rows:
        table.add_row(*row, style="bold" if row[0].startswith("->") else None)
    console = Console(highlight=False)
    console.print(explanation.call, "->", str(explanation.output_shape), markup=False)
    console.print(table)
    for note in report.notes(explanation):
        console.print(note, markup=False)
    return True
