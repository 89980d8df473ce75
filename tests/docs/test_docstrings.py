"""Docstrings of all that is public: what one gets, Args as in the signature, Returns, Raises."""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest

import polyconv

SECTIONS = ("Args", "Returns", "Yields", "Raises", "Example", "Attributes")
# What a module calls that refuses an argument.
REFUSES = re.compile(r"\barguments\.\w+\(|\brefuse\(|\bcheck_\w+\(|\bconvolve\(|\.read\(")


class Public(NamedTuple):
    """A function, a class or a method, by the name that a user writes."""

    name: str
    thing: Any

    @property
    def doc(self) -> str:
        return inspect.cleandoc(self.thing.__doc__ or "")

    @property
    def sections(self) -> dict[str, str]:
        """What stands below each heading."""
        parts = re.split(rf"(?m)^({'|'.join(SECTIONS)}):\n", self.doc)
        return dict(zip(parts[1::2], parts[2::2]))

    @property
    def parameters(self) -> list[str]:
        of = self.thing.__init__ if inspect.isclass(self.thing) else self.thing
        return [name for name in inspect.signature(of).parameters if name not in ("self", "cls")]

    @property
    def told(self) -> list[str]:
        """The names below Args, several to an entry where they are alike."""
        entries = re.findall(
            r"(?m)^ {4}(?! )([\w*, \n]+?)(?: \(.*)?:", self.sections.get("Args", "")
        )
        return [name.strip("* ") for entry in entries for name in entry.split(",")]


def public() -> Iterator[Public]:
    for prefix, space in (("", polyconv), ("distributed.", polyconv.distributed)):
        for name in space.__all__:
            thing = getattr(space, name)
            if inspect.ismodule(thing):
                continue
            yield Public(prefix + name, thing)
            for member, value in inspect.getmembers(thing) if inspect.isclass(thing) else ():
                value = getattr(value, "__func__", value)
                is_ours = str(getattr(value, "__module__", "")).startswith("polyconv.")
                if is_ours and inspect.isfunction(value) and not member.startswith("_"):
                    yield Public(f"{prefix}{name}.{member}", value)


ALL = [*public()]
# Classes that no user makes, and the function that does.
MADE_BY = {
    "StreamState": "stream_init",
    "StreamedModel": "stream",
    "distributed.Traffic": "traffic",
}
named = pytest.mark.parametrize("one", ALL, ids=lambda one: one.name)


@named
def test_the_first_line_says_what_one_gets(one):
    first, *rest = one.doc.split("\n")
    assert first.endswith((".", "?"))
    assert not rest or not rest[0]
    assert first[0].isupper() or first[0].isdigit()


@named
def test_arguments_are_those_of_the_signature(one):
    if one.name not in MADE_BY:
        assert sorted(one.told) == sorted(one.parameters)


@named
def test_what_is_given_back_is_told(one):
    if inspect.isclass(one.thing):
        return
    given = inspect.signature(one.thing).return_annotation
    if given in ("None", "NoReturn", "Iterator[None]"):
        assert not {"Returns", "Yields"} & {*one.sections}
    else:
        assert {"Returns", "Yields"} & {*one.sections}


@named
def test_errors_are_told_where_arguments_are_judged(one):
    module = sys.modules[one.thing.__module__]
    if one.parameters and one.name not in MADE_BY and REFUSES.search(inspect.getsource(module)):
        assert "ValueError" in one.sections.get("Raises", "")


@pytest.mark.parametrize(("name", "maker"), MADE_BY.items())
def test_what_no_user_makes_says_who_does(name, maker):
    assert maker in next(one for one in ALL if one.name == name).doc
