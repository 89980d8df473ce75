"""Generators of inputs for `polyconv.distributed`, on a group of one rank."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from polyconv import distributed
from tests.campaigns.fuzz_calls import convolution
from tests.campaigns.fuzz_inputs import array, no_array, odd
from tests.campaigns.fuzz_judge import Input
from tests.campaigns.fuzz_models import _mutated, _told, layer
from tests.support.streams import whole_numbers

Maker = Callable[[random.Random], Input]

# A layer holds its group, as MLX's own do, which are no more copied than these.
NO_COPY = (TypeError, r"cannot pickle '([\w.]+\.)?Group' object")  # Python 3.12 names its module

_OPS = ("conv1d", "conv_general", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d")


def _sharding(rng: random.Random, size: int) -> Any:
    """Of the only rank, or what is near."""
    bounds = rng.choice(((0, size), (0, size), (0, size + 1), (0, 1, size), [0, size], (size, 0)))
    try:
        return distributed.Sharding(bounds)
    except ValueError:
        return odd(rng)


def _sequence(op: str) -> Maker:
    def draw(rng: random.Random) -> Input:
        more: dict[str, Any] = {}
        for name in rng.sample(
            ("sharding", "axis", "group", "output_sharding"), rng.choice((0, 1))
        ):
            more[name] = odd(rng)

        def function(x: Any, w: Any, *args: Any, **kwargs: Any) -> Any:
            if isinstance(x, mx.array) and x.ndim > 1 and "sharding" not in more:
                more["sharding"] = rng.choice((None, distributed.Sharding((0, x.shape[1]))))
            y, sharding = getattr(distributed, op)(x, w, *args, **kwargs, **more)
            axis = more.get("axis", 1)
            assert sharding.size == y.shape[axis], "another sharding than the output's"
            return y

        return convolution(op, function)(rng)

    return draw


def _of_array(name: str) -> Maker:
    """`sharding_of`, `reshard` and `with_halo`, which give what they are given by one rank."""

    def draw(rng: random.Random) -> Input:
        x = array(rng, [rng.choice((0, 1, 3, 5)) for _ in range(rng.choice((2, 3)))], "float32")
        axis = rng.choice((0, 1))
        size = x.shape[axis]
        whole = distributed.Sharding((0, size))
        kwargs: dict[str, Any] = {"x": x, "axis": axis, "group": None}
        if name != "sharding_of":
            kwargs["sharding"] = whole
        if name == "reshard":
            kwargs["to"] = whole
        if name == "with_halo":
            kwargs |= {"before": rng.choice((0, 1, 9)), "behind": rng.choice((0, 2))}
        is_odd = _mutated(rng, kwargs)
        if rng.random() < 0.2:
            kwargs["x"] = no_array(rng)
        if "sharding" in kwargs and rng.random() < 0.3:
            is_odd, kwargs["sharding"] = True, _sharding(rng, size)

        def call() -> Any:
            return getattr(distributed, name)(**kwargs)

        def check(found: Any) -> str:
            if name == "sharding_of":
                return "" if found.sizes == (kwargs["x"].shape[kwargs["axis"]],) else f"{found}"
            return "" if mx.array_equal(found, kwargs["x"], equal_nan=True) else "another array"

        legal = not is_odd and kwargs["x"] is x
        return Input(_told(name, (), kwargs), call, check, legal)

    return draw


def _sharding_class(rng: random.Random) -> Input:
    how = rng.choice(("Sharding", "of_sizes", "even"))
    ints = [rng.choice((0, 0, 1, 3, 2**40)) for _ in range(rng.choice((0, 1, 2, 4)))]
    args: list[Any] = [tuple(ints)] if how != "even" else [rng.choice((0, 7)), rng.choice((1, 3))]
    for i in range(len(args)):
        if rng.random() < 0.4:
            args[i] = odd(rng)
    make = distributed.Sharding if how == "Sharding" else getattr(distributed.Sharding, how)

    def check(found: Any) -> str:
        return "" if sum(found.sizes) == found.size == found.bounds[-1] else "sizes that do not fit"

    return Input(_told(how, args), lambda: make(*args), check)


def _traffic(rng: random.Random) -> Input:
    args = [odd(rng)] if rng.random() < 0.3 else []

    def call() -> Any:
        with distributed.traffic(*args) as counted:
            distributed.sharding_of(mx.zeros((1, 2)))
        return counted

    return Input(_told("traffic", args), call, lambda found: "" if not found.messages else "sent")


def _shard_conv_transpose(rng: random.Random) -> Input:
    ndim = rng.choice((1, 2, 3))
    model = whole_numbers(getattr(nn, f"ConvTranspose{ndim}d")(4, 6, 3))
    kind = rng.choice(("all-to-sharded", "sharded-to-all"))
    kwargs: dict[str, Any] = {"layer": model, "sharding": kind, "group": None}
    is_odd = _mutated(rng, kwargs, 0.4)
    if rng.random() < 0.2:
        is_odd, kwargs["layer"] = True, rng.choice((nn.Linear(2, 2), nn.Module(), nn.Conv1d))
    x = mx.ones((1, *[3] * ndim, 4))

    def check(found: Any) -> str:
        return "" if mx.array_equal(found(x), model(x)) else "another layer"

    call = lambda: distributed.shard_conv_transpose(**kwargs)  # noqa: E731
    return Input(_told("shard_conv_transpose", (), kwargs), call, check, not is_odd)


GENERATORS: dict[str, Maker] = {
    **{op: _sequence(op) for op in _OPS},
    **{name: _of_array(name) for name in ("sharding_of", "reshard", "with_halo")},
    "Sharding": _sharding_class,
    "Traffic": _traffic,
    "traffic": _traffic,
    "shard_conv_transpose": _shard_conv_transpose,
    **{
        name: layer(f"distributed.{name}", NO_COPY)
        for name in distributed.__all__
        if name.endswith("d") and "ConvTranspose" in name
    },
}
