"""Generators of inputs for layers and models."""

from __future__ import annotations

import contextlib
import copy
import io
import operator
import random
import warnings
from collections.abc import Callable
from typing import Any

import mlx.core as mx
import mlx.nn as nn

import polyconv
from tests.campaigns.fuzz_calls import NO_ROOM, legal, names_of, read
from tests.campaigns.fuzz_inputs import FLOATS, array, no_array, odd, shown
from tests.campaigns.fuzz_judge import Expected, Input, wrong_convolution

# Python's own, of what is given to a constructor of `mlx.nn` unread.
Maker = Callable[[random.Random], Input]


def _told(name: str, args: Any, kwargs: Any = None) -> str:
    given = [
        shown(a) if not isinstance(a, mx.array) else f"array {a.shape} {a.dtype}" for a in args
    ]
    given += [f"{k}={shown(v)}" for k, v in (kwargs or {}).items()]
    return f"{name}({', '.join(given)})"


def _mutated(rng: random.Random, kwargs: dict[str, Any], share: float = 0.6) -> bool:
    """Makes one or two of the arguments odd, in place."""
    if rng.random() > share:
        return False
    for _ in range(rng.choice((1, 1, 2))):
        kwargs[rng.choice(list(kwargs))] = odd(rng)
    return True


def layer(name: str, *more: tuple[type[BaseException], str]) -> Maker:
    """Construction, a call, and one of: packed, an attribute set to something odd, a copy."""
    ndim = None if name == "PolyConvTranspose" else int(name[-2])
    cls = operator.attrgetter(name)(polyconv)

    def draw(rng: random.Random) -> Input:
        rank = ndim or rng.choice((1, 2, 3))
        x_shape, w_shape, options = legal(rng, f"conv_transpose{rank}d")
        kwargs: dict[str, Any] = {
            "in_channels": x_shape[-1],
            "out_channels": w_shape[0],
            "kernel_size": w_shape[1] if rank == 1 else w_shape[1:-1],
            **options,
            "bias": rng.choice((True, False)),
        }
        if ndim is None and (rank == 1 or rng.random() < 0.5):
            kwargs["ndim"] = rank
        _mutated(rng, kwargs)
        x = no_array(rng) if rng.random() < 0.2 else array(rng, x_shape, rng.choice(FLOATS))
        if rng.random() < 0.05:
            kwargs["nonsense"] = 1
        how = rng.choice(("call", "call", "packed", "attribute", "copy", "repr"))
        attribute, value = rng.choice(("stride", "padding", "dilation", "groups")), odd(rng)
        read_as = {k: kwargs.get(k, 1) for k in names_of(f"conv_transpose{rank}d")}
        made: list[Any] = []

        def call() -> Any:
            model = cls(**kwargs)
            repr(model)
            if how == "packed":
                packed = model.to_packed()
                repr(packed)
                made[:] = [model]
                return packed(x)
            if how == "attribute":
                setattr(model, attribute, value)
            if how == "copy":
                model = copy.deepcopy(model)
            made[:] = [model]
            return model(x)

        def check(y: Any) -> str:
            weight = made[0].weight
            if how == "attribute":
                read_as[attribute] = value
            general = read(f"conv_transpose{weight.ndim - 2}d", x.ndim - 2, weight.shape, read_as)
            if general is None:
                return "accepted options that are none"
            if "bias" in made[0]:
                y = y - made[0].bias
            dtype = (mx.zeros((), x.dtype) * mx.zeros((), weight.dtype)).dtype
            return wrong_convolution(y, Expected(x, weight, general, dtype))

        told = f"{_told(name, (x,), kwargs)} {how} {attribute}={shown(value)}"
        return Input(told, call, check, allowed=(NO_ROOM, *more))

    return draw


def _small_model(rng: random.Random) -> Any:
    """A model, or something that only is near one."""
    kind = rng.randrange(9)
    if kind == 0:
        return odd(rng)
    if kind == 1:
        return nn.Linear(2, 2)
    if kind == 2:
        return nn.ConvTranspose1d(4, rng.choice((1, 4)), 4, stride=2)
    if kind == 3:
        return nn.ConvTranspose2d(4, 4, 3)
    if kind == 4:
        return nn.Sequential(nn.ConvTranspose1d(4, 4, 4, stride=2), nn.ReLU(), nn.Conv1d(4, 2, 3))
    if kind == 5:
        return nn.Module()
    if kind == 6:
        return polyconv.PolyConvTranspose1d(4, 2, 3, stride=2)
    if kind == 7:
        model = nn.ConvTranspose1d(4, 4, 3)
        setattr(model, rng.choice(("weight", "stride", "padding", "bias", "mine")), odd(rng))
        return model
    model = nn.Module()
    model.a = nn.Conv1d(4, 4, 3)
    model.b = [model.a, {"c": nn.ConvTranspose1d(4, 4, 2)}, (nn.Dropout(0.0),)]
    return model


def _quiet(call: Callable[[], Any]) -> Callable[[], Any]:
    """Without the warnings and the printing that are meant for people."""

    def quiet() -> Any:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            return call()

    return quiet


# A layer whose attribute was replaced by hand fails by itself, as it did before it was converted.
_LAYERS_OWN = ((Exception, r""),)


def convert(rng: random.Random) -> Input:
    model = _small_model(rng)
    predicate = rng.choice((None, None, lambda path, layer: True, odd(rng)))
    if isinstance(predicate, type) or predicate is len:  # callable, and fails by itself
        predicate = None
    names = ("exploit_sparsity", "packed")
    kwargs = {rng.choice(names): odd(rng)} if rng.random() < 0.3 else {}

    def call() -> Any:
        done = polyconv.convert(model, predicate, **kwargs)
        str(done)
        polyconv.convert(model)
        if rng.random() < 0.5:
            copy.deepcopy(model)
        return polyconv.revert(model)

    legal_model = isinstance(model, nn.Module) and predicate is None and not kwargs
    return Input(_told("convert", (model, predicate), kwargs), _quiet(call), legal=legal_model)


def revert(rng: random.Random) -> Input:
    model = _small_model(rng)
    is_model = isinstance(model, nn.Module)
    return Input(_told("revert", (model,)), lambda: polyconv.revert(model), legal=is_model)


def register_converter(rng: random.Random) -> Input:
    class Mine(nn.Module):
        def __call__(self, x: Any) -> Any:
            return x

    kind = rng.choice((Mine, Mine, nn.Module(), int, odd(rng)))
    call = rng.choice((lambda self, x: x + 1, odd(rng)))

    def register() -> Any:
        polyconv.register_converter(kind, call)
        model = Mine()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            polyconv.convert(model)

    from polyconv.models import converted_classes

    def clean() -> Any:
        try:
            return register()
        finally:
            converted_classes._REGISTERED.pop(Mine, None)
            converted_classes._CLASSES.clear()

    return Input(_told("register_converter", (kind, call)), clean)


def explain_model(rng: random.Random) -> Input:
    model = _small_model(rng)
    if rng.random() < 0.3:
        model = lambda *xs: polyconv.conv_transpose1d(*xs)  # noqa: E731
    shapes: list[Any] = [(1, rng.choice((0, 1, 9)), 4)]
    if rng.random() < 0.5:
        shapes = [rng.choice((odd(rng), (1, 9, 4), (-1, 2, 4), (1, 2**20, 4)))]
    kwargs = {k: odd(rng) for k in ("dtype", "device") if rng.random() < 0.2}
    # What a model itself raises, of shapes that it does not take, is not polyconv's.
    theirs = [
        (ValueError, r"^\[(conv|matmul|addmm|broadcast|reshape|Linear)|broadcast"),
        (TypeError, r"^(conv|unsupported|\w+\(\)|'\w+' object is not callable)"),
        (AttributeError, r""),
        (OverflowError, r""),
        (IndexError, r"SmallVector out of range"),
        (ValueError, r"^Cannot perform addition"),
        (RuntimeError, r"no index|no repr"),
    ]
    told = _told("explain_model", (model, *shapes), kwargs)
    call = lambda: [str(e) for *_, e in polyconv.explain_model(model, *shapes, **kwargs)]  # noqa: E731
    return Input(told, call, allowed=tuple(theirs) if not _is_sane(model) else ())


def _is_sane(model: Any) -> bool:
    return not isinstance(model, nn.Module) and not callable(model)
