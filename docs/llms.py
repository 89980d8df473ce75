"""What docs/llms.txt holds: the docs in short, for agents and tools to read.

The README, the first paragraph of each page in the order of the path, and the docstrings of the
public names are its sources. `python docs/pages.py` writes it.
"""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from types import ModuleType

from navigation import navigation

import polyconv

DOCS = Path(__file__).parent
README = DOCS.parent / "README.md"
# Sections of the README that stand here whole.
SECTIONS = ("Install", "Use", "How fast", "When it does not help")


def text() -> str:
    readme = README.read_text()
    about = re.split(r"\n\n", readme)[1]
    parts = [f"# polyconv\n\n> {_line(about)}\n"]
    parts += [f"## {name}\n\n{_section(readme, name)}\n" for name in SECTIONS]
    for title, pages in navigation().items():
        parts.append(f"## Pages: {title.lower()}\n\n{''.join(map(_page, pages))}")
    parts.append(f"## Public names\n\n{_names(polyconv)}")
    parts.append(f"## Public names of several ranks\n\n{_names(polyconv.distributed)}")
    return "\n".join(parts)


def _line(paragraph: str) -> str:
    return " ".join(re.sub(r"\]\(docs/", "](", paragraph).split())


def _section(readme: str, name: str) -> str:
    (found,) = re.findall(rf"^## {name}\n\n(.*?)\n(?=^## |\Z)", readme, re.M | re.S)
    return str(re.sub(r"\]\(docs/", "](", found)).strip()


def _page(name: str) -> str:
    """A link to a page's text, and what it says that one gets."""
    path = DOCS / f"{name}.md"
    path = path if path.exists() else path.with_suffix(".rst")
    title, *rest = re.split(r"\n(?:=+\n)?\n", path.read_text())
    first = re.split(r"(?<=\.) +(?=[A-Z`\[(])", _line(rest[0]))[0].removesuffix(":")
    return f"- [{title.removeprefix('# ')}]({path.relative_to(DOCS)}): {first}\n"


def _names(module: ModuleType) -> str:
    lines = []
    for name in module.__all__:
        thing = getattr(module, name)
        if not isinstance(thing, ModuleType):
            about = re.sub(r":\w+:`", "`", (inspect.getdoc(thing) or "").splitlines()[0])
            lines.append(f"- `{module.__name__}.{name}{_arguments(thing)}`: {about}\n")
    return "".join(lines)


def _arguments(thing: object) -> str:
    """Without types, which the docstrings have."""
    assert callable(thing)
    signature = inspect.signature(thing)
    bare = [each.replace(annotation=each.empty) for each in signature.parameters.values()]
    return str(inspect.Signature(bare))
