"""Prints the sentences that are hard to read, of the README, the pages and public docstrings.

    python docs/readability.py [PAGE ...]

Each line is a file, a line, why, and the sentence. `tests/docs/test_readability.py` lets no file
have more of them than it had.
"""

from __future__ import annotations

import ast
import re
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
# Where the words of the project are explained. A link to it explains them for the rest of a page.
WORDS = "words.md"

MOST_WORDS = 30
MOST_PASSIVES = 2
MOST_FOLDS = 2

# A word of the project, and the forms in which it is met in running text.
GLOSSARY = {
    "phase": r"phases?",
    "tap": r"taps?",
    "weave": r"weaves?|weaving|woven|interleav(?:e|es|ed|ing)",
    "window": r"windows?",
    "frame": r"(?<!mel )frames?",
    "pack": r"packs?|packed|packing",
    "unfold": r"unfolds?|unfolded|unfolding",
    "tile": r"tiles?",
    "halo": r"halos?",
    "cotangent": r"cotangents?",
}

IRREGULAR = (
    "made|taken|given|told|cut|put|left|known|kept|held|found|seen|said|read|written|drawn|run|built"
    "|meant|sent|begun|woven|done|chosen|met|got|lost|set|shown|spent|split|laid"
)
PASSIVE = re.compile(
    r"\b(?:is|are|was|were|be|been|being)(?: (?:not|never|only|also|then|always|still|\w+ly))?"
    rf" (?:\w{{3,}}ed|{IRREGULAR})\b",
    re.I,
)
# What opens a thought within a thought: a word behind the first, a semicolon, a parenthesis.
FOLD = re.compile(
    r"(?<=[\w,)] )(?:which|whose|whom|where|wherever|since|because|although|though|while|unless"
    r"|until|whether|so that|whatever|as if|if|but for|by which|of which|in which)\b"
    r"|;|\((?=[^)]{12})",
    re.I,
)
SENTENCE_END = re.compile(r"[.!?][)\"*_]*(?=\s+(?:\*+\w|[\"'(*_`\[]*(?:[A-Z0-9`]|polyconv\b)))")
# Code and links: what ends within one is no sentence.
CLOSED = re.compile(r"``.+?``|`[^`]+`|\[[^\]]*\]\([^)]*\)")
ABBREVIATIONS = re.compile(r"\b(?:e\.g|i\.e|vs|et al|cf|resp)\.$")


class Sentence(NamedTuple):
    """Where a sentence begins, what stands there, and the words that count."""

    path: str
    line: int
    text: str


class Finding(NamedTuple):
    """A sentence and why it is hard."""

    path: str
    line: int
    why: str
    text: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.why}: {self.text}"


def paragraphs(text: str) -> Iterator[tuple[int, str]]:
    """Running text with the line it begins on: no code, table, heading, figure or comment."""
    lines: list[str] = []
    begin, fenced, indented = 0, False, False
    for number, line in enumerate([*text.splitlines(), ""], 1):
        bare = line.strip()
        fence = bare.startswith("```")
        indented = line.startswith("    ") and not lines and (indented or not _is_item(bare))
        skipped = fenced or fence or indented or bare[:1] in "|#<!" or not bare
        fenced ^= fence
        if (skipped or _is_item(bare)) and lines:
            yield begin, "\n".join(lines)
            lines = []
        if not skipped:
            begin = begin if lines else number
            lines.append(re.sub(r"^(?:[*-]|\d+\.) +", "", bare))


def _is_item(bare: str) -> bool:
    return bool(re.match(r"(?:[*-]|\d+\.) ", bare))


def plain(text: str) -> str:
    """Without marks. Code is one word, however long; a link is its text."""
    text = re.sub(r"``.+?``|`[^`]+`", "`code`", " ".join(text.split()))
    text = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", text)
    text = re.sub(r" ?\(`code`(?:(?:,| and) `code`)*\)", "", text)  # where it is, or what tests it
    return text.replace("**", "").replace("*", "")


def sentences(path: str, text: str, offset: int = 0) -> Iterator[Sentence]:
    for first, paragraph in paragraphs(text):
        closed = [match.span() for match in CLOSED.finditer(paragraph)]
        begun = 0
        for stop in [*_ends(paragraph), len(paragraph)]:
            if any(low < stop < high for low, high in closed):
                continue
            line = first + offset + paragraph[: begun + 1].count("\n")
            yield Sentence(path, line, " ".join(paragraph[begun:stop].split()))
            begun = stop


def _ends(paragraph: str) -> Iterator[int]:
    """Where a point, a space and a beginning follow each other."""
    for end in SENTENCE_END.finditer(paragraph):
        if not ABBREVIATIONS.search(paragraph[: end.start() + 1]):
            yield end.end()


def faults(sentence: str) -> Iterator[str]:
    """Why a sentence is hard, in words; nothing if it is not."""
    bare = plain(sentence)
    words = len(re.findall(r"[\w`'][\w`'./-]*", bare))
    if words > MOST_WORDS:
        yield f"{words} words"
    passives = PASSIVE.findall(bare)
    if len(passives) > MOST_PASSIVES:
        yield f"passive {len(passives)} times ({', '.join(passives)})"
    folds = FOLD.findall(bare)
    if len(folds) > MOST_FOLDS:
        yield f"folded {len(folds)} times ({', '.join(folds)})"


def undefined(path: str, text: str) -> Iterator[Finding]:
    """Words of the project that a page uses before it explains them, or links to where it is done.

    A page explains a word by setting it in `*italics*`.
    """
    known: set[str] = set()
    for line, paragraph in paragraphs(text):
        if re.search(rf"\]\([^)]*{WORDS}", paragraph):
            return
        bare = plain(paragraph)
        for word, forms in GLOSSARY.items():
            if re.search(rf"(?<!\*)\*(?:{forms})\*(?!\*)", paragraph, re.I):
                known.add(word)
            if word not in known and (met := re.search(rf"\b(?:{forms})\b", bare, re.I)):
                known.add(word)
                yield Finding(path, line, f"'{met[0]}' is not explained", _around(bare, met))


def _around(text: str, met: re.Match[str]) -> str:
    return f"... {text[max(0, met.start() - 40) : met.end() + 40]} ..."


def of_text(path: str, text: str, offset: int = 0) -> list[Finding]:
    found = []
    for sentence in sentences(path, text, offset):
        found += [Finding(*sentence[:2], why, sentence.text) for why in faults(sentence.text)]
    return found


def of_page(path: Path) -> list[Finding]:
    name, text = str(path.relative_to(ROOT)), path.read_text()
    return [*of_text(name, text), *(undefined(name, text) if path.name != WORDS else ())]


def public_names() -> dict[str, Path]:
    """Each public name that a module of the package defines, and that module's file."""
    found = {}
    for home in ("polyconv", "polyconv/distributed"):
        tree = ast.parse((ROOT / home / "__init__.py").read_text())
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("polyconv."):
                path = ROOT / f"{(node.module or '').replace('.', '/')}.py"
                found |= {f"{home}/{alias.name}": path for alias in node.names if path.exists()}
    return found


def docstrings() -> Iterator[tuple[str, int, str]]:
    """Of each public function, class and method: file, line and text."""
    for name, path in public_names().items():
        for node in ast.parse(path.read_text()).body:
            if getattr(node, "name", None) == Path(name).name:
                yield from _docstrings_of(node, str(path.relative_to(ROOT)))


def _docstrings_of(node: ast.AST, path: str) -> Iterator[tuple[str, int, str]]:
    if not isinstance(node, (ast.FunctionDef, ast.ClassDef)):
        return
    if text := ast.get_docstring(node):
        yield path, node.body[0].lineno - 1, text
    for inner in node.body if isinstance(node, ast.ClassDef) else []:
        if not getattr(inner, "name", "_").startswith("_"):
            yield from _docstrings_of(inner, path)


def of_docstring(path: str, line: int, text: str) -> list[Finding]:
    """A docstring's sections are paragraphs, and their entries begin with a name and a colon."""
    lines = [re.sub(r"^ +", "", row) if row.strip() else "" for row in text.splitlines()]
    lines = ["" if re.fullmatch(r"(Args|Returns|Raises|Example):", row) else row for row in lines]
    lines = [row if not re.match(r">>>|\.\.\. ", row) else "" for row in lines]
    lines = [re.sub(r"^(\*{0,2}\w+(?: \([^)]*\))?): ", r"- ", row) for row in lines]
    return of_text(path, "\n".join(lines), line)


def pages() -> list[Path]:
    fronts = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", DOCS / "benchmarks" / "README.md"]
    return [*fronts, *sorted(DOCS.glob("*.md"))]


def everything() -> list[Finding]:
    found = [finding for path in pages() for finding in of_page(path)]
    for path, line, text in docstrings():
        found += of_docstring(path, line, text)
    return list(dict.fromkeys(found))


def counts(found: Iterable[Finding]) -> Counter[str]:
    return Counter(finding.path for finding in found)


def main(asked: list[str]) -> None:
    paths = [Path(name).resolve() for name in asked]
    found = [each for path in paths for each in of_page(path)] if paths else everything()
    for finding in found:
        print(finding)
    print("\n".join(f"{n:4} {path}" for path, n in counts(found).most_common()))
    print(f"{len(found):4} in all")


if __name__ == "__main__":
    main(sys.argv[1:])
