"""The code blocks of a page, and whether the commands in one are such as exist here."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from polyconv.__main__ import _parser

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *ROOT.glob("examples/**/*.md")])

FENCE = re.compile(r"(?:^<!-- not run: (.+?) -->\n\n?)?^```(\S*)\n(.*?)^```$", re.M | re.S)
# Commands of others, of which nothing is known here but that they parse.
FOREIGN = {"apt-get", "sox", "cd", "git", "export", "source"}


class Snippet(NamedTuple):
    """A fenced block; with `why_not`, what its page says why it is not run."""

    why_not: str
    language: str
    text: str


def snippets(page: Path, *languages: str) -> list[Snippet]:
    found = [Snippet(*match.groups(default="")) for match in FENCE.finditer(page.read_text())]
    return [each for each in found if not languages or each.language in languages]


def pages_with(*languages: str) -> list[Path]:
    return [page for page in PAGES if snippets(page, *languages)]


def said_to_be_printed(block: str) -> list[str]:
    """Comments that stand alone right behind a line that prints."""
    comments = re.findall(r"^ *print\(.*\n((?: *# .*\n)+)", block, re.M)
    return re.findall(r"^ *# (.*\n)", "".join(comments), re.M)


def commands(text: str) -> Iterator[list[str]]:
    """The words of each command of a shell, without variables set for it."""
    for line in text.replace("\\\n", " ").splitlines():
        words: list[str] = []
        lexer = shlex.shlex(line, posix=True, punctuation_chars="|&;<>")
        lexer.whitespace_split = True
        for word in [*lexer, ";"]:
            if set(word) <= set("|&;"):
                if words:
                    yield words
                words = []
            elif words or not re.fullmatch(r"[A-Z_]+=.*", word):
                words.append(word)


def complaint(words: list[str]) -> str:
    """What of a command does not exist; empty if all does."""
    program, *rest = words
    if program == "make":
        return _names(rest, make_targets(), "make target")
    if program == "polyconv" or words[:3] == ["python", "-m", "polyconv"]:
        return _of_the_command_line(rest if program == "polyconv" else rest[2:])
    if program == "pip":
        asked = re.findall(r"\[([\w,]+)\]", " ".join(rest))
        return _names(",".join(asked).split(",") if asked else [], extras(), "extra")
    if program.endswith(("python", "python3")):
        return _of_a_script(rest)
    return "" if program in FOREIGN else f"an unknown command: {program}"


def _names(asked: list[str], known: set[str], what: str) -> str:
    return "; ".join(f"no {what} {name}" for name in asked if name not in known)


def _of_the_command_line(arguments: list[str]) -> str:
    try:
        _parser().parse_args(arguments)
    except SystemExit as end:
        return f"refused: polyconv {shlex.join(arguments)}" if end.code else ""
    return ""


def _of_a_script(arguments: list[str]) -> str:
    if arguments[:1] == ["-m"] and arguments[1].startswith("tests."):
        arguments = [f"{arguments[1].replace('.', '/')}.py", *arguments[2:]]
    if not arguments or arguments[0] in ("...", "-m", "-c"):
        return ""
    script, *rest = arguments
    if not (ROOT / script).exists():
        return f"no script {script}"
    options = {word.split("=")[0] for word in rest if word.startswith("--")}
    return _names(sorted(options), options_of(script), f"option of {script}") if options else ""


@lru_cache
def make_targets() -> set[str]:
    return set(re.findall(r"^([\w-]+):(?!=)", (ROOT / "Makefile").read_text(), re.M))


@lru_cache
def extras() -> set[str]:
    text = (ROOT / "pyproject.toml").read_text()  # Python 3.10 has no tomllib
    (section,) = re.findall(r"^\[project.optional-dependencies\]\n(.*?)\n\n", text, re.M | re.S)
    return set(re.findall(r"^(\w+) = ", section, re.M))


@lru_cache
def options_of(script: str) -> set[str]:
    own = script.removesuffix(".py").replace("/", ".")
    started = ["-m", own] if own.startswith("tests.") else [script]
    command = [sys.executable, *started, "--help"]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    return set(re.findall(r"--[\w-]+", ran.stdout))
