"""Writes the README's picture, once for the light and once for the dark.

    python docs/figures/front.py

A figure follows the reader's system. On the README the reader's choice on the hosting site counts,
which only `<picture>` knows, with one file for each.
"""

from __future__ import annotations

import re
from pathlib import Path

HERE = Path(__file__).parent
FIGURE = HERE / "phases.svg"


def themed() -> dict[str, str]:
    """The texts by name, each with the colours of one theme alone."""
    text = FIGURE.read_text()
    (light,) = re.findall(r"^(:root \{.*\})$", text, re.M)
    dark_rule, dark = re.findall(
        r"^(@media \(prefers-color-scheme: dark\) \{ (.*) \})$", text, re.M
    )[0]
    bare = text.replace(f"{dark_rule}\n", "")
    return {"light": bare, "dark": bare.replace(light, dark)}


def main() -> None:
    for name, text in themed().items():
        (HERE / "front" / f"{name}.svg").write_text(text)


if __name__ == "__main__":
    main()
