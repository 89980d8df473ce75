"""What graph does a model compute? Its own code runs once, on a stand-in for the input.

For the time of the run each module of the model has another class. Its methods are made again, as
`method_rewriting` does for `convert`, with globals in which `mx`, `nn` and `polyconv` record what
they are called with. The model itself is not changed.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FunctionType, ModuleType
from typing import Any

import mlx.nn as nn

from polyconv.execution.identity import Parameters
from polyconv.execution.locking import ALONE
from polyconv.execution.modules import modules, names_of
from polyconv.models.converted_classes import original_class
from polyconv.models.method_rewriting import names_in, own_classes, rebuilt
from polyconv.ops import layers
from polyconv.problem import arguments
from polyconv.streaming.graph import StreamedModel
from polyconv.streaming.layers import StreamingConv1d
from polyconv.streaming.recorded_functions import Recorder, is_of_mlx, recording
from polyconv.streaming.recorded_layers import record_layer
from polyconv.streaming.symbol import Graph, Symbol, UnstreamableError

# Subclasses come before their bases.
_LAYERS = (
    StreamingConv1d,
    layers.PolyConvTranspose1d,
    nn.Conv1d,
    nn.ConvTranspose1d,
)


def stream(model: nn.Module) -> StreamedModel:
    """Makes a model run chunk by chunk, with the same weights and no edits to it.

    The model's code is run once on a stand-in for the input ``(N, L, C)``. It may use 1D
    convolutions, plain and transposed, and functions of each sample: activations, sums, products,
    `nn.Linear`, norms over channels. In time it may pad zeros and crop the ends. Branches that meet
    again are aligned, whatever their delays.

    Args:
        model (nn.Module): The model. It is not changed. The stream keeps the weights of now: after
            loading others make another stream. For gradients by the weights make it inside the
            function that is differentiated.

    Returns:
        StreamedModel: With `step` and `flush`.

    Raises:
        ValueError: If the model does anything else with the signal, such as attention over time or
            a norm over it; the message names the module and its path.
    """
    if not isinstance(model, nn.Module) or not callable(model):
        got = f"{type(model).__name__}, which has no __call__"
        got = got if isinstance(model, nn.Module) else arguments.shown(model)
        arguments.refuse("stream", "model must be an mlx.nn.Module that can be called", got)
    graph = Graph()
    blamed: list[str] = []
    names = names_of(model)

    def blame(module: nn.Module) -> None:
        if not blamed:
            blamed.append(f"{names.get(id(module), 'model')} ({type(module).__name__})")

    try:
        with ALONE, _recorded(model, graph, blame):
            out = model(Symbol(graph, 0))
    except (UnstreamableError, TypeError, AttributeError, ValueError) as error:
        where = blamed[0] if blamed else "the model"
        arguments.refuse(
            "stream", "the model must be computable chunk by chunk", f"{where}: {error}"
        )
    if not isinstance(out, Symbol):
        arguments.refuse("stream", "the model must give one signal", type(out).__name__)
    graph.end_with(out)
    return StreamedModel(graph.nodes, Parameters(model))


@contextmanager
def _recorded(model: nn.Module, graph: Graph, blame: Callable[[nn.Module], None]) -> Iterator[None]:
    found = {id(module): module for _, module in modules(model)}.values()
    before = [(module, type(module)) for module in found]
    classes: dict[type, type] = {}
    try:
        for module, cls in before:
            if cls not in classes:
                classes[cls] = _recording_class(cls, original_class(module) or cls, graph, blame)
            object.__setattr__(module, "__class__", classes[cls])
        yield
    finally:
        for module, cls in before:
            object.__setattr__(module, "__class__", cls)


def _recording_class(
    had: type, cls: type, graph: Graph, blame: Callable[[nn.Module], None]
) -> type:
    """The class for the run of modules that had the class `had`.

    It is made from `cls`, which is `had`, or what `had` was converted from.
    """
    again = functools.partial(_methods_again, graph=graph)
    parents = [type(b.__name__, (b,), again(b)) for b in own_classes(cls)[1:] if again(b)]
    is_leaf = not own_classes(cls)
    if not is_leaf:  # a layer's own `__call__` is then called by `super()`
        base = next((base for base in _LAYERS if issubclass(cls, base)), None)
        parents += (
            [type(base.__name__, (base,), {"__call__": _leaf_of(base, graph)})] if base else []
        )
    inner = type(cls.__name__, (cls, *parents), {} if is_leaf else again(cls))

    def call(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        if not graph.is_recorded_here:
            return had.__call__(self, *args, **kwargs)
        try:
            if is_leaf and any(isinstance(each, Symbol) for each in args):
                return record_layer(self, graph, *args)
            return inner.__call__(self, *args, **kwargs)
        except Exception:
            blame(self)
            raise

    # A class without `__call__` gets none: its `cls.__call__` is its type's, which makes instances.
    is_callable = any("__call__" in vars(base) for base in cls.__mro__)
    return type(cls.__name__, (inner,), {"__call__": call} if is_callable else {})


def _leaf_of(base: Any, graph: Graph) -> Callable[..., Any]:
    def call(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        if any(isinstance(each, Symbol) for each in (*args, *kwargs.values())):
            return record_layer(self, graph, *args, **kwargs)
        return base.__call__(self, *args, **kwargs)

    return call


def _methods_again(cls: type, graph: Graph) -> dict[str, FunctionType]:
    """The methods that a class defines itself, with what they call recorded."""
    found = {}
    for name, function in vars(cls).items():
        if isinstance(function, FunctionType) and name != "__init__":
            found[name] = _again(function, graph, {})
    return found


def _again(function: FunctionType, graph: Graph, known: dict[Any, FunctionType]) -> FunctionType:
    if function in known:
        return known[function]
    made = known[function] = rebuilt(function, {})
    for name in names_in(function) & function.__globals__.keys():
        value = function.__globals__[name]
        if isinstance(value, ModuleType) and value.__name__ in ("mlx.core", "mlx.nn", "polyconv"):
            made.__globals__[name] = Recorder(value, graph)
        elif isinstance(value, FunctionType) and not is_of_mlx(value):
            made.__globals__[name] = _again(value, graph, known)
        elif callable(value) and not isinstance(value, type) and is_of_mlx(value):
            made.__globals__[name] = recording(value, value.__name__, graph)
    return made
