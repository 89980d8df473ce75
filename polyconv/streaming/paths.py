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
from polyconv.streaming.traced import trace


def path_of(
    function: Callable[..., Any], example: mx.array, index: int, roots: list[nn.Module]
) -> str:
    """The path and class of the innermost module that does operation `index` of the trace.

    The modules are those whose `__call__` returns while the function runs. What they return are
    made outputs of the trace, so that it tells which operations come before.
    """
    if index < 0:  # of no operation
        return "the model"
    names = _names(roots)
    returned: list[tuple[str, mx.array]] = []

    def note(frame: FrameType, event: str, result: Any) -> None:
        if event != "return" or frame.f_code.co_name != "__call__":
            return
        module = frame.f_locals.get("self")
        if isinstance(module, nn.Module) and isinstance(result, mx.array):
            returned.append((_told(module, names), result))

    def run(x: mx.array) -> Any:
        before = sys.getprofile()
        sys.setprofile(note)
        try:
            y = function(x)
        finally:
            sys.setprofile(before)
        return [y, *[array for _, array in returned]]

    try:
        with marked():
            found = trace(run, example)
    except Exception:  # the path is a help, and no more
        return "the model"
    operations = {number: i for i, each in enumerate(found.operations) for number in each.outputs}
    for (path, _), number in zip(returned, found.outputs[1:], strict=True):
        if operations.get(number, -1) >= index:
            return path
    return returned[-1][0] if returned else "the model"


def raised_in(error: Exception, roots: list[nn.Module]) -> str:
    """The path and class of the innermost module in whose code an error was raised."""
    names, found = _names(roots), "the model"
    for frame, _ in traceback.walk_tb(error.__traceback__):
        module = frame.f_locals.get("self")
        if isinstance(module, nn.Module):
            found = _told(module, names)
    return found


def _names(roots: list[nn.Module]) -> dict[int, str]:
    names: dict[int, str] = {}
    for root in roots:
        names |= names_of(root)
    return names


def _told(module: nn.Module, names: dict[int, str]) -> str:
    return f"{names.get(id(module), 'model')} ({type(module).__name__})"
