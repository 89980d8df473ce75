"""What do layers give for a stand-in? Nodes of its graph, or an error.

The layers are those of `mlx.nn` and polyconv, whose code need not run.
"""

from __future__ import annotations

import copy
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from polyconv.execution.identity import handle_of
from polyconv.execution.packing import evaluate
from polyconv.gradients.bias import add_bias
from polyconv.streaming.layers import StreamingConv1d
from polyconv.streaming.recorded_functions import check_axis
from polyconv.streaming.symbol import Graph, Symbol, UnstreamableError

_POINTWISE_MODULES = (
    nn.Linear,
    nn.QuantizedLinear,
    nn.Dropout,
    nn.Identity,
    nn.LayerNorm,
    nn.RMSNorm,
)


def record_layer(self: Any, graph: Graph, x: Any, *more: Any) -> Any:
    """Records a layer of `mlx.nn` or polyconv."""
    options = {"stride": getattr(self, "stride", 1), "groups": getattr(self, "groups", 1)}
    if isinstance(self, nn.ConvTranspose1d):
        names = ("padding", "dilation", "output_padding")
        options |= {name: getattr(self, name) for name in names}
        y = graph.convolution("conv_transpose1d", (x, self.weight), options)
        return _with_bias(self, y, graph)
    if isinstance(self, StreamingConv1d):
        options = self._stream_options()
        return _with_bias(self, graph.convolution("conv_general", (x, self.weight), options), graph)
    if isinstance(self, nn.Conv1d):
        options |= {"padding": self.padding, "dilation": self.dilation}
        return _with_bias(self, graph.convolution("conv1d", (x, self.weight), options), graph)
    if isinstance(self, nn.Sequential):
        for layer in self.layers:
            x = layer(x)
        return x
    if isinstance(self, _POINTWISE_MODULES) or _is_activation(type(self)):
        if type(self).__name__ in ("GLU", "Softmax", "LogSoftmax", "Softmin"):
            check_axis(type(self).__name__, getattr(self, "axis", -1))
        original = _original(type(self))
        call, layer = original.__call__, _with_arrays_of_now(self)
        return graph.pointwise(lambda a: call(layer, a), (x,), {})
    raise UnstreamableError(f"{type(self).__name__} looks at all of time")


def _with_arrays_of_now(module: Any) -> Any:
    """A copy of the module that keeps the arrays of now, or the module itself if it has none."""
    arrays = {name: each for name, each in module.items() if isinstance(each, mx.array)}
    if not arrays:
        return module
    evaluate(list(arrays.values()))
    kept = copy.copy(module)
    kept.update({name: handle_of(each) for name, each in arrays.items()})
    return kept


def _with_bias(self: Any, y: Symbol, graph: Graph) -> Symbol:
    return graph.pointwise(add_bias, (y, self.bias), {}) if "bias" in self else y


def _original(cls: type) -> Any:
    return next(base for base in cls.__mro__ if base.__module__.startswith("mlx."))


def _is_activation(cls: type) -> bool:
    return any(base.__module__ == nn.layers.activations.__name__ for base in cls.__mro__)
