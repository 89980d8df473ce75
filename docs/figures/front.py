"""Writes the README's picture, once for the light and once for the dark.

    python docs/figures/front.py

A figure follows the reader's system. On the README the reader's choice on the hosting site counts,
which only `<picture>` knows, with one file for each. Its colours are plain, for any viewer.
"""

from __future__ import annotations

import re
from pathlib import Path

HERE = Path(__file__).parent
FIGURE = HERE / "phases.svg"


def themed() -> dict[str, str]:
    """The texts by name, each with the colours of one theme in place of variables."""
    text = FIGURE.read_text()
    (light,) = re.findall(r"^:root \{(.*)\}$", text, re.M)
    (dark,) = re.findall(
        r"^@media \(prefers-color-scheme: dark\) \{ :root \{(.*)\} \}$", text, re.M
    )
    bare = re.sub(r"^(:root|@media \(prefers-color-scheme).*\n", "", text, flags=re.M)
    return {"light": _coloured(bare, light), "dark": _coloured(bare, dark)}


def _coloured(text: str, variables: str) -> str:
    colours = dict(re.findall(r"--(\w+): (#[0-9a-f]{6});", variables))
    return re.sub(r"var\(--(\w+)[^)]*\)", lambda match: colours[match[1]], text)


def main() -> None:
    for name, text in themed().items():
        (HERE / "front" / f"{name}.svg").write_text(text)


if __name__ == "__main__":
    main()
