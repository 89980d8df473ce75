"""Every error sentence of the library has the one form, in words that its caller knows."""

from __future__ import annotations

import inspect
import re

import pytest

import polyconv
from polyconv.__main__ import _parser
from tests.campaigns.errors import PACKAGE, Sentence, sentences

ALL = sentences()
# Reasons of an ELF file that is not taken. Nobody reads them but the function that tries the next.
INNER = "inspection/elf.py"
# What else a caller may be told of: what it handed over, and what it called.
SUBJECTS = {
    "the file": "a file of rates or timings",
    "each device": "of such a file",
    "each layer": "of such a file",
    "each time": "of such a file",
    "it": "the variable of the environment that stands in front",
    "the call": "what was called itself",
    "the input": "of a stream: all chunks together",
    "a chunk": "the x of one step",
    "chunks": "the pieces in which a model is proved",
    "the model": "the argument of stream",
    "the stream": "what stream gave",
    "flush": "a method of a stream",
    "an input": "one of inputs",
    "a range": "that of an input",
    "the result": "what the call gives",
    "the rank": "of a layer, which ndim or tuples tell",
    "every size": "of what was handed over",
    "messages": "between ranks",
    "options": "the keywords of a call",
    "sizes": "of a shape",
    "plan": "the argument of planning.metal_seconds.plan_seconds",
}


def vocabulary():
    """Names of arguments of all that is public, and those of the command line."""
    names = set(SUBJECTS)
    public = [getattr(polyconv, name) for name in polyconv.__all__]
    distributed = [getattr(polyconv.distributed, name) for name in polyconv.distributed.__all__]
    for each in [*public, *distributed]:
        members = dict(inspect.getmembers(each)).values() if inspect.isclass(each) else ()
        for one in [each, *filter(inspect.isroutine, members)]:
            if inspect.isfunction(one) or inspect.ismethod(one) or inspect.isclass(one):
                names |= set(inspect.signature(one).parameters)
    commands = next(a for a in _parser()._actions if a.dest == "command").choices
    for command in commands.values():
        names |= {word for a in command._actions for word in (*a.option_strings, a.dest)}
    return names


KNOWN = {*vocabulary(), "weight"}  # MLX's name of w


def fault(sentence: Sentence) -> str:
    """What is wrong with the form of a sentence; nothing, if nothing is."""
    text = str(sentence)
    if sentence.got is None:
        return "" if sentence.where.startswith(INNER) else "raised without `refuse`"
    if not sentence.op or not sentence.got:
        return "op or what was got is missing"
    if re.fullmatch(r"(\{\w+\}|\{\w+\} = .*|\{\w+\}, or .*)", sentence.must):
        return ""  # from an argument: `must` is a sentence that stands elsewhere in the list
    subject, found, _ = sentence.must.partition(" must ")
    if not found:
        return "does not say what must hold"
    if text.endswith(".") or "\n" in text or "!" in text:
        return "is no clause of one line without an end"
    known = subject.startswith("{") or any(
        re.match(rf"{re.escape(name)}(?![\w-])", subject) for name in KNOWN
    )
    return "" if known else f"speaks of {subject!r}, which no caller wrote"


@pytest.mark.parametrize("sentence", ALL, ids=lambda sentence: sentence.where)
def test_it_says_what_must_hold_and_what_was_got(sentence):
    assert not fault(sentence)


def test_the_list_is_of_all_calls():
    """But for `refuse` of lowering, whose one text is read behind "computable chunk by chunk"."""
    found = set()
    for path in PACKAGE.rglob("*.py"):
        text = path.read_text()
        if re.search(r"lowering import [^)]*\brefuse\b", text) or "def refuse(" in text:
            continue
        for number, line in enumerate(text.splitlines(), 1):
            if re.search(r"(?<!def )\brefuse\(", line) and "_refuse(" not in line:
                found.add(f"{path.relative_to(PACKAGE)}:{number}")
    assert len(found) > 100
    assert found <= {sentence.where for sentence in ALL}


def test_names_are_read_where_they_are_set(tmp_path):
    (tmp_path / "some.py").write_text(
        "def f(n):\n"
        "    if n < 1:\n"
        '        must = "n must be 1"\n'
        '        refuse("f", must, str(n))\n'
        "    if n > 2:\n"
        '        must = f"n must be at most {2}"\n'
        '        refuse("f", must, "one" if n else "none")\n'
        '    raise ValueError(f"no {n}")\n'
    )
    assert [*map(str, sentences(tmp_path))] == [
        "[f] n must be 1; got {str(n)}",
        "[f] n must be at most {2}; got one or none",
        "[] no {n}",
    ]


@pytest.mark.parametrize(
    ("must", "got"),
    [
        ("stride is wrong", "3"),
        ("stride must be 3", ""),
        ("stride must be 3", None),
        ("stride must be 3", "4."),
        ("the thing must be 3", "4"),
        ("strides must be 3", "4"),
    ],
)
def test_what_has_not_the_form_is_found(must, got):
    assert fault(Sentence("ops/x.py:1", "conv1d", must, got))
    assert not fault(Sentence("ops/x.py:1", "conv1d", "stride must be 3", "4"))
