"""How does a method call other things by the same names, with the same code?

The function is made again from the same code with other globals. Its module is not touched. Only
`stream` uses this.
"""

from __future__ import annotations

from collections.abc import Iterator
from types import CodeType, FunctionType
from typing import Any


class _Globals(dict[str, Any]):
    """Globals with some names exchanged. All others are looked up in the module at each use."""

    def __init__(self, exchanged: dict[str, Any], module: dict[str, Any]) -> None:
        super().__init__(exchanged)
        self._module = module

    def __missing__(self, name: str) -> Any:
        return self._module[name]


def own_classes(cls: type) -> list[type]:
    """A class and its bases, without those of MLX and polyconv."""
    return [base for base in cls.__mro__ if base.__module__.partition(".")[0] not in _NOT_OWN]


_NOT_OWN = ("mlx", "builtins", "polyconv")


def names_in(function: FunctionType) -> set[str]:
    """The names of globals and attributes that a function uses, with those of functions inside."""
    return {name for code in _codes(function.__code__) for name in code.co_names}


def _codes(code: CodeType) -> Iterator[CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _codes(constant)


def rebuilt(function: FunctionType, exchanged: dict[str, Any]) -> FunctionType:
    made = FunctionType(
        function.__code__,
        _Globals(exchanged, function.__globals__),
        function.__name__,
        function.__defaults__,
        function.__closure__,
    )
    made.__kwdefaults__ = function.__kwdefaults__
    made.__dict__.update(vars(function))
    made.__qualname__, made.__doc__ = function.__qualname__, function.__doc__
    made.__module__ = function.__module__
    return made
