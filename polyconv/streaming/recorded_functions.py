"""What do functions of MLX give for a stand-in? A node of its graph, or an error."""

from __future__ import annotations

import functools
from collections.abc import Callable
from types import ModuleType
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from polyconv.streaming.graph import Ends
from polyconv.streaming.symbol import Graph, Symbol, UnstreamableError

_CONVOLUTIONS = ("conv1d", "conv_transpose1d", "conv_general")
# Functions of each sample by itself. Those of `mlx.nn` are its activations.
_POINTWISE = (
    "abs",
    "add",
    "cos",
    "divide",
    "erf",
    "exp",
    "expm1",
    "log",
    "log1p",
    "logaddexp",
    "maximum",
    "minimum",
    "multiply",
    "negative",
    "power",
    "reciprocal",
    "rsqrt",
    "sigmoid",
    "sign",
    "sin",
    "sinh",
    "softmax",
    "sqrt",
    "square",
    "subtract",
    "tan",
    "tanh",
    "where",
    "zeros_like",
    "ones_like",
    "clip",
    "stop_gradient",
)
_ALONG_AN_AXIS = ("softmax", "log_softmax", "softmin", "glu")


class Recorder:
    """A module whose functions record calls with a stand-in, and else do what they always do."""

    def __init__(self, module: ModuleType, graph: Graph) -> None:
        self._module, self._graph = module, graph

    def __getattr__(self, name: str) -> Any:
        if name == "random" and self._graph.is_recorded_here:
            raise UnstreamableError("draws random numbers, which would be the same for each chunk")
        value = getattr(self._module, name)
        if isinstance(value, type) or not callable(value):
            return value
        return recording(value, name, self._graph)


def recording(function: Callable[..., Any], name: str, graph: Graph) -> Callable[..., Any]:
    @functools.wraps(function, updated=())
    def call(*args: Any, **kwargs: Any) -> Any:
        if not any(isinstance(each, Symbol) for each in (*args, *kwargs.values())):
            return function(*args, **kwargs)
        if name in _CONVOLUTIONS:
            return graph.convolution(name, args, kwargs)
        if name == "pad":
            return _padded(graph, *args, **kwargs)
        if name in _POINTWISE or getattr(nn.layers.activations, name, None) is function:
            if name in _ALONG_AN_AXIS:
                default = None if function is mx.softmax else -1
                axis = kwargs.get("axis", args[1] if len(args) > 1 else default)
                check_axis(name, axis)
            return graph.pointwise(function, args, kwargs)
        raise UnstreamableError(f"{name} of a whole signal")

    return call


def check_axis(name: str, axis: Any) -> None:
    if axis not in (-1, 2):
        raise UnstreamableError(f"{name} over another axis than the channels")


def _padded(graph: Graph, x: Symbol, pad_width: Any, *more: Any, **named: Any) -> Symbol:
    if (more or named) and (*more, *named.values()) not in (("constant",), (0,), ("constant", 0)):
        raise UnstreamableError("pad with anything but zeros")
    given = pad_width if isinstance(pad_width, (list, tuple)) else ()
    pairs = [tuple(each) if isinstance(each, (list, tuple)) else (each, each) for each in given]
    if len(pairs) != 3 or any(pairs[0]) or any(pairs[2]) or min(pairs[1]) < 0:
        raise UnstreamableError(f"pad by {pad_width}, not in time alone")
    return graph.add(Ends(*pairs[1]), (x,))


def is_of_mlx(function: Any) -> bool:
    name = getattr(function, "__name__", "")
    return any(getattr(module, name, None) is function for module in (mx, nn) if name)
