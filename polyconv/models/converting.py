"""How do the layers of a model come to polyconv, with the arrays that they hold?

A layer is converted where it stands: it is given another class, made from its own, so all that hold
it hold the converted one, and its parameters, names and flags are not touched.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from math import prod
from typing import Any, TypeAlias
from weakref import WeakValueDictionary

import mlx.core as mx
import mlx.nn as nn

from polyconv.execution.identity import Held
from polyconv.execution.locking import ALONE
from polyconv.execution.modules import modules
from polyconv.models.block_diagonal import blocks_of
from polyconv.models.method_rewriting import methods_of, own_classes
from polyconv.models.routing import diagonal, known_blocks
from polyconv.ops import layers
from polyconv.problem import arguments
from polyconv.problem.spec import INT32_MAX

Predicate: TypeAlias = "Callable[[str, nn.Module], bool]"

_RANKED: dict[type, type] = {
    nn.ConvTranspose1d: layers.PolyConvTranspose1d,
    nn.ConvTranspose2d: layers.PolyConvTranspose2d,
    nn.ConvTranspose3d: layers.PolyConvTranspose3d,
}
_REGISTERED: dict[type, Callable[..., Any]] = {}
_BLOCKS = "_polyconv_blocks"


@dataclass(frozen=True)
class Converted:
    """A layer that was converted, or why it was not.

    `path` is where the model has it, several if shared. `saving` is how many times fewer
    multiply-accumulates it needs than zeros included, if its stride is known before it runs.
    `left_alone` is empty if it was converted; `note` says what else is to be known.
    """

    path: str
    layer: str
    saving: float | None = None
    left_alone: str = ""
    note: str = ""

    def __str__(self) -> str:
        saving = f", {self.saving:.3g} times fewer multiply-accumulates" if self.saving else ""
        done = f"left alone: {self.left_alone}" if self.left_alone else f"converted{saving}"
        return f"{self.path}: {self.layer} {done}{f'; {self.note}' if self.note else ''}"


class Conversion(tuple[Converted, ...]):
    """What `convert` did, a `Converted` per layer; printed a line each."""

    __slots__ = ()

    @property
    def converted(self) -> list[Converted]:
        return [each for each in self if not each.left_alone]

    def __str__(self) -> str:
        return "\n".join(map(str, self)) or "nothing converted"


def convert(
    model: nn.Module, predicate: Predicate | None = None, *, exploit_sparsity: bool = False
) -> Conversion:
    """Has polyconv compute the transposed convolutions of a model, in place.

    Converted are `mlx.nn.ConvTranspose1d/2d/3d` and their subclasses, and every other module whose
    own methods call ``mx.conv_transpose1d/2d/3d`` or ``mx.conv_general``, such as the layers with
    weight norm of many audio models; also in lists and dicts, shared, or with children of their
    own. Layers that are polyconv's already are not mentioned.

    Args:
        model (nn.Module): The model, or a single layer.
        predicate (callable, optional): Given path and layer, whether to convert it. Default: all.
        exploit_sparsity (bool, optional): Compute a dense weight that has only zeros outside blocks
            on its diagonal by groups. Such weights are reported in any case. A weight that took
            another's place, or was changed in place, is computed densely, with a warning.
            Default: ``False``.

    Returns:
        Conversion: What was done, by layer.

    Raises:
        ValueError: If `model` is no `nn.Module`.
    """
    if not isinstance(model, nn.Module):
        arguments.refuse("convert", "model must be an mlx.nn.Module", arguments.shown(model))
    if predicate is not None and not callable(predicate):
        must = "predicate must be callable, given path and layer"
        arguments.refuse("convert", must, arguments.shown(predicate))
    arguments.switch("convert", "exploit_sparsity", exploit_sparsity)
    paths: dict[int, list[str]] = {}
    found: dict[int, nn.Module] = {}
    for path, module in modules(model):
        paths.setdefault(id(module), []).append(path or "(model)")
        found[id(module)] = module
    told = []
    with ALONE:
        for key, module in found.items():
            if (
                original_class(module) and exploit_sparsity
            ):  # again, for the weights that it has now
                _restore(module)
            if original_class(module) or not _is_candidate(type(module)):
                continue
            path = ", ".join(paths[key])
            if predicate is not None and not any(predicate(each, module) for each in paths[key]):
                told.append(Converted(path, type(module).__name__, None, "the predicate says so"))
                continue
            told.append(_convert(path, module, exploit_sparsity))
    is_done = any(map(original_class, found.values()))  # now or before
    if not is_done:
        _warn_of_nothing(model, told, found.values())
    return Conversion(told)


def revert(model: nn.Module) -> list[str]:
    """Undoes `convert`.

    Args:
        model (nn.Module): A model, converted or not.

    Returns:
        list(str): The paths of the layers that were converted.
    """
    if not isinstance(model, nn.Module):
        arguments.refuse("revert", "model must be an mlx.nn.Module", arguments.shown(model))
    with ALONE:
        converted = [(path, module) for path, module in modules(model) if original_class(module)]
        for _, module in converted:
            _restore(module)  # a shared one is met again, and then is reverted already
    return [path or "(model)" for path, _ in converted]


def _restore(module: nn.Module) -> None:
    object.__setattr__(module, "__class__", original_class(module) or type(module))
    vars(module).pop(_BLOCKS, None)


def register_converter(layer_type: type, call: Callable[..., Any]) -> None:
    """Tells `convert` how layers of a type, or of subclasses of it, are to be called.

    Args:
        layer_type (type): A subclass of `mlx.nn.Module`.
        call (callable): What its ``__call__`` is replaced by, given the layer and the arguments.

    Raises:
        ValueError: If it is not such a type, or `call` cannot be called.
    """
    if not (isinstance(layer_type, type) and issubclass(layer_type, nn.Module)):
        must = "layer_type must be a subclass of mlx.nn.Module"
        arguments.refuse("register_converter", must, arguments.shown(layer_type))
    if not callable(call):
        arguments.refuse("register_converter", "call must be callable", arguments.shown(call))
    with ALONE:
        _REGISTERED[layer_type] = call
        _CLASSES.clear()


def original_class(module: nn.Module) -> type | None:
    """The class that a converted layer had, None if it is not converted."""
    had: type | None = vars(type(module)).get("_converted_from")
    return had


def _is_candidate(cls: type) -> bool:
    if issubclass(cls, layers.PolyConvTranspose):
        return False
    return issubclass(cls, (*_RANKED, *_REGISTERED)) or any(map(methods_of, own_classes(cls)))


def _convert(path: str, module: nn.Module, exploit_sparsity: bool) -> Converted:
    name, cls = type(module).__name__, type(module)
    blocks = [(Held(w), n) for w, n in _weights(module) if n > 1]
    sparse = exploit_sparsity and bool(blocks)
    note = ""
    if blocks:
        n = blocks[0][1]
        how = "computed so" if sparse else "exploit_sparsity=True would compute it so"
        note = f"its dense weight is block-diagonal, as of {n} groups; {how}"
    try:
        object.__setattr__(module, "__class__", _class_for(cls, sparse))
    except TypeError as error:  # of another layout in memory, from C++ say
        return Converted(path, name, None, f"its class cannot be exchanged: {error}", note)
    if sparse:
        vars(module)[_BLOCKS] = blocks
    saving = _saving(module)
    if saving and sparse:
        saving *= blocks[0][1]
    return Converted(path, name, saving, "", note)


def _saving(module: nn.Module) -> float | None:
    """Zeros included, a transposed convolution multiplies the product of its strides times more.

    Told of layers that hold a weight: what wraps one says its stride too.
    """
    if not any(isinstance(value, mx.array) and value.ndim > 2 for value in module.values()):
        return None
    try:
        stride = module.stride if hasattr(module, "stride") else getattr(module, "_stride", None)
    except Exception:  # a property, or a `__getattr__` of the module's
        return None
    strides = stride if isinstance(stride, (tuple, list)) else (stride,)
    if not all(type(step) is int and 0 < step <= INT32_MAX for step in strides):
        return None
    return float(prod(strides))


def _weights(module: nn.Module) -> Iterator[tuple[mx.array, int]]:
    """The arrays that may be weights of it, and how many blocks each has."""
    for value in module.values():
        if (
            isinstance(value, mx.array)
            and value.ndim > 2
            and min(value.shape[0], value.shape[-1]) > 1
        ):
            yield value, blocks_of(value)


# Only as long as some layer is of them: they hold the classes that they are made from.
_CLASSES: WeakValueDictionary[tuple[type, bool], type] = WeakValueDictionary()


def _class_for(cls: type, sparse: bool) -> type:
    """The class of converted layers of a class."""
    with ALONE:
        made = _CLASSES.get((cls, sparse))
        if made is None:
            made = _CLASSES[cls, sparse] = _new_class(cls, sparse)
        return made


def _new_class(cls: type, sparse: bool) -> type:
    members = {"_converted_from": cls, "_is_sparse": sparse, "__reduce_ex__": _reduce}
    if sparse:
        dense = _class_for(cls, False)
        own = {"__call__": _blockwise(dense), "_weight_and_groups": _diagonal_and_groups}
        return _made(dense.__name__, (dense,), cls, members | own)
    registered = next((_REGISTERED[base] for base in cls.__mro__ if base in _REGISTERED), None)
    if registered is not None:
        return _made(cls.__name__, (cls,), cls, members | {"__call__": registered})
    # Each class that calls MLX gets one with the same methods rebuilt right before it in the order
    # in which methods are looked up, so that `super()` finds these too.
    before = [
        type(base.__name__, (base,), methods_of(base))
        for base in own_classes(cls)[1:]
        if methods_of(base)
    ]
    ranked = next((_RANKED[base] for base in cls.__mro__ if base in _RANKED), None)
    if cls in _RANKED and ranked is not None:
        return _made(ranked.__name__, (ranked,), ranked, members)
    bases = (cls, *before, *([ranked] if ranked else []))
    return _made(cls.__name__, bases, cls, members | methods_of(cls))


def _made(name: str, bases: tuple[type, ...], like: type, members: dict[str, Any]) -> type:
    told = {key: getattr(like, key) for key in ("__module__", "__qualname__", "__doc__")}
    return type(name, bases, told | members)


def _blockwise(dense: type) -> Callable[..., Any]:
    def call(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        with known_blocks(_blocks(self)):
            return dense.__call__(self, *args, **kwargs)

    return call


def _diagonal_and_groups(self: Any) -> tuple[mx.array, int]:
    """What a `PolyConvTranspose` computes with, also while another thread reverts it."""
    groups = getattr(self, "groups", 1)
    weight = self.weight
    for known, n in _blocks(self):
        if groups == 1 and known.holds(weight):
            return diagonal(weight, n), n
    return weight, groups


def _blocks(module: nn.Module) -> list[tuple[Held, int]]:
    """The weights that were found to be block-diagonal and are still the layer's."""
    known = vars(module).get(_BLOCKS, [])
    held = [(w, n) for w, n in known if any(map(w.holds, module.values()))]
    if len(held) < len(known):
        name = type(module).__name__
        must = "its block-diagonal weight was replaced or changed and is computed densely"
        warnings.warn(f"[convert] {name}: {must}; convert it again", stacklevel=4)
    return held


def _reduce(self: nn.Module, protocol: Any) -> tuple[Any, ...]:
    """For pickling and copies, since the class is in no module to be found in."""
    cls: Any = type(self)
    parts = nn.Module.__reduce_ex__(self, protocol)
    return (_remade, (cls._converted_from, cls._is_sparse), *parts[2:])


def _remade(cls: type, sparse: bool) -> nn.Module:
    made: Any = _class_for(cls, sparse)
    return made.__new__(made)


def _warn_of_nothing(model: nn.Module, left: list[Converted], modules: Iterable[nn.Module]) -> None:
    kinds = Counter(type(module).__name__ for module in modules)
    most = ", ".join(f"{n} {name}" for name, n in kinds.most_common(5))
    why = "; ".join(f"{each.path}: {each.left_alone}" for each in left)
    if not why:
        why = (
            f"none of its {sum(kinds.values())} modules ({most}) is a transposed convolution that "
            "is not polyconv's already, or calls one itself; `patched()` reaches calls by functions"
        )
    warnings.warn(f"[convert] nothing of {type(model).__name__} converted: {why}", stacklevel=3)
