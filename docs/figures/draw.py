"""Draws the figures of docs/polyphase.md; `polyconv.problem.phases` says what is in them.

make figures
"""

from __future__ import annotations

from pathlib import Path

import line
import plane
from ink import save


def main(folder: Path = Path(__file__).parent) -> None:
    save(line.phases_figure(), folder / "phases.svg")
    save(line.weaving_figure(), folder / "weaving.svg")
    figure, css = line.steps_figure()
    save(figure, folder / "steps.svg", css)
    save(plane.phases_figure(), folder / "phases2d.svg")
    save(plane.weaving_figure(), folder / "weaving2d.svg")


if __name__ == "__main__":
    main()
