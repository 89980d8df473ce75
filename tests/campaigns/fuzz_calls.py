"""Generators of inputs for the convolutions: each an `Input`, drawn by a random generator."""

from __future__ import annotations

import random
from typing import Any

import mlx.core as mx
import numpy as np

import polyconv
from tests.campaigns.fuzz_inputs import DTYPES, FLOATS, array, index_of, no_array, odd, shown
from tests.campaigns.fuzz_judge import Check, Expected, Input, shape_of, values, wrong_convolution
from tests.support.cases import draw_case
from tests.support.reference import gradients

METHODS = ("auto", "auto", "per_phase", "stacked", "taps", "native")
# A method that is asked for by name cannot compute everything, and says why (docs/api.md).
UNSUITED = (ValueError, r"\] method must suit the arguments; got ")
# A bound that no tile keeps is refused with the least that does (docs/memory.md).
NO_ROOM = (ValueError, r"\] (max_workspace|the memory that can be had) must be at least \d+ bytes")

TRANSPOSED = ("stride", "padding", "dilation", "output_padding", "groups")
GENERAL = ("stride", "padding", "kernel_dilation", "input_dilation", "groups", "flip")
PLAIN = ("stride", "padding", "dilation", "groups")


def names_of(op: str) -> tuple[str, ...]:
    if op.startswith("conv_transpose"):
        return TRANSPOSED
    return GENERAL if op == "conv_general" else PLAIN


def legal(rng: random.Random, op: str) -> tuple[tuple[int, ...], tuple[int, ...], dict[str, Any]]:
    """Shapes and options of a call that nothing is wrong with."""
    while True:
        case = draw_case(rng.choice)
        ndim = len(case.x_shape) - 2
        is_general = case.op == "conv_general"
        if is_general == op.startswith("conv_transpose") or not case.has_output:
            continue
        if op != "conv_general" and op[-2] != str(ndim):
            continue
        options = dict(case.kwargs)
        if op in ("conv1d", "conv2d", "conv3d"):
            options["padding"] = [max(p) for p in zip(case.general["lo"], case.general["hi"])]
            options["dilation"] = options.pop("kernel_dilation")
            if ndim == 1 and rng.random() < 0.7:
                (options["padding"],) = options["padding"]
            options = {name: options[name] for name in PLAIN}
            general = read(op, ndim, case.w_shape, options)
            if general is None or min(shape_of(case.x_shape, case.w_shape, general)[1:-1]) < 1:
                continue
        return case.x_shape, case.w_shape, options


def read(op: str, ndim: int, w_shape: tuple[int, ...], options: dict[str, Any]) -> Any:
    """The reference's arguments, None where the options are no such call: read from the contract.

    Ints are what `operator.index` takes, also True, but not for a count; an option is one, or one
    per axis, and `conv_general` also takes one for all axes in a list, or none for the default.
    """
    is_general = op == "conv_general"
    listed = lambda v: _listed(v, ndim, is_general)  # noqa: E731
    groups, flip = options.get("groups", 1), options.get("flip", False)
    n_groups = None if isinstance(groups, bool) else index_of(groups)
    if n_groups is None or n_groups < 1 or not isinstance(flip, bool):
        return None
    padding = options.get("padding", 0)
    pair = _items(padding) if is_general else None
    if pair is not None and len(pair) == 2 and None not in map(_items, pair):
        lo, hi = _listed(pair[0], ndim, True, 0), _listed(pair[1], ndim, True, 0)
    else:
        lo = hi = _listed(padding, ndim, is_general, 0)
    if op.startswith("conv_transpose"):
        steps = [listed(options.get(name, 1)) for name in ("stride", "dilation")]
        more = listed(options.get("output_padding", 0))
        if None in (lo, more, *steps):
            return None
        stride, dilation = steps
        front = [d * (k - 1) - p for d, k, p in zip(dilation, w_shape[1:], lo)]
        found = {"stride": [1] * ndim, "kernel_dilation": dilation, "input_dilation": stride}
        found |= {"lo": front, "hi": [a + b for a, b in zip(front, more)], "flip": True}
    else:
        name = "kernel_dilation" if is_general else "dilation"
        names = ("stride", name, "input_dilation")
        steps = [listed(options.get(name, 1)) for name in names]
        if None in (lo, hi, *steps):
            return None
        found = dict(zip(("stride", "kernel_dilation", "input_dilation"), steps))
        found |= {"lo": lo, "hi": hi, "flip": flip}
    if min(min(step) for step in steps) < 1:
        return None
    return found | {"groups": n_groups}


def _items(value: Any) -> list[Any] | None:
    if isinstance(value, (list, tuple)):
        return list(value)
    return list(value.tolist()) if getattr(value, "ndim", 0) else None


def _listed(value: Any, ndim: int, is_general: bool, default: int = 1) -> list[int] | None:
    items = _items(value)
    if is_general and items is not None and len(items) < 2:
        if items and _items(items[0]) is not None:
            return None
        items = (items or [default]) * ndim
    if items is None:
        items = [value] * ndim
    ints = [index_of(item) for item in items]
    return None if len(ints) != ndim or None in ints else ints  # type: ignore[return-value]


def convolution(op: str, function: Any = None) -> Any:
    """The generator of an op: a legal call, often with one or two arguments gone odd.

    Of another `function` than polyconv's of that name it need only be right where it does answer.
    """

    def draw(rng: random.Random) -> Input:
        x_shape, w_shape, options = legal(rng, op)
        special = rng.random() < 0.2
        dtypes = [rng.choice(FLOATS)] * 2
        if rng.random() < 0.2:
            dtypes = [rng.choice(FLOATS), rng.choice(DTYPES)]
        x, w = (
            array(rng, x_shape, dtypes[0], special),
            array(rng, w_shape, dtypes[1], special and dtypes[1] in FLOATS),
        )
        named: dict[str, Any] = {"method": rng.choice(METHODS)} if rng.random() < 0.7 else {}
        is_odd = rng.random() < 0.6
        for _ in range(rng.choice((1, 1, 2)) if is_odd else 0):
            name = rng.choice(("x", "w", *names_of(op), *names_of(op), "method", "stream", "?"))
            if name == "x":
                x = no_array(rng)
            elif name == "w":
                w = no_array(rng) if rng.random() < 0.7 else _vast(rng, w_shape)
            elif name in ("method", "stream", "?"):
                name = rng.choice(("max_workspace", "nonsense")) if name == "?" else name
                is_place = name == "stream" and rng.random() < 0.5
                named[name] = rng.choice(_PLACES) if is_place else odd(rng)
            else:
                options[name] = odd(rng)
        args, kwargs = [], dict(options)
        if rng.random() < 0.3:  # by place
            args, kwargs = [kwargs.pop(name) for name in names_of(op)], {}
        packed = isinstance(w, mx.array) and rng.random() < 0.15
        told = f"{op}({_array(x)}, {_array(w)}, {_options(options)}, {_options(named)})"
        own = getattr(polyconv, op)

        def call() -> Any:
            weight = polyconv.pack(w) if packed else w
            return (function or own)(x, weight, *args, **kwargs, **named)

        check = _check(rng, op, x, w, options, named, call)
        native = named.get("method") == "native"
        legal_call = not (is_odd or function) and dtypes[0] in FLOATS and not native and _is_real(w)
        return Input(
            told, call, check, legal_call and not _is_named(named), (UNSUITED, NO_ROOM, NO_GPU)
        )

    return draw


# Machines of the campaign have no GPU: what is asked of one is MLX's to refuse.
_PLACES = (mx.cpu, mx.gpu, mx.Device(mx.cpu, 0), mx.Device(mx.gpu, 1), mx.default_stream(mx.cpu))
NO_GPU = (ValueError, r"(?i)no gpu|Cannot (set|use|get) ")


def _vast(rng: random.Random, shape: tuple[int, ...]) -> mx.array:
    """A weight that is nowhere in memory, of taps or output channels beyond any use."""
    vast = list(shape)
    axis = rng.randrange(len(shape) - 1)
    vast[axis] = min(vast[axis] * rng.choice((2**10, 2**16, 2**20 + 1, 2**28)), 2**31 - 1)
    return mx.broadcast_to(mx.zeros((1,) * len(shape)), vast)


def _is_named(named: dict[str, Any]) -> bool:
    return named.get("method", "auto") not in ("auto", "per_phase", "taps")


def _is_real(w: Any) -> bool:
    return isinstance(w, mx.array) and w.dtype not in (mx.complex64, mx.float64)


def _array(a: Any) -> str:
    return f"array {a.shape} {a.dtype}" if isinstance(a, mx.array) else shown(a)


def _options(options: dict[str, Any]) -> str:
    return ", ".join(f"{name}={shown(value)}" for name, value in options.items())


def _check(
    rng: random.Random,
    op: str,
    x: Any,
    w: Any,
    options: dict[str, Any],
    named: dict[str, Any],
    call: Any,
) -> Check:
    differentiates = rng.random() < 0.15

    def check(y: Any) -> str:
        if not isinstance(x, mx.array) or not isinstance(w, mx.array):
            return "accepted what is no array"
        if x.ndim not in (3, 4, 5) or x.ndim != w.ndim:
            return "accepted arrays of other ranks"
        if op != "conv_general" and op[-2] != str(x.ndim - 2):
            return "accepted arrays of another rank"
        general = read(op, x.ndim - 2, w.shape, options)
        if general is None:
            return "accepted options that are none"
        bound = named.get("max_workspace")
        if bound is not None and (isinstance(bound, bool) or (index_of(bound) or 0) < 1):
            return "accepted a max_workspace that is no bound"
        wide = w
        if w.shape[0] == w.shape[-1] == 1 and general["groups"] > 1 and x.ndim == 3:
            wide = mx.repeat(
                w, general["groups"], axis=0, stream=mx.cpu
            )  # one filter for all channels
        if x.shape[-1] != wide.shape[-1] * general["groups"] or wide.shape[0] % general["groups"]:
            return "accepted channels that do not fit"
        if str(x.dtype)[9:] not in (*FLOATS, "float64") or w.dtype == mx.complex64:
            return "accepted a dtype that it refuses"
        one = [mx.zeros((), each.dtype, stream=mx.cpu) for each in (x, w)]
        dtype = mx.add(*one, stream=mx.cpu).dtype
        exact = named.get("method") == "per_phase" and x.shape == x.shape
        expected = Expected(x, wide, general, dtype, exact)
        wrong = wrong_convolution(y, expected)
        if wrong or not differentiates or wide is not w or max(y.shape) > 500:
            return wrong
        return _wrong_gradients(op, x, w, options, named, y, general)

    return check


def _wrong_gradients(
    op: str,
    x: mx.array,
    w: mx.array,
    options: dict[str, Any],
    named: dict[str, Any],
    y: mx.array,
    general: dict[str, Any],
) -> str:
    """Both, of finite arguments, in whose dtype all sums of small integers are exact."""
    small = [np.isfinite(values(a)).all() and abs(values(a)).max(initial=0) <= 3 for a in (x, w)]
    floats = (mx.float32, mx.float16)
    if not all(small) or x.dtype not in floats or w.dtype not in floats or w.size > 500:
        return ""
    if x.size > 500 or named.get("method") == "native" or "max_workspace" in named:
        return ""
    cotangent = mx.array(np.random.default_rng(0).integers(-1, 2, y.shape)).astype(y.dtype)
    call = lambda x, w: getattr(polyconv, op)(x, w, **options, **named)  # noqa: E731
    _, found = mx.vjp(call, [x, w], [cotangent])
    right = gradients(values(x), values(w), values(cotangent), **general)
    for name, ours, exact in zip("xw", found, right):
        near = np.abs(values(ours) - exact) <= 2**-10 * np.abs(exact) + 1e-36  # subnormals
        if ours.shape != exact.shape or not near.all():
            return f"the gradient of {name} is wrong"
    return ""
