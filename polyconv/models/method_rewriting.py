"""How does a method that calls MLX's transposed convolutions call polyconv's, its text unchanged?

The function is made again from the same code with other globals: where its module says ``mx``, it
sees `mlx.core` with polyconv's transposed convolutions. The module itself is not touched.
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
    """`mlx.core`, but for its transposed convolutions."""

    def __getattr__(self, name: str) -> Any:
        return _ROUTED[name] if name in _ROUTED else getattr(mx, name)


_CORE = _Core()


class _Globals(dict[str, Any]):
    """Some names of a module exchanged; all others are looked up in the module, whenever used."""

    def __init__(self, exchanged: dict[str, Any], module: dict[str, Any]) -> None:
        super().__init__(exchanged)
        self._module = module

    def __missing__(self, name: str) -> Any:
        return self._module[name]


def methods_of(cls: type) -> dict[str, FunctionType]:
    """The methods that a class defines itself and that call MLX's transposed convolutions, rebuilt.

    Of these `mx.conv_general` is one where ``input_dilation`` is given by name.
    """
    found = {}
    for name, function in vars(cls).items():
        if isinstance(function, FunctionType) and name != "__init__" and not _assigns(function):
            exchanged = _exchanged(function)
            if exchanged:
                found[name] = rebuilt(function, exchanged)
    return found


def own_classes(cls: type) -> list[type]:
    """A class and its bases, but for what is MLX's or polyconv's."""
    return [base for base in cls.__mro__ if base.__module__.partition(".")[0] not in _NOT_OWN]


_NOT_OWN = ("mlx", "builtins", "polyconv")


def _exchanged(function: FunctionType) -> dict[str, Any]:
    codes, names = list(_codes(function.__code__)), names_in(function)
    called = names & set(_NAMES)
    if called == {"conv_general"} and not any(_says_input_dilation(code) for code in codes):
        return {}
    # Modules imported these functions by any name, or `mlx.core`.
    exchanged: dict[str, Any] = {}
    for name in names:
        value = function.__globals__.get(name)
        if value is mx and called:
            exchanged[name] = _CORE
        for own in _NAMES:
            if getattr(value, "__wrapped__", value) is ORIGINALS[own]:  # or a patch of it
                exchanged[name] = _ROUTED[own]
    return exchanged


def names_in(function: FunctionType) -> set[str]:
    """Names of globals and attributes that a function uses, also in functions inside it."""
    return {name for code in _codes(function.__code__) for name in code.co_names}


def _assigns(function: FunctionType) -> bool:
    """Whether it assigns globals, which would not reach its module."""
    stores = ("STORE_GLOBAL", "DELETE_GLOBAL")
    codes = _codes(function.__code__)
    return any(each.opname in stores for code in codes for each in dis.get_instructions(code))


def _codes(code: CodeType) -> Iterator[CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _codes(constant)


def _says_input_dilation(code: CodeType) -> bool:
    """Names of arguments are constants of the code that calls."""
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
