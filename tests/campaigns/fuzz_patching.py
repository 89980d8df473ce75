"""Generators of inputs for patches, and for `watch`."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable
from typing import Any

import mlx.core as mx

import polyconv
from polyconv.execution.device import is_on_cpu
from tests.campaigns.fuzz_calls import NO_ROOM, legal, names_of, read
from tests.campaigns.fuzz_inputs import array, odd
from tests.campaigns.fuzz_judge import Expected, Input, wrong_convolution
from tests.campaigns.fuzz_models import _quiet, _small_model, _told

# Inside a patch what polyconv refuses is MLX's to refuse, in MLX's words (docs/switching.md).
MLX_ITSELF = (
    (ValueError, r""),
    (TypeError, r"incompatible function arguments|cannot"),
    (OverflowError, r""),
    (RuntimeError, r"no index|no repr"),
)
_ODD_FOR_MLX = (0, -1, 2.5, "2", None, 2**70, [1], (2, 2), object())


def _patching(rng: random.Random, enter: Callable[[], Any], told: str) -> Input:
    ops = ("conv_transpose1d", "conv_transpose2d", "conv_general", "conv1d", "conv2d")
    op = rng.choice(ops)
    x_shape, w_shape, options = legal(rng, op)
    x, w = array(rng, x_shape, "float32"), array(rng, w_shape, "float32")
    is_odd = rng.random() < 0.3
    if is_odd:
        options[rng.choice(names_of(op))] = rng.choice(_ODD_FOR_MLX)
    general = read(op, len(x_shape) - 2, w_shape, options)

    def call() -> Any:
        with enter():
            return getattr(mx, op)(x, w, **options)

    def check(y: Any) -> str:
        if is_odd or general is None:
            return ""
        return wrong_convolution(y, Expected(x, w, general, mx.float32, free_special=True))

    # MLX's own plain convolutions, which take no lists in 1D, stay MLX's on a GPU.
    is_mlx = is_odd or not (op.startswith("conv_transpose") or is_on_cpu(None))
    legal_call = not is_mlx and (options["groups"] == 1 or len(x_shape) < 5)
    allowed = MLX_ITSELF if is_mlx else ()
    return Input(_told(f"{told}: {op}", (x, w), options), call, check, legal_call, allowed)


def patched(rng: random.Random) -> Input:
    if rng.random() < 0.5:
        return _patching(rng, lambda: polyconv.patched(), "patched")
    kwargs = {"cpu_convs": odd(rng)} if rng.random() < 0.5 else {"max_workspace": odd(rng)}

    def call() -> Any:
        with polyconv.patched(**kwargs):
            return mx.conv1d(mx.ones((1, 4, 1)), mx.ones((1, 2, 1)))

    return Input(_told("patched", (), kwargs), call, allowed=(NO_ROOM,))


@contextlib.contextmanager
def _permanent(**kwargs: Any) -> Any:
    polyconv.patch(**kwargs)
    try:
        yield
    finally:
        polyconv.unpatch()


def patch(rng: random.Random) -> Input:
    if rng.random() < 0.5:
        return _patching(rng, _permanent, "patch")
    kwargs = {"cpu_convs": odd(rng)} if rng.random() < 0.5 else {"max_workspace": odd(rng)}

    def call() -> Any:
        with _permanent(**kwargs):
            return mx.conv1d(mx.ones((1, 4, 1)), mx.ones((1, 2, 1)))

    return Input(_told("patch", (), kwargs), call, allowed=(NO_ROOM,))


def unpatch(rng: random.Random) -> Input:
    def call() -> Any:
        for _ in range(rng.choice((1, 2))):
            polyconv.unpatch()
        return mx.conv1d is polyconv.execution.unpatched.ORIGINALS["conv1d"]

    check = lambda restored: "" if restored else "mx.conv1d is not MLX's"  # noqa: E731
    return Input("unpatch()", call, check, legal=True)


def watch(rng: random.Random) -> Input:
    model = rng.choice((None, _small_model(rng)))
    kwargs = {"device": odd(rng)} if rng.random() < 0.4 else {}

    def call() -> Any:
        with polyconv.watch(model, **kwargs):
            mx.conv_transpose1d(mx.ones((1, 4, 1)), mx.ones((1, 2, 1)), 2)
            polyconv.conv_transpose2d(mx.ones((1, 4, 4, 1)), mx.ones((1, 2, 2, 1)), 2)

    return Input(_told("watch", (model,), kwargs), _quiet(call))
