"""Which classes call MLX's transposed convolutions, as far as the code of their methods says?"""

from __future__ import annotations

import dis
import functools
from collections.abc import Iterator
from types import CodeType, FunctionType
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from polyconv.execution.unpatched import ORIGINALS
from polyconv.problem.signatures import OPS

_NOT_OWN = ("mlx", "builtins", "polyconv")


def own_classes(cls: type) -> list[type]:
    """A class and its bases, without those of MLX and polyconv."""
    return [base for base in cls.__mro__ if base.__module__.partition(".")[0] not in _NOT_OWN]


def calls_transposed(cls: type) -> bool:
    """Whether something that a class defines itself calls MLX's transposed convolutions.

    `mx.conv_general` counts only if ``input_dilation`` is passed by name.
    """
    return any(map(_calls, _functions_of(cls)))


def kept_functions(module: nn.Module, cls: type) -> list[str]:
    """Attributes, default arguments, free variables and tables with MLX's transposed convolutions.

    What is called through these is MLX's: no other function can stand there.
    """
    kept = [name for name, value in {**vars(module), **module}.items() if _holds_mlx_s(value)]
    for base in own_classes(cls):
        for function in _functions_of(base):
            kept += _kept_by(function)
    return sorted(set(kept))


def _functions_of(cls: type) -> list[FunctionType]:
    """The functions among the members of a class, and those that decorators have wrapped."""
    found: dict[int, FunctionType] = {}
    for name, value in vars(cls).items():
        if name != "__init__":
            _collect(value, found)
    return list(found.values())


def _collect(value: Any, found: dict[int, FunctionType]) -> None:
    if isinstance(value, (staticmethod, classmethod)):
        _collect(value.__func__, found)
    elif isinstance(value, property):
        _collect(value.fget, found)
    elif isinstance(value, (functools.partial, functools.partialmethod, functools.cached_property)):
        _collect(value.func, found)
    elif isinstance(value, FunctionType) and id(value) not in found:
        found[id(value)] = value
        for inner in _free_variables(value).values():
            _collect(inner, found)
    elif value is not None:  # an object that decorates, and says what
        _collect(getattr(value, "__dict__", {}).get("__wrapped__"), found)


def _calls(function: FunctionType) -> bool:
    codes = list(_codes(function.__code__))
    names = {name for code in codes for name in code.co_names}
    free = _free_variables(function)
    values = [function.__globals__.get(name) for name in names] + list(free.values())
    if any(map(_is_mlx_s, values)):  # a module may have imported them under any name
        return True
    called = set() if names.isdisjoint(OPS) else {n for code in codes for n in _asked_for(code)}
    if called <= {"conv_general"}:
        says = any(
            isinstance(c, tuple) and "input_dilation" in c for k in codes for c in k.co_consts
        )
        called = called if says else set()
    is_of_mlx = any(value is mx for value in values) or not names.isdisjoint(("mlx.core", "core"))
    return bool(called) and is_of_mlx


def _asked_for(code: CodeType) -> Iterator[str]:
    """The names of transposed convolutions in a code, but for attributes of ``self``."""
    last: Any = None
    for each in dis.get_instructions(code):
        is_constant = each.opcode in dis.hasconst  # as of `getattr(mx, "conv_transpose1d")`
        if not is_constant and each.argval in OPS and last not in ("self", ("self",)):
            yield each.argval
        if each.opname not in ("CACHE", "EXTENDED_ARG"):
            last = each.argval[-1:] if isinstance(each.argval, tuple) else each.argval


def _kept_by(function: FunctionType) -> list[str]:
    n_defaults = len(function.__defaults__ or ())
    code = function.__code__
    named = code.co_varnames[code.co_argcount - n_defaults : code.co_argcount]
    held = dict(zip(named, function.__defaults__ or ()))
    held |= function.__kwdefaults__ or {}
    held |= _free_variables(function)
    kept = [name for name, value in held.items() if _holds_mlx_s(value)]
    used = {name: function.__globals__.get(name) for name in code.co_names}
    return kept + [name for name, value in used.items() if _is_table(value)]


def _holds_mlx_s(value: Any) -> bool:
    return _is_mlx_s(value) or _is_table(value)


def _is_table(value: Any) -> bool:
    """Whether it is a dict, list or tuple with one of MLX's transposed convolutions."""
    if type(value) not in (dict, list, tuple):
        return False
    return any(map(_is_mlx_s, value.values() if isinstance(value, dict) else value))


def _is_mlx_s(value: Any) -> bool:
    """Whether it is one of MLX's transposed convolutions, or what stands in its place now."""
    if isinstance(value, functools.partial):
        value = value.func
    if isinstance(value, FunctionType):
        value = vars(value).get("__wrapped__")
    return any(value is ORIGINALS[name] for name in OPS)


def _free_variables(function: FunctionType) -> dict[str, Any]:
    cells = zip(function.__code__.co_freevars, function.__closure__ or ())
    found = {}
    for name, cell in cells:
        try:
            found[name] = cell.cell_contents
        except ValueError:  # not bound yet
            continue
    return found


def _codes(code: CodeType) -> Iterator[CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _codes(constant)
