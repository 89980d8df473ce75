"""How does a method call polyconv's transposed convolutions instead of MLX's, with the same code?

The function is made again from the same code with other globals. By the name ``mx`` it finds
`mlx.core` with polyconv's transposed convolutions. Its module is not touched.
"""

from __future__ import annotations

import dis
from collections.abc import Iterator
from types import CodeType, FunctionType
from typing import Any

import mlx.core as mx

from polyconv.execution.unpatched import ORIGINALS, TRANSPOSED
from polyconv.models.routing import always

_NAMES = (*TRANSPOSED, "conv_general")
_ROUTED = {name: always(name) for name in _NAMES}


class _Core:
    """`mlx.core` with polyconv's transposed convolutions."""

    def __getattr__(self, name: str) -> Any:
        return _ROUTED[name] if name in _ROUTED else getattr(mx, name)


_CORE = _Core()


class _Globals(dict[str, Any]):
    """Globals with some names exchanged. All others are looked up in the module at each use."""

    def __init__(self, exchanged: dict[str, Any], module: dict[str, Any]) -> None:
        super().__init__(exchanged)
        self._module = module

    def __missing__(self, name: str) -> Any:
        return self._module[name]


def methods_of(cls: type) -> dict[str, FunctionType]:
    """The methods that a class defines itself and that call MLX's transposed convolutions, rebuilt.

    `mx.conv_general` counts only if ``input_dilation`` is passed by name.
    """
    found = {}
    for name, function in vars(cls).items():
        if isinstance(function, FunctionType) and name != "__init__" and not _assigns(function):
            exchanged = _exchanged(function)
            if exchanged:
                found[name] = rebuilt(function, exchanged)
    return found


def own_classes(cls: type) -> list[type]:
    """A class and its bases, without those of MLX and polyconv."""
    return [base for base in cls.__mro__ if base.__module__.partition(".")[0] not in _NOT_OWN]


_NOT_OWN = ("mlx", "builtins", "polyconv")


def _exchanged(function: FunctionType) -> dict[str, Any]:
    codes, names = list(_codes(function.__code__)), names_in(function)
    called = names & set(_NAMES)
    if called == {"conv_general"} and not any(_says_input_dilation(code) for code in codes):
        return {}
    # A module may have imported `mlx.core` or these functions under any name.
    exchanged: dict[str, Any] = {}
    for name in names:
        value = function.__globals__.get(name)
        if value is mx and called:
            exchanged[name] = _CORE
        for own in _NAMES:
            if getattr(value, "__wrapped__", value) is ORIGINALS[own]:  # or a patched one
                exchanged[name] = _ROUTED[own]
    return exchanged


def names_in(function: FunctionType) -> set[str]:
    """The names of globals and attributes that a function uses, with those of functions inside."""
    return {name for code in _codes(function.__code__) for name in code.co_names}


def _assigns(function: FunctionType) -> bool:
    """Whether a function assigns globals. Rebuilt, it would not assign those of its module."""
    stores = ("STORE_GLOBAL", "DELETE_GLOBAL")
    codes = _codes(function.__code__)
    return any(each.opname in stores for code in codes for each in dis.get_instructions(code))


def _codes(code: CodeType) -> Iterator[CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _codes(constant)


def _says_input_dilation(code: CodeType) -> bool:
    """Whether code passes ``input_dilation`` by name: such names are constants of the code."""
    return any(isinstance(c, tuple) and "input_dilation" in c for c in code.co_consts)


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
