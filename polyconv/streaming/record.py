"""What graph does a model compute? Its own code runs once, on a stand-in for the input.

As `method_rewriting` does for `convert`: for the time of the run each module of the model has a
class whose methods are made again with other globals, in which `mx`, `nn` and `polyconv` record
what is called with a stand-in. The model itself is not changed by it.
"""

from __future__ import annotations

import copy
import functools
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FunctionType, ModuleType
from typing import Any, NoReturn

import mlx.core as mx
import mlx.nn as nn

from polyconv.execution.identity import Parameters, handle_of
from polyconv.execution.locking import ALONE
from polyconv.execution.modules import modules, names_of
from polyconv.execution.packing import evaluate
from polyconv.gradients.bias import add_bias
from polyconv.models.converting import original_class
from polyconv.models.method_rewriting import names_in, own_classes, rebuilt
from polyconv.ops import layers
from polyconv.problem import arguments
from polyconv.streaming import layers as streamlayers
from polyconv.streaming.graph import Convolution, Ends, Node, Pointwise, StreamedModel

_CONVOLUTIONS = ("conv1d", "conv_transpose1d", "conv_general")
# Functions of each sample by itself; those of `mlx.nn` are its activations.
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
# The more special before what they derive from.
_LAYERS = (
    streamlayers.StreamingConv1d,
    layers.PolyConvTranspose1d,
    nn.Conv1d,
    nn.ConvTranspose1d,
)
_POINTWISE_MODULES = (
    nn.Linear,
    nn.QuantizedLinear,
    nn.Dropout,
    nn.Identity,
    nn.LayerNorm,
    nn.RMSNorm,
)


class UnstreamableError(Exception):
    """Why something cannot be computed chunk by chunk."""


class Symbol:
    """Stands for a signal ``(N, L, C)`` whose length nobody knows: node `index` of a graph."""

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
        """In place, as MLX's arrays: who else holds it sees it too."""
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
    """The nodes so far; 0 is the input. Other threads may run the model meanwhile, as it is."""

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
        """A function of signals, and of numbers or arrays without time."""
        given = [*args, *kwargs.values()]
        for each in given:
            if not isinstance(each, (Symbol, mx.array, mx.Dtype, type(None))):
                _check_numbers(each)
            shape: tuple[int, ...] = () if isinstance(each, Symbol) else getattr(each, "shape", ())
            if len(shape) > 3 or (len(shape) > 1 and shape[-2] != 1):
                raise UnstreamableError(f"combines a signal with an array {shape} along time")
        # As they are now: `layer.bias += d` changes an array in place.
        given = [handle_of(each) if isinstance(each, mx.array) else each for each in given]
        evaluate([each for each in given if isinstance(each, mx.array)])
        signals = [each for each in given if isinstance(each, Symbol)]

        def call(*chunks: mx.array) -> mx.array:
            left = iter(chunks)
            filled = [next(left) if isinstance(each, Symbol) else each for each in given]
            named = dict(zip(kwargs, filled[len(args) :]))
            return function(*filled[: len(args)], **named)

        return self.add(Pointwise(call, len(signals)), tuple(signals))

    def convolution(self, op: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Symbol:
        names = {
            "conv1d": ("stride", "padding", "dilation", "groups"),
            "conv_transpose1d": ("stride", "padding", "dilation", "output_padding", "groups"),
        }.get(op, ("stride", "padding", "kernel_dilation", "input_dilation", "groups", "flip"))
        x, weight, *rest = args
        if not isinstance(x, Symbol) or isinstance(weight, Symbol):
            raise UnstreamableError(f"{op} with a weight that depends on the input")
        options = {k: v for k, v in kwargs.items() if k not in ("stream", "method")}
        options |= dict(zip(names, rest))
        return self.add(Convolution(op, weight, options), (x,))


def _check_numbers(value: Any) -> None:
    try:
        if not isinstance(value, (list, tuple)):
            mx.array(value)
            return
    except Exception:  # MLX's, of many types
        pass
    raise UnstreamableError(f"combines a signal with {arguments.shown(value)}")


class _Recorder:
    """A module whose functions record what they are called with, if that is a stand-in."""

    def __init__(self, module: ModuleType, graph: Graph) -> None:
        self._module, self._graph = module, graph

    def __getattr__(self, name: str) -> Any:
        if name == "random" and self._graph.is_recorded_here:
            raise UnstreamableError("draws random numbers, which would be the same for each chunk")
        value = getattr(self._module, name)
        if isinstance(value, type) or not callable(value):
            return value
        return _recording(value, name, self._graph)


def _recording(function: Callable[..., Any], name: str, graph: Graph) -> Callable[..., Any]:
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
                _check_axis(name, axis)
            return graph.pointwise(function, args, kwargs)
        raise UnstreamableError(f"{name} of a whole signal")

    return call


def _check_axis(name: str, axis: Any) -> None:
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


def stream(model: nn.Module) -> StreamedModel:
    """Makes a model run chunk by chunk, with the same weights and no edits to it.

    Its code is run once on a stand-in for the input ``(N, L, C)``. What it may do with that are
    1D convolutions, transposed ones, functions of each sample (activations, sums, products,
    `nn.Linear`, norms over channels), zeros padded and ends cropped in time. Branches that meet
    again are aligned, whatever their delays.

    Args:
        model (nn.Module): It is not changed. The stream keeps the weights that it has now; make
            another after loading others, and inside the function whose gradient by them is taken.

    Returns:
        StreamedModel: With `step` and `flush`.

    Raises:
        ValueError: If something else is done with the signal, attention over time or a norm over it
            say; the message names the module and its path.
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
    if out._index != len(graph.nodes):  # something was computed in vain behind it
        graph.pointwise(lambda a: a, (out,), {})
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
    """Of a class that modules had, made from it, or from what it was before it was converted."""
    again = functools.partial(_methods_again, graph=graph)
    parents = [type(b.__name__, (b,), again(b)) for b in own_classes(cls)[1:] if again(b)]
    is_leaf = not own_classes(cls)
    if not is_leaf:  # what it calls by `super()`
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
                return _leaf(self, graph, *args)
            return inner.__call__(self, *args, **kwargs)
        except Exception:
            blame(self)
            raise

    # Looked up in a class that has none, `__call__` is that of its type, which makes an instance.
    is_callable = any("__call__" in vars(base) for base in cls.__mro__)
    return type(cls.__name__, (inner,), {"__call__": call} if is_callable else {})


def _leaf_of(base: Any, graph: Graph) -> Callable[..., Any]:
    def call(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        if any(isinstance(each, Symbol) for each in (*args, *kwargs.values())):
            return _leaf(self, graph, *args, **kwargs)
        return base.__call__(self, *args, **kwargs)

    return call


def _leaf(self: Any, graph: Graph, x: Any, *more: Any) -> Any:
    """A layer of `mlx.nn`, or polyconv's."""
    options = {"stride": getattr(self, "stride", 1), "groups": getattr(self, "groups", 1)}
    if isinstance(self, nn.ConvTranspose1d):
        names = ("padding", "dilation", "output_padding")
        options |= {name: getattr(self, name) for name in names}
        y = graph.convolution("conv_transpose1d", (x, self.weight), options)
        return _with_bias(self, y, graph)
    if isinstance(self, streamlayers.StreamingConv1d):
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
            _check_axis(type(self).__name__, getattr(self, "axis", -1))
        original = _original(type(self))
        call, layer = original.__call__, _with_arrays_of_now(self)
        return graph.pointwise(lambda a: call(layer, a), (x,), {})
    raise UnstreamableError(f"{type(self).__name__} looks at all of time")


def _with_arrays_of_now(module: Any) -> Any:
    """The module, if it has no arrays, or one beside it that goes on with these."""
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
            made.__globals__[name] = _Recorder(value, graph)
        elif isinstance(value, FunctionType) and not _is_of_mlx(value):
            made.__globals__[name] = _again(value, graph, known)
        elif callable(value) and not isinstance(value, type) and _is_of_mlx(value):
            made.__globals__[name] = _recording(value, value.__name__, graph)
    return made


def _is_of_mlx(function: Any) -> bool:
    name = getattr(function, "__name__", "")
    return any(getattr(module, name, None) is function for module in (mx, nn) if name)
