"""Every code block of every page: Python runs, commands print what the page shows, shells parse.

A page that is new is read like the others. A block is left out only by a comment before it,
``<!-- not run: why -->``, which needs a Mac, a GPU, minutes or a package that is not here.
"""

import doctest
import re
import shlex
import subprocess

import pytest

from polyconv.__main__ import main
from polyconv.execution import device
from polyconv.inspection.explain import staleness
from polyconv.metal.kernels import NEWEST, rules_for
from tests.support import snippets
from tests.support.snippets import PAGES, ROOT, pages_with

LANGUAGES = {"python", "pycon", "console", "sh", "text"}


def name(page):
    return str(page.relative_to(ROOT))


def run_python(page):
    """Runs a page's blocks in one scope, and returns that."""
    scope = {"__name__": page.stem}
    for block in snippets.snippets(page, "python"):
        if not block.why_not:
            exec(compile(block.text, name(page), "exec"), scope)
    return scope


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_blocks_name_a_language_that_is_checked(page):
    text = page.read_text()
    found = snippets.snippets(page)
    assert {block.language for block in found} <= LANGUAGES
    assert len(re.findall(r"^ *```", text, re.M)) == 2 * len(found), "a fence that is not read"
    excused = [block for block in found if block.why_not]
    assert text.count("<!-- not run") == len(excused), "a comment that stands before no block"


@pytest.mark.parametrize("page", pages_with("python"), ids=name)
def test_python_runs_in_order(page, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run_python(page)
    told = capsys.readouterr().out.splitlines(keepends=True)
    for block in snippets.snippets(page, "python"):
        for line in [] if block.why_not else snippets.said_to_be_printed(block.text):
            assert any(agrees(each, line) for each in told), line


@pytest.mark.parametrize("page", pages_with("pycon"), ids=name)
def test_sessions(page):
    failed, attempted = doctest.testfile(str(page), module_relative=False)
    assert not failed
    assert attempted


@pytest.mark.parametrize("page", pages_with("console"), ids=name)
def test_commands_print_what_the_page_shows(page, capsys, monkeypatch):
    """A running MLX that is newer than the rules adds a line of its own; `...` stands for any."""
    if rules_for(device.version()) != NEWEST:
        pytest.skip("the pages show the newest rules, and an older MLX runs here")
    monkeypatch.setenv("COLUMNS", "80")
    for block in snippets.snippets(page, "console"):
        first, *shown = re.split(r"^\$ ", block.text, flags=re.M)
        assert not first, "output before the first command"
        for each in [] if block.why_not else shown:
            command, expected = each.split("\n", 1)
            run_command(command)
            told = capsys.readouterr().out.splitlines(keepends=True)
            told = "".join(line for line in told if line[:-1] not in staleness())
            assert agrees(told, expected), f"{command}\n{told}"


def run_command(command):
    program, *arguments = shlex.split(command)
    assert program == "polyconv"
    if arguments[0] == "explain" and not {"--device", "--help"} & set(arguments):
        arguments += ["--device", "m4-max"]  # on a Mac it would be that
    try:
        assert main(arguments) == 0
    except SystemExit as end:  # of --help
        assert end.code == 0


def agrees(told, expected):
    return doctest.OutputChecker().check_output(expected, told, doctest.ELLIPSIS)


@pytest.mark.parametrize("page", pages_with("sh"), ids=name)
def test_shells_parse_and_what_they_name_exists(page):
    for block in snippets.snippets(page, "sh"):
        ran = subprocess.run(["bash", "-n"], input=block.text, capture_output=True, text=True)
        assert not ran.stderr
        for words in snippets.commands(block.text):
            assert not snippets.complaint(words), shlex.join(words)


def test_make_targets_and_commands_in_running_text_exist():
    tried = 0
    for page in PAGES:
        for code in re.findall(r"`((?:make|polyconv) [^`]+)`", page.read_text()):
            program, first, *_ = code.split()
            known = {"explain", "bench", "tune", "doctor", "run"} if program == "polyconv" else None
            assert first in (known or snippets.make_targets()), f"{name(page)}: {code}"
            tried += 1
    assert tried > 20


def test_what_is_wrong_is_seen():
    """That the checks above can fail."""
    for command in (
        "make nothing",
        "polyconv explain --nothing",
        "python -m polyconv bench conv_transpose9d",
        "pip install 'polyconv[nothing]'",
        "python examples/nothing.py",
        "python examples/stream_vocoder.py --nothing",
        "python -m tests.campaigns.nothing",
        "python -m tests.campaigns.sweep --nothing",
        "LD_PRELOAD=x.so python examples/stream_vocoder.py --nothing | sox",
        "nothing",
    ):
        assert any(map(snippets.complaint, snippets.commands(command))), command
    assert not any(map(snippets.complaint, snippets.commands("python -m tests.campaigns.sweep")))
    assert not agrees("a\nb\n", "a\nc\n")
    assert agrees("a\nb\nc\n", "a\n...\nc\n")
    assert snippets.said_to_be_printed("print(1)\n# 1\n\n# else\n") == ["1\n"]


def test_blocks_of_the_readme_end_in_an_output_of_this_shape():
    assert run_python(ROOT / "README.md")["y"].shape == (1, 800, 256)


def test_explain_is_shown_as_often_as_its_page_tells():
    assert len(snippets.snippets(ROOT / "docs" / "explain.md", "console")) == 5
