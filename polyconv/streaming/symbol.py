"""A stand-in for a signal, and the graph of what is done with it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, NoReturn

import mlx.core as mx

from polyconv.execution.identity import handle_of
from polyconv.execution.packing import evaluate
from polyconv.problem import arguments
from polyconv.streaming.graph import Convolution, Ends, Node, Pointwise

# The names of the options of each op, in the order in which they may be given by place.
_OPTIONS = {
    "conv1d": ("stride", "padding", "dilation", "groups"),
    "conv_transpose1d": ("stride", "padding", "dilation", "output_padding", "groups"),
    "conv_general": ("stride", "padding", "kernel_dilation", "input_dilation", "groups", "flip"),
}
# Options that a stream does not need: they change where and how an op is computed.
_LEFT_OUT = ("stream", "method")


class UnstreamableError(Exception):
    """Why something cannot be computed chunk by chunk."""


class Symbol:
    """Stands for a signal ``(N, L, C)`` of unknown length: the output of node `index`.

    Index 0 is the input.
    """

    def __init__(self, graph: Graph, index: int) -> None:
        self._graph, self._index = graph, index

    def _with(self, function: Callable[..., mx.array], *others: Any) -> Symbol:
        return self._graph.pointwise(function, (self, *others), {})

    def __add__(self, other: Any) -> Symbol:
        return self._with(mx.add, other)

    def __sub__(self, other: Any) -> Symbol:
        return self._with(mx.subtract, other)

    def __rsub__(self, other: Any) -> Symbol:
        return self._with(lambda a, b: b - a, other)

    def __mul__(self, other: Any) -> Symbol:
        return self._with(mx.multiply, other)

    def __truediv__(self, other: Any) -> Symbol:
        return self._with(mx.divide, other)

    def __rtruediv__(self, other: Any) -> Symbol:
        return self._with(lambda a, b: b / a, other)

    def __pow__(self, other: Any) -> Symbol:
        return self._with(mx.power, other)

    def __neg__(self) -> Symbol:
        return self._with(mx.negative)

    def __rpow__(self, other: Any) -> Symbol:
        return self._with(lambda a, b: b**a, other)

    def __lt__(self, other: Any) -> Symbol:
        return self._with(mx.less, other)

    def __le__(self, other: Any) -> Symbol:
        return self._with(mx.less_equal, other)

    def __gt__(self, other: Any) -> Symbol:
        return self._with(mx.greater, other)

    def __ge__(self, other: Any) -> Symbol:
        return self._with(mx.greater_equal, other)

    def __eq__(self, other: Any) -> Symbol:  # type: ignore[override]
        return self._with(mx.equal, other)

    def __ne__(self, other: Any) -> Symbol:  # type: ignore[override]
        return self._with(mx.not_equal, other)

    def _becomes(self, other: Symbol) -> Symbol:
        """Changes this object, as `+=` changes an array of MLX: all holders see the change."""
        self._index = other._index
        return self

    def __iadd__(self, other: Any) -> Symbol:
        return self._becomes(self + other)

    def __isub__(self, other: Any) -> Symbol:
        return self._becomes(self - other)

    def __imul__(self, other: Any) -> Symbol:
        return self._becomes(self * other)

    def __itruediv__(self, other: Any) -> Symbol:
        return self._becomes(self / other)

    def __ipow__(self, other: Any) -> Symbol:
        return self._becomes(self**other)

    def __bool__(self) -> bool:
        raise UnstreamableError("decides by a signal that has not come yet")

    __hash__ = object.__hash__
    __radd__, __rmul__ = __add__, __mul__
    __array_ufunc__ = None  # NumPy leaves sums to the above

    def astype(self, dtype: mx.Dtype) -> Symbol:
        return self._with(lambda a: a.astype(dtype))

    def __getitem__(self, key: Any) -> Symbol:
        """Crops in time, as ``x[:, 3:-2]``."""
        parts = key if isinstance(key, tuple) else (key,)
        whole = slice(None)
        if len(parts) < 2 or parts[0] != whole or any(part != whole for part in parts[2:]):
            raise UnstreamableError(f"takes {key} of a signal, and only time can be cropped")
        time = parts[1]
        if not isinstance(time, slice) or time.step not in (None, 1):
            raise UnstreamableError(f"takes {time} of time, and only its ends can be cropped")
        start, stop = time.start or 0, time.stop
        if start < 0 or (stop is not None and stop >= 0):
            raise UnstreamableError(f"takes {time} of time, which depends on the length")
        return self._graph.add(Ends(-start, stop or 0), (self,))

    def __getattr__(self, name: str) -> NoReturn:
        raise UnstreamableError(f"asks for .{name} of a signal whose length nobody knows yet")


class Graph:
    """The nodes so far, in order. Other threads that run the model meanwhile record nothing."""

    def __init__(self) -> None:
        self.nodes: list[tuple[Node, tuple[int, ...]]] = []
        self._thread = threading.get_ident()

    @property
    def is_recorded_here(self) -> bool:
        return threading.get_ident() == self._thread

    def add(self, node: Node, inputs: tuple[Symbol, ...]) -> Symbol:
        self.nodes.append((node, tuple([each._index for each in inputs])))
        return Symbol(self, len(self.nodes))

    def pointwise(
        self, function: Callable[..., mx.array], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Symbol:
        """Adds a function of signals, and of numbers or arrays without time."""
        given = [*args, *kwargs.values()]
        for each in given:
            if not isinstance(each, (Symbol, mx.array, mx.Dtype, type(None))):
                _check_numbers(each)
            shape: tuple[int, ...] = () if isinstance(each, Symbol) else getattr(each, "shape", ())
            if len(shape) > 3 or (len(shape) > 1 and shape[-2] != 1):
                raise UnstreamableError(f"combines a signal with an array {shape} along time")
        # Keep the values of now: `layer.bias += d` changes an array in place.
        given = [handle_of(each) if isinstance(each, mx.array) else each for each in given]
        evaluate([each for each in given if isinstance(each, mx.array)])
        signals = [each for each in given if isinstance(each, Symbol)]

        def call(*chunks: mx.array) -> mx.array:
            left = iter(chunks)
            filled = [next(left) if isinstance(each, Symbol) else each for each in given]
            named = dict(zip(kwargs, filled[len(args) :]))
            return function(*filled[: len(args)], **named)

        return self.add(Pointwise(call, len(signals)), tuple(signals))

    def end_with(self, out: Symbol) -> None:
        """Puts `out` last, because a `StreamedModel` gives what its last node gives."""
        if out._index != len(self.nodes):  # later nodes were computed in vain
            self.pointwise(lambda a: a, (out,), {})

    def convolution(self, op: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Symbol:
        x, weight, *rest = args
        if not isinstance(x, Symbol) or isinstance(weight, Symbol):
            raise UnstreamableError(f"{op} with a weight that depends on the input")
        options = {k: v for k, v in kwargs.items() if k not in _LEFT_OUT}
        options |= dict(zip(_OPTIONS[op], rest))
        return self.add(Convolution(op, weight, options), (x,))


def _check_numbers(value: Any) -> None:
    try:
        if not isinstance(value, (list, tuple)):
            mx.array(value)
            return
    except Exception:  # MLX raises many types
        pass
    raise UnstreamableError(f"combines a signal with {arguments.shown(value)}")
