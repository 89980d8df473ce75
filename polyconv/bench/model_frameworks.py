"""How do MLX, PyTorch and ONNX Runtime compute a whole model? For `polyconv bench` alone.

Each takes a model as data and the same numbers, channels last, and gives functions to time, whose
results are channels last. A framework that is not installed raises `ImportError`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from math import prod
from typing import Any, TypeAlias

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from polyconv.bench.frameworks import Array, Run, inputs_first, onnx_session
from polyconv.bench.model_cases import (
    Activation,
    Conv,
    Layer,
    Layers,
    Mean,
    Model,
    Residual,
    weighted,
)

# Of each layer with weights its arrays: weight and bias, or the numbers of snake.
Weights: TypeAlias = "list[tuple[Array, ...]]"


def drawn(model: Model) -> tuple[list[Array], Weights]:
    """Inputs and weights, whose outputs are about as large as its inputs."""
    rng = np.random.default_rng(0)
    inputs = [rng.standard_normal(shape).astype(np.float32) for shape in model.inputs]
    weights: Weights = []
    for layer, gain in weighted(model.layers):
        if isinstance(layer, Activation):
            weights.append((rng.uniform(0.5, 1.5, layer.channels).astype(np.float32),))
            continue
        shape = (layer.out_channels, *[layer.kernel] * model.ndim, layer.in_channels)
        met = prod(shape[1:]) / (layer.stride**model.ndim if layer.transposed else 1)
        scale = np.float32(gain / np.sqrt(met))
        w = rng.standard_normal(shape).astype(np.float32) * scale
        weights.append((w, rng.standard_normal(len(w)).astype(np.float32) / 10))
    return inputs, weights


class _Snake(nn.Module):
    def __init__(self, numbers: Array) -> None:
        super().__init__()
        self.alpha = mx.array(numbers)

    def __call__(self, x: mx.array) -> mx.array:
        return x + mx.square(mx.sin(self.alpha * x)) / self.alpha


class _Chain(nn.Module):
    """Layers one after the other, each a module or a function of what is there and of skips."""

    def __init__(self, layers: Layers, ndim: int, weights: Iterator[tuple[Array, ...]]) -> None:
        super().__init__()
        self._kinds = layers
        self.layers = [_module(layer, ndim, weights) for layer in layers]

    def __call__(self, x: mx.array, *skips: mx.array) -> mx.array:
        rest = iter(skips)
        for kind, layer in zip(self._kinds, self.layers):
            if isinstance(kind, Residual):
                x = x + layer(x)
            elif isinstance(kind, Mean):
                x = sum([branch(x) for branch in layer], start=0) / len(layer)
            elif layer is None:
                x = mx.concatenate([x, next(rest)], axis=-1)
            else:
                x = layer(x)
        return x


def _module(layer: Layer, ndim: int, weights: Iterator[tuple[Array, ...]]) -> Any:
    """The module of a layer, a list of those of its branches, or None for a skip."""
    if isinstance(layer, Conv):
        name = f"ConvTranspose{ndim}d" if layer.transposed else f"Conv{ndim}d"
        options = (layer.kernel, layer.stride, layer.padding, layer.dilation)
        made = getattr(nn, name)(layer.in_channels, layer.out_channels, *options)
        made.weight, made.bias = map(mx.array, next(weights))
        return made
    if isinstance(layer, Activation):
        return _ACTIVATIONS[layer.name](layer, weights)
    if isinstance(layer, Residual):
        return _Chain(layer.body, ndim, weights)
    if isinstance(layer, Mean):
        return [_Chain(branch, ndim, weights) for branch in layer.branches]
    return None


_ACTIVATIONS: dict[str, Callable[[Activation, Iterator[tuple[Array, ...]]], nn.Module]] = {
    "relu": lambda layer, weights: nn.ReLU(),
    "leaky_relu": lambda layer, weights: nn.LeakyReLU(layer.slope),
    "tanh": lambda layer, weights: nn.Tanh(),
    "sigmoid": lambda layer, weights: nn.Sigmoid(),
    "snake": lambda layer, weights: _Snake(next(weights)[0]),
}


def mlx_model(model: Model, weights: Weights) -> nn.Module:
    """The model of MLX's own layers."""
    made = _Chain(model.layers, model.ndim, iter(weights))
    mx.eval(made.parameters())
    return made


def torch(model: Model, inputs: list[Array], weights: Weights) -> dict[str, Run]:
    """PyTorch without gradients, 2 threads, contiguous and, in 2D and 3D, channels last."""
    import torch

    torch.set_num_threads(2)
    layouts = {"torch": torch.contiguous_format}
    if model.ndim > 1:
        last = torch.channels_last if model.ndim == 2 else torch.channels_last_3d
        layouts["torch channels last"] = last

    def runner(layout: Any) -> Run:
        def tensor(a: Array) -> Any:
            made = torch.from_numpy(np.ascontiguousarray(a))
            return made.contiguous(memory_format=layout) if a.ndim == model.ndim + 2 else made

        given = [tensor(np.moveaxis(x, -1, 1)) for x in inputs]
        compute = _torch_chain(model.layers, model.ndim, iter(weights), tensor)

        def run() -> Any:
            with torch.no_grad():
                return compute(given[0], iter(given[1:])).movedim(1, -1)

        return run

    return {name: runner(layout) for name, layout in layouts.items()}


def exact(model: Model, inputs: list[Array], weights: Weights) -> Array:
    """The output in float64, by PyTorch, to measure errors by."""
    import torch

    def tensor(a: Array) -> Any:
        return torch.from_numpy(np.ascontiguousarray(a)).double()

    given = [tensor(np.moveaxis(x, -1, 1)) for x in inputs]
    compute = _torch_chain(model.layers, model.ndim, iter(weights), tensor)
    with torch.no_grad():
        y: Array = compute(given[0], iter(given[1:])).movedim(1, -1).numpy()
    return y


def _torch_chain(
    layers: Layers, ndim: int, weights: Iterator[tuple[Array, ...]], tensor: Callable[[Array], Any]
) -> Callable[[Any, Iterator[Any]], Any]:
    steps = [_torch_step(layer, ndim, weights, tensor) for layer in layers]

    def compute(x: Any, skips: Iterator[Any]) -> Any:
        for step in steps:
            x = step(x, skips)
        return x

    return compute


def _torch_step(
    layer: Layer, ndim: int, weights: Iterator[tuple[Array, ...]], tensor: Callable[[Array], Any]
) -> Callable[[Any, Iterator[Any]], Any]:
    import torch

    if isinstance(layer, Conv):
        return _torch_conv(layer, ndim, next(weights), tensor)
    if isinstance(layer, Activation):
        if layer.name == "leaky_relu":
            return lambda x, skips: torch.nn.functional.leaky_relu(x, layer.slope)
        if layer.name == "snake":
            alpha = tensor(next(weights)[0].reshape(-1, *[1] * ndim))
            return lambda x, skips: x + torch.sin(alpha * x).square() / alpha
        function = getattr(torch, layer.name)
        return lambda x, skips: function(x)
    if isinstance(layer, Residual):
        body = _torch_chain(layer.body, ndim, weights, tensor)
        return lambda x, skips: x + body(x, skips)
    if isinstance(layer, Mean):
        branches = [_torch_chain(each, ndim, weights, tensor) for each in layer.branches]
        n = len(branches)
        return lambda x, skips: sum([branch(x, skips) for branch in branches]) / n
    return lambda x, skips: torch.cat([x, next(skips)], dim=1)


def _torch_conv(
    layer: Conv, ndim: int, given: tuple[Array, ...], tensor: Callable[[Array], Any]
) -> Callable[[Any, Iterator[Any]], Any]:
    import torch

    w, bias = _channels_first(layer, given[0]), tensor(given[1])
    kernel, (stride, padding, dilation) = tensor(w), (layer.stride, layer.padding, layer.dilation)
    if layer.transposed:
        convolve = getattr(torch.nn.functional, f"conv_transpose{ndim}d")
        return lambda x, skips: convolve(x, kernel, bias, stride, padding, 0, 1, dilation)
    convolve = getattr(torch.nn.functional, f"conv{ndim}d")
    return lambda x, skips: convolve(x, kernel, bias, stride, padding, dilation)


def _channels_first(layer: Conv, w: Array) -> Array:
    """`(O, *K, C)` as PyTorch and ONNX have it."""
    return inputs_first(w, 1) if layer.transposed else np.ascontiguousarray(np.moveaxis(w, -1, 1))


def onnxruntime(model: Model, inputs: list[Array], weights: Weights) -> dict[str, Run]:
    """ONNX Runtime's CPU provider, one graph of the whole model, 2 threads."""
    from onnx import helper

    graph = _Graph(model.ndim, iter(weights))
    names = [f"input{i}" for i in range(len(inputs))]
    y = graph.chain(model.layers, names[0], iter(names[1:]))
    given = {k: np.ascontiguousarray(np.moveaxis(x, -1, 1)) for k, x in zip(names, inputs)}
    made = helper.make_graph(
        graph.nodes,
        "model",
        [helper.make_tensor_value_info(k, 1, x.shape) for k, x in given.items()],
        [helper.make_tensor_value_info(y, 1, None)],
        graph.constants,
    )
    session = onnx_session(made, spins=True)
    return {"onnxruntime": lambda: np.moveaxis(session.run(None, given)[0], 1, -1)}


class _Graph:
    """An ONNX graph in the making."""

    def __init__(self, ndim: int, weights: Iterator[tuple[Array, ...]]) -> None:
        self.ndim, self.weights = ndim, weights
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def node(self, kind: str, *inputs: str, **attributes: Any) -> str:
        from onnx import helper

        name = f"y{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [name], **attributes))
        return name

    def constant(self, a: Array) -> str:
        from onnx import numpy_helper

        name = f"w{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(a, name))
        return name

    def chain(self, layers: Layers, x: str, skips: Iterator[str]) -> str:
        for layer in layers:
            x = self.layer(layer, x, skips)
        return x

    def layer(self, layer: Layer, x: str, skips: Iterator[str]) -> str:
        if isinstance(layer, Conv):
            return self.conv(layer, x)
        if isinstance(layer, Activation):
            return self.activation(layer, x)
        if isinstance(layer, Residual):
            return self.node("Add", x, self.chain(layer.body, x, skips))
        if isinstance(layer, Mean):
            total = self.node("Sum", *[self.chain(each, x, skips) for each in layer.branches])
            n = self.constant(np.array(len(layer.branches), np.float32))
            return self.node("Div", total, n)
        return self.node("Concat", x, next(skips), axis=1)

    def conv(self, layer: Conv, x: str) -> str:
        w, bias = next(self.weights)
        given = (x, self.constant(_channels_first(layer, w)), self.constant(bias))
        return self.node(
            "ConvTranspose" if layer.transposed else "Conv",
            *given,
            strides=[layer.stride] * self.ndim,
            pads=[layer.padding] * 2 * self.ndim,
            dilations=[layer.dilation] * self.ndim,
        )

    def activation(self, layer: Activation, x: str) -> str:
        if layer.name == "leaky_relu":
            return self.node("LeakyRelu", x, alpha=layer.slope)
        if layer.name != "snake":
            return self.node(layer.name.capitalize(), x)
        alpha = self.constant(next(self.weights)[0].reshape(-1, *[1] * self.ndim))
        wave = self.node("Sin", self.node("Mul", x, alpha))
        return self.node("Add", x, self.node("Div", self.node("Mul", wave, wave), alpha))


PEERS = {"torch": torch, "onnxruntime": onnxruntime}
