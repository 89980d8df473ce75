"""Which class does a converted layer have? One made from its own, with polyconv's convolutions."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any
from weakref import WeakValueDictionary

import mlx.core as mx
import mlx.nn as nn

from polyconv.execution.identity import Held
from polyconv.execution.locking import ALONE
from polyconv.models.method_rewriting import methods_of, own_classes
from polyconv.models.routing import diagonal, known_blocks
from polyconv.ops import layers

_RANKED: dict[type, type] = {
    nn.ConvTranspose1d: layers.PolyConvTranspose1d,
    nn.ConvTranspose2d: layers.PolyConvTranspose2d,
    nn.ConvTranspose3d: layers.PolyConvTranspose3d,
}
_REGISTERED: dict[type, Callable[..., Any]] = {}
# The attribute of a layer that holds its block-diagonal weights.
_BLOCKS = "_polyconv_blocks"
# Made classes are kept only while some layer has them, because they hold the classes that they are
# made from.
_CLASSES: WeakValueDictionary[tuple[type, bool], type] = WeakValueDictionary()


def original_class(module: nn.Module) -> type | None:
    """The class that a converted layer had, None if it is not converted."""
    had: type | None = vars(type(module)).get("_converted_from")
    return had


def is_candidate(cls: type) -> bool:
    """Whether layers of a class compute transposed convolutions that are not polyconv's yet."""
    if issubclass(cls, layers.PolyConvTranspose):
        return False
    return issubclass(cls, (*_RANKED, *_REGISTERED)) or any(map(methods_of, own_classes(cls)))


def register(layer_type: type, call: Callable[..., Any]) -> None:
    with ALONE:
        _REGISTERED[layer_type] = call
        _CLASSES.clear()


def give_class(module: nn.Module, blocks: list[tuple[Held, int]]) -> None:
    """Gives a layer the class of converted layers, which computes these weights by blocks.

    Raises:
        TypeError: If the layer's class cannot be exchanged.
    """
    object.__setattr__(module, "__class__", _class_for(type(module), bool(blocks)))
    if blocks:
        vars(module)[_BLOCKS] = blocks


def restore_class(module: nn.Module) -> None:
    object.__setattr__(module, "__class__", original_class(module) or type(module))
    vars(module).pop(_BLOCKS, None)


def _class_for(cls: type, sparse: bool) -> type:
    """The class that converted layers of a class have."""
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
    # Each base that calls MLX gets a class with its methods rebuilt, right before it in the order
    # of lookup. So `super()` finds the rebuilt methods too.
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
    """What a `PolyConvTranspose` computes with. Another thread may revert the layer meanwhile."""
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
    """For pickles and copies: the class is made again, because no module holds it."""
    cls: Any = type(self)
    parts = nn.Module.__reduce_ex__(self, protocol)
    return (_remade, (cls._converted_from, cls._is_sparse), *parts[2:])


def _remade(cls: type, sparse: bool) -> nn.Module:
    made: Any = _class_for(cls, sparse)
    return made.__new__(made)
