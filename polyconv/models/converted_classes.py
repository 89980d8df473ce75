"""Which class does a converted layer have? One made from its own.

A layer of `mlx.nn` gets polyconv's class of the same layer. Any other gets a class with the methods
of its own, unchanged. While one of them runs polyconv answers what it calls (`dispatching.py`).
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Sequence
from types import FunctionType
from typing import Any
from weakref import WeakValueDictionary, ref

import mlx.core as mx
import mlx.nn as nn

from polyconv.execution.locking import ALONE
from polyconv.execution.packing import PackedWeight
from polyconv.models.calls_in_code import calls_transposed, own_classes
from polyconv.models.dispatching import Count, Running, call
from polyconv.models.known_weights import KnownWeight
from polyconv.ops import layers, plain_layers

_RANKED: dict[type, type] = {
    nn.ConvTranspose1d: layers.PolyConvTranspose1d,
    nn.ConvTranspose2d: layers.PolyConvTranspose2d,
    nn.ConvTranspose3d: layers.PolyConvTranspose3d,
}
_PLAIN: dict[type, type] = {
    nn.Conv1d: plain_layers.PlainConv1d,
    nn.Conv2d: plain_layers.PlainConv2d,
    nn.Conv3d: plain_layers.PlainConv3d,
}
_REGISTERED: dict[type, Callable[..., Any]] = {}
# The attribute of a layer that holds its weights which are computed in another form.
_KNOWN = "_polyconv_blocks"
# Made classes are kept only while some layer has them, because they hold the classes that they are
# made from.
_CLASSES: WeakValueDictionary[tuple[type, bool], type] = WeakValueDictionary()
# Counts by the identity of their module, while somebody has the report that tells them.
_COUNTS: WeakValueDictionary[int, LayerCount] = WeakValueDictionary()


class LayerCount(Count):
    """The count of one layer."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = ref(layer)

    def __reduce__(self) -> tuple[Any, ...]:
        return Count, (self.runs, self.answered)


def original_class(module: nn.Module) -> type | None:
    """The class that a converted layer had, None if its class was not exchanged."""
    had: type | None = vars(type(module)).get("_converted_from")
    return had


def is_converted(module: nn.Module) -> bool:
    return original_class(module) is not None and vars(type(module))["_is_answered"]


def is_candidate(cls: type) -> bool:
    """Whether layers of a class compute transposed convolutions that are not polyconv's yet."""
    if issubclass(cls, layers.PolyConvTranspose):
        return False
    return issubclass(cls, (*_RANKED, *_REGISTERED)) or any(map(calls_transposed, own_classes(cls)))


def is_plain(cls: type) -> bool:
    """Whether layers of a class are MLX's layers of an ordinary convolution, and no subclass."""
    return cls in _PLAIN


def runs_methods(module: nn.Module) -> bool:
    """Whether a converted layer runs methods of its own class."""
    return bool(vars(type(module))["_runs_methods"])


def register(layer_type: type, call: Callable[..., Any]) -> None:
    with ALONE:
        _REGISTERED[layer_type] = call
        _CLASSES.clear()


def give_class(
    module: nn.Module, known: Sequence[KnownWeight] = (), is_answered: bool = True
) -> LayerCount:
    """Gives a layer the class of converted layers, which computes known weights in their form.

    With `is_answered` false it gets one in which polyconv does not answer, whoever calls the layer.

    Raises:
        TypeError: If the layer's class cannot be exchanged.
    """
    object.__setattr__(module, "__class__", _class_for(type(module), is_answered))
    if known:
        vars(module)[_KNOWN] = list(known)
    count = _COUNTS[id(module)] = LayerCount(module)
    return count


def restore_class(module: nn.Module) -> None:
    object.__setattr__(module, "__class__", original_class(module) or type(module))
    vars(module).pop(_KNOWN, None)
    _COUNTS.pop(id(module), None)


def _class_for(cls: type, is_answered: bool) -> type:
    """The class that converted layers of a class have."""
    with ALONE:
        made = _CLASSES.get((cls, is_answered))
        if made is None:
            made = _CLASSES[cls, is_answered] = _new_class(cls, is_answered)
        return made


class _Unseen:
    """The first base of what is made: the hooks of a user's class are not run for it."""

    __slots__ = ()

    def __init_subclass__(cls) -> None:
        pass


def _new_class(cls: type, is_answered: bool) -> type:
    own = _RANKED.get(cls) or _PLAIN.get(cls)
    members: dict[str, Any] = {
        "_converted_from": cls,
        "_is_answered": is_answered,
        "_runs_methods": True,
        "__reduce_ex__": _reduce,
    }
    if not is_answered:
        return _made((_Unseen, cls), cls, members | _methods(cls, None, is_answered))
    registered = next((_REGISTERED[base] for base in cls.__mro__ if base in _REGISTERED), None)
    ranked = next((_RANKED[base] for base in cls.__mro__ if base in _RANKED), None)
    members |= {"_weight_and_groups": _weight_and_groups} if ranked else {}
    if registered is None and own is not None:
        members |= {"_runs_methods": False, "_weight_and_groups": _weight_and_groups}
        members |= {"_is_packed": property(_is_packed)} if cls in _PLAIN else {}
        return _made((_Unseen, own), own, members)
    # polyconv's layer stands right behind the class, where its `super()` finds it.
    bases = (_Unseen, cls, *([ranked] if ranked and registered is None else []))
    return _made(bases, cls, members | _methods(cls, registered, is_answered))


def _made(bases: tuple[type, ...], like: type, members: dict[str, Any]) -> type:
    told = {key: getattr(like, key) for key in ("__module__", "__qualname__", "__doc__")}
    # Not by calling the type, which would run the hooks of a metaclass.
    return type.__new__(type(like), like.__name__, bases, told | members)


def _methods(
    cls: type, registered: Callable[..., Any] | None, is_answered: bool
) -> dict[str, Callable[..., Any]]:
    """The methods of a class, during which polyconv answers, or does not."""
    own = [(name, value) for base in own_classes(cls) for name, value in vars(base).items()]
    names = {name for name, value in own if isinstance(value, FunctionType) and name[:2] != "__"}
    if "__call__" in dict(own) or (not is_answered and _member(cls, "__call__")):
        names.add("__call__")
    made = {
        name: _method(functools.partial(_bound, cls, name), name, is_answered) for name in names
    }
    if registered is not None:
        made["__call__"] = _method(
            functools.partial(functools.partial, registered), "__call__", True
        )
    for name, method in made.items():
        functools.update_wrapper(
            method, registered if registered and name == "__call__" else _member(cls, name)
        )
    return made


def _method(
    own: Callable[[nn.Module], Callable[..., Any]], name: str, is_answered: bool
) -> Callable[..., Any]:
    """Calls what `own` gives for a layer.

    It is looked up at each call, and in the layer's own class, because another thread may revert
    the layer meanwhile.
    """

    def method(self: nn.Module, /, *args: Any, **kwargs: Any) -> Any:
        return call(_running(self, name) if is_answered else None, own(self), args, kwargs)

    return method


def _bound(cls: type, name: str, module: nn.Module) -> Any:
    member = _member(cls, name)
    bind = getattr(type(member), "__get__", None)
    return bind(member, module, type(module)) if bind else member


def _member(cls: type, name: str) -> Any:
    return next((vars(base)[name] for base in cls.__mro__ if name in vars(base)), None)


def _running(module: nn.Module, name: str) -> Running:
    count = _count_of(module)
    count.runs += name == "__call__"
    return Running(_known(module), count)


def _weight_and_groups(self: Any) -> tuple[mx.array | PackedWeight, int]:
    """What a `PolyConvTranspose` computes with. Another thread may revert the layer meanwhile."""
    groups, weight = getattr(self, "groups", 1), self.weight
    _count_of(self).answered += 1
    for known in _known(self):
        if (groups == 1 or known.n_blocks == 1) and known.is_of(weight):
            return known.stand_in(weight), max(groups, known.n_blocks)
    return weight, groups


def _is_packed(self: nn.Module) -> bool:
    return any(known.is_packed for known in _known(self))


def _count_of(module: nn.Module) -> Count:
    found = _COUNTS.get(id(module))
    return found if found is not None and found.layer() is module else Count()


def _known(module: nn.Module) -> list[KnownWeight]:
    """The weights that are computed in another form, and are still the layer's."""
    known: list[KnownWeight] = vars(module).get(_KNOWN, [])
    held = [each for each in known if any(map(each.holds, module.values()))]
    for each in known:
        if each not in held:
            text = f"[convert] {type(module).__name__}: {each.if_changed}; convert it again"
            warnings.warn(text, stacklevel=4)
    return held


def _reduce(self: nn.Module, protocol: Any) -> tuple[Any, ...]:
    """For pickles and copies: the class is made again, because no module holds it."""
    cls: Any = type(self)
    parts = nn.Module.__reduce_ex__(self, protocol)
    return (_remade, (cls._converted_from, False, cls._is_answered), *parts[2:])


def _remade(cls: type, _: bool, is_answered: bool = True) -> nn.Module:
    """A layer of a class. What is not read is of pickles that were made before."""
    made: Any = _class_for(cls, is_answered)
    return made.__new__(made)
