"""Prints every error sentence of the library, as its source has it, to be read in one go.

    python -m tests.campaigns.errors

What is filled in at run time stands in braces. `test_errors.py` checks the form of each.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

PACKAGE = Path(__file__).parents[2] / "polyconv"


class Sentence(NamedTuple):
    """`[op] must; got got`, and where it is. `got` is None where it is raised without that part."""

    where: str
    op: str
    must: str
    got: str | None

    def __str__(self) -> str:
        return f"[{self.op}] {self.must}" + ("" if self.got is None else f"; got {self.got}")


def sentences(package: Path = PACKAGE) -> list[Sentence]:
    """All of them: each call of `refuse` with an op, and each ValueError raised without it."""
    found: list[Sentence] = []
    for path in sorted(package.rglob("*.py")):
        name = str(path.relative_to(package))
        tree = ast.parse(path.read_text())
        for scope, call in _calls(tree, ()):
            where = f"{name}:{call.lineno}"
            if _name(call.func) == "refuse" and len(call.args) >= 3:
                op, must, got = (_texts(each, call, scope) for each in call.args[:3])
                found += [Sentence(where, op[-1], each, " or ".join(got)) for each in must]
            if _name(call.func) == "ValueError" and call.args:
                found.append(Sentence(where, "", _texts(call.args[0], call, scope)[-1], None))
    return found


def _calls(
    node: ast.AST, scope: tuple[ast.AST, ...]
) -> Iterator[tuple[tuple[ast.AST, ...], ast.Call]]:
    """All calls, each with the functions and the module around it, the nearest first."""
    if isinstance(node, (ast.Module, ast.FunctionDef)):
        scope = (node, *scope)
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Call):
            yield scope, child
        yield from _calls(child, scope)


def _name(node: ast.AST) -> str:
    return node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "")


def _texts(node: ast.AST, call: ast.Call, scope: tuple[ast.AST, ...]) -> list[str]:
    """The texts that an argument of a call may be; a name's are read where it is set."""
    if isinstance(node, ast.IfExp):
        return _texts(node.body, call, scope) + _texts(node.orelse, call, scope)
    if isinstance(node, ast.Name):
        for around in scope:
            values = _values(node.id, call, around)
            if values:
                return [text for each in values for text in _texts(each, call, ())]
    return [_text(node)]


def _values(name: str, call: ast.Call, around: ast.AST) -> list[ast.expr]:
    """What a name is set to that a call may see: since the last refusal before it, or all."""
    ends = [
        each.lineno
        for each in ast.walk(around)
        if isinstance(each, ast.Call) and _name(each.func) == "refuse" and each.lineno < call.lineno
    ]
    found = [
        each
        for each in ast.walk(around)
        if isinstance(each, ast.Assign) and name in map(_name, each.targets)
    ]
    near = [each.value for each in found if max(ends, default=0) < each.lineno <= call.lineno]
    return near or [each.value for each in found]


def _text(node: ast.AST) -> str:
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(map(_text, node.values))
    if isinstance(node, ast.FormattedValue):
        return f"{{{ast.unparse(node.value)}}}"
    return f"{{{ast.unparse(node)}}}"


if __name__ == "__main__":
    for sentence in sentences():
        print(f"{sentence}    ({sentence.where})")
