"""What does the user's terminal show? Explanations as JSON, text, table or drawing, and bars."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

from polyconv.inspection import chart, report
from polyconv.inspection.report import Explanation
from polyconv.problem.arguments import refuse

BLOCKS = "\u258f\u258e\u258d\u258c\u258b\u258a\u2589\u2588"  # from an eighth to all of a character


def columns() -> int | None:
    """The width of standard output if that is a terminal, else None: a file has no end of line."""
    here = sys.stdout is not None and sys.stdout.isatty()
    return shutil.get_terminal_size().columns if here else None


def takes(text: str) -> bool:
    """Whether standard output can show these characters."""
    try:
        text.encode(getattr(sys.stdout, "encoding", None) or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    return True


def bar(share: float, width: int, blocks: bool) -> str:
    """A share from 0 to 1 of so many characters, in eighths, or in whole ``#`` of ASCII.

    What is above 0 shows, however little it is.
    """
    parts = len(BLOCKS) if blocks else 1
    filled = max(round(share * width * parts), 1) if share > 0 else 0
    whole, rest = divmod(filled, parts)
    last = BLOCKS[rest - 1] if rest else ""
    return (BLOCKS[-1] if blocks else "#") * whole + last


def show(explanation: Explanation, as_json: bool) -> None:
    """Prints an explanation."""
    if as_json:
        print(json.dumps(explanation.to_dict()))
    elif not sys.stdout.isatty() or not _showed_rich(explanation):
        print(explanation)


def draw(explanation: Explanation, path: Path) -> None:
    """Writes the drawing of an explanation. A file that is there already is overwritten."""
    if path.suffix.lower() != ".svg":
        refuse("explain", "--plot must be a file of SVG, whose name ends in .svg", str(path))
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
