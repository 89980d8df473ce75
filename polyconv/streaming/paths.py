"""In which module of a model is an operation? Found out only where one is refused."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable
from types import FrameType
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from polyconv.execution.modules import names_of
from polyconv.streaming.recurrent import marked
from polyconv.streaming.traced import Trace, trace


def path_of(function: Callable[..., Any], example: mx.array, index: int, roots: list[Any]) -> str:
    """The path and class of the innermost module that does operation `index` of the trace.

    What modules are given and what they return are made outputs of the trace. An operation is in
    the first that returns something that depends on it, and was given nothing that does.
    """
    if index < 0:  # of no operation
        return "the model"
    names = _names(roots)
    calls: list[tuple[str, list[mx.array], list[mx.array]]] = []
    given: dict[FrameType, list[mx.array]] = {}

    def note(frame: FrameType, event: str, result: Any) -> None:
        module = frame.f_locals.get("self") if frame.f_code.co_name == "__call__" else None
        if not isinstance(module, nn.Module):
            return
        if event == "call":
            given[frame] = _arrays(list(frame.f_locals.values()))
        elif event == "return" and frame in given:
            calls.append((_told(module, names), given.pop(frame), _arrays(result)))

    def run(x: mx.array) -> Any:
        before = sys.getprofile()
        sys.setprofile(note)
        try:
            y = function(x)
        finally:
            sys.setprofile(before)
        return [y, *[array for _, into, out in calls for array in (*into, *out)]]

    try:
        with marked(roots):
            found = trace(run, example)
    except Exception:  # the path is a help, and no more
        return "the model"
    depend, numbers = _depending(found, index), iter(found.outputs[1:])
    for path, into, out in calls:
        reached = [next(numbers) in depend for _ in into]
        made = [next(numbers) in depend for _ in out]
        if any(made) and not any(reached):
            return path
    return "the model"


def _arrays(value: Any) -> list[mx.array]:
    if isinstance(value, mx.array):
        return [value]
    if type(value) in (list, tuple):
        return [array for each in value for array in _arrays(each)]
    return []


def _depending(traced: Trace, index: int) -> set[int]:
    """The values that depend on an operation."""
    found = set(traced.operations[index].outputs)
    for each in traced.operations[index:]:
        if found & set(each.inputs):
            found |= set(each.outputs)
    return found


def raised_in(error: Exception, roots: list[Any]) -> str:
    """The path and class of the innermost module in whose code an error was raised."""
    names, found = _names(roots), "the model"
    for frame, _ in traceback.walk_tb(error.__traceback__):
        module = frame.f_locals.get("self")
        if isinstance(module, nn.Module):
            found = _told(module, names)
    return found


def _names(roots: list[Any]) -> dict[int, str]:
    names: dict[int, str] = {}
    for root in roots:
        names |= names_of(root)
    return names


def _told(module: nn.Module, names: dict[int, str]) -> str:
    return f"{names.get(id(module), 'model')} ({type(module).__name__})"
