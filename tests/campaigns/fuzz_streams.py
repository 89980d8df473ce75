"""Generators of inputs for streams."""

from __future__ import annotations

import random
from typing import Any

import mlx.core as mx
import mlx.nn as nn

import polyconv
from polyconv.streaming.timeline import Timeline
from tests.campaigns.fuzz_calls import GENERAL, PLAIN, TRANSPOSED, legal, read
from tests.campaigns.fuzz_inputs import array, no_array, odd
from tests.campaigns.fuzz_judge import Expected, Input, shape_of, wrong_convolution
from tests.campaigns.fuzz_models import _mutated, _small_model, _told

_OPS = {"conv_transpose1d": TRANSPOSED, "conv1d": PLAIN, "conv_general": GENERAL}


def _chunks(rng: random.Random, x: mx.array) -> list[mx.array]:
    ends = sorted(rng.randrange(x.shape[1] + 1) for _ in range(rng.choice((0, 1, 2, 4))))
    return [x[:, a:b] for a, b in zip([0, *ends], [*ends, x.shape[1]])]


def _drawn(rng: random.Random) -> tuple[str, Any, Any, dict[str, Any]]:
    """A legal call in 1D, without groups that share a filter."""
    while True:
        op = rng.choice(list(_OPS))
        x_shape, w_shape, options = legal(rng, op)
        if len(x_shape) == 3 and not (w_shape[0] == w_shape[2] == 1 and options["groups"] > 1):
            return op, array(rng, x_shape, "float32"), array(rng, w_shape, "float32"), options


def _stream(rng: random.Random, what: str) -> Input:
    """All of a stream, of which the part `what` may get something odd."""
    op, x, w, options = _drawn(rng)
    kwargs: dict[str, Any] = dict(options)
    is_odd = rng.random() < 0.6
    begin: list[Any] = [op, w]
    more: dict[str, Any] = {}
    step: list[Any] = [None, None]
    reset = None
    replaced: dict[str, Any] = {}
    if is_odd and what == "stream_init":
        if rng.random() < 0.6:
            _mutated(rng, kwargs, 1)
        else:
            begin[rng.randrange(2)] = no_array(rng)
        if rng.random() < 0.4:
            more = {rng.choice(("batch", "dtype", "nonsense")): odd(rng)}
    elif is_odd and what in ("stream_step", "stream_flush"):
        kind = rng.choice(("state", "x", "weight", "reset", "field"))
        if kind == "state":
            step[0] = odd(rng)
        elif kind == "reset":
            reset = rng.choice((no_array(rng), mx.array([True] * x.shape[0])))
        elif kind == "field":
            replaced = {rng.choice(("tail", "position", "timeline", "groups", "flip")): odd(rng)}
        elif kind == "x":
            step[1] = no_array(rng)
        else:
            begin.append(no_array(rng))
    chunks = [step[1]] if step[1] is not None else _chunks(rng, x)
    weight = begin[2] if len(begin) > 2 else w

    def call() -> Any:
        batch = {} if "batch" in more else {"batch": x.shape[0]} if x.shape[0] else {}
        state = polyconv.stream_init(*begin[:2], **batch, **more, **kwargs)
        _ = state.latency
        if replaced:
            state = state._replace(**replaced)
        state = step[0] if step[0] is not None else state
        found = []
        if not (what == "stream_flush" and is_odd):
            for chunk in chunks:
                named = {} if reset is None else {"reset": reset}
                y, state = polyconv.stream_step(state, chunk, weight, **named)
                found.append(y)
        y, _ = polyconv.stream_flush(state, weight)
        return mx.concatenate([*found, y], 1)

    def check(y: Any) -> str:
        if is_odd and (
            replaced or reset is not None or more or any(part is not None for part in step)
        ):
            mx.eval(y)
            return ""
        if what == "stream_flush" and is_odd:
            return ""
        taps = begin[1] if isinstance(begin[1], mx.array) else w
        general = read(op, 1, taps.shape, kwargs)
        if general is None:
            return "accepted options that are none"
        if len(begin) > 2 or begin[0] != op:
            return ""
        if shape_of(x.shape, taps.shape, general)[1] < 1:  # where a whole call is refused
            return "" if y.shape[1] == 0 else "samples, where there is no output"
        return wrong_convolution(y, Expected(x, taps, general, mx.float32, free_special=True))

    told = _told(what, (begin, kwargs, more, replaced, step, reset))
    return Input(f"{told} x {x.shape} w {w.shape}", call, check, not is_odd and x.shape[0] > 0)


def stream_init(rng: random.Random) -> Input:
    return _stream(rng, "stream_init")


def stream_step(rng: random.Random) -> Input:
    return _stream(rng, "stream_step")


def stream_flush(rng: random.Random) -> Input:
    return _stream(rng, "stream_flush")


def stream_state(rng: random.Random) -> Input:
    """Made by hand, from fields of any kind."""
    kernel = rng.choice((1, 3, 4))
    fields = [kernel, *[rng.choice((1, 2, 3)) for _ in range(3)], *[rng.choice((0, 1, 2))] * 2]
    if rng.random() < 0.5:
        fields[rng.randrange(6)] = odd(rng)
    line: Any = Timeline(*fields) if rng.random() < 0.8 else odd(rng)
    state = [mx.zeros((1, rng.choice((0, 1, 2, 5)), 2)), -1, line, 1, False]
    if rng.random() < 0.5:
        state[rng.randrange(5)] = odd(rng)

    def call() -> Any:
        made = polyconv.StreamState(*state)
        w = mx.ones((2, kernel, 2))
        y, made = polyconv.stream_step(made, mx.ones((1, 4, 2)), w)
        _ = made.latency
        mx.eval(y)

    return Input(_told("StreamState", state), call)


def stream_cache(rng: random.Random) -> Input:
    """Handed to a layer, after something odd was put into it."""
    layer = rng.choice(
        (polyconv.StreamingConv1d(2, 2, 3), polyconv.StreamingConvTranspose1d(2, 2, 4, stride=2))
    )
    other = polyconv.StreamingConv1d(3, 2, rng.choice((3, 5)))
    is_odd = rng.random() < 0.6
    value = rng.choice((odd(rng), "another layer's")) if is_odd else None

    def call() -> Any:
        cache = polyconv.StreamCache()
        if isinstance(value, str) and value == "another layer's":
            other.step(mx.ones((1, 6, 3)), cache)
        elif is_odd and rng.random() < 0.5:
            cache.state = value
        elif is_odd:
            cache = value  # type: ignore[assignment]
        y = layer.step(mx.ones((1, 6, 2)), cache)
        mx.eval(y, layer.flush(cache))

    return Input(_told("StreamCache", (value,)), call, legal=not is_odd)


def _layer_kwargs(rng: random.Random, op: str) -> tuple[dict[str, Any], Any]:
    while True:
        x_shape, w_shape, options = legal(rng, op)
        listed = any(isinstance(v, (list, tuple)) for v in options.values())
        if len(x_shape) == 3 and not listed and x_shape[0]:
            break
    sizes = {"in_channels": x_shape[-1], "out_channels": w_shape[0], "kernel_size": w_shape[1]}
    return {**sizes, **options, "bias": False}, array(rng, x_shape, "float32")


def streaming_layer(name: str) -> Any:
    op = "conv_transpose1d" if name == "StreamingConvTranspose1d" else "conv1d"

    def draw(rng: random.Random) -> Input:
        kwargs, x = _layer_kwargs(rng, op)
        if op == "conv1d" and rng.random() < 0.5:
            kwargs["causal"] = rng.choice((True, False))
        is_odd = _mutated(rng, kwargs)
        chunk = rng.choice((x, no_array(rng))) if is_odd else x
        extra = {"reset": no_array(rng)} if is_odd and rng.random() < 0.2 else {}
        pieces = _chunks(rng, x)

        def call() -> Any:
            layer = getattr(polyconv, name)(**kwargs)
            _ = layer.latency
            if is_odd:
                found = layer.step(chunk, **extra), layer.flush(), layer(x)
                if layer.weight.size < 2**13:  # else only planned
                    mx.eval(found)
                return None
            whole = layer(x)
            found = [layer.step(piece) for piece in pieces]
            return whole, mx.concatenate([*found, layer.flush()], 1)

        def check(pair: Any) -> str:
            if pair is None:
                return ""
            whole, pieced = pair
            near = whole.shape == pieced.shape and mx.allclose(whole, pieced, 1e-4, 1e-4).item()
            return "" if near else "chunk by chunk it is another output"

        return Input(_told(name, (), kwargs), call, check, legal=False)

    return draw


class _Doubling(nn.Module):
    def __init__(self, value: Any) -> None:
        super().__init__()
        self.up = nn.ConvTranspose1d(2, 2, 4, stride=2, padding=1)
        self._value = value

    def __call__(self, x: mx.array) -> mx.array:
        return self.up(x) * self._value


def stream(rng: random.Random) -> Input:
    is_odd = rng.random() < 0.6
    model = _Doubling(2.0)
    if is_odd:
        model = rng.choice((_small_model(rng), _Doubling(odd(rng))))
    return _streamed(rng, "stream", model, is_odd)


def streamed_model(rng: random.Random) -> Input:
    is_odd = rng.random() < 0.6
    return _streamed(rng, "StreamedModel", _Doubling(0.5), is_odd)


def _streamed(rng: random.Random, name: str, model: Any, is_odd: bool) -> Input:
    x = array(rng, (rng.choice((1, 2)), rng.choice((1, 5, 9)), 2), "float32")
    pieces: list[Any] = list(_chunks(rng, x))
    flushes_first = is_odd and rng.random() < 0.2
    if is_odd and name == "StreamedModel":
        pieces[rng.randrange(len(pieces))] = no_array(rng)
    named = {"reset": no_array(rng)} if is_odd and rng.random() < 0.2 else {}

    def call() -> Any:
        streamed = polyconv.stream(model)
        if flushes_first:
            streamed.flush()
        found = [streamed.step(piece, **named) for piece in pieces]
        y = mx.concatenate([*found, streamed.flush()], 1)
        mx.eval(y)
        streamed.reset_state()
        return y

    def check(y: Any) -> str:
        if is_odd:
            return ""
        near = mx.allclose(y, model(x), 1e-4, 1e-4).item()
        return "" if near else "chunk by chunk it is another output"

    # A model that multiplies by what cannot be multiplied, or gets chunks that its own layers do
    # not take, fails in its own words, or these are told.
    must = "computable chunk by chunk|one that MLX can trace at several lengths"
    own: list[tuple[type[Exception], str]] = [
        (ValueError, rf"^\[stream\] the model must be ({must}); got [^\n]{{1,260}}$")
    ]
    if name == "stream":
        own += [(ValueError, r"^\[(matmul|addmm|broadcast_shapes|multiply)")]
        own += [(TypeError, r"^multiply\(\)")]
    told = f"{name} of {type(model).__name__} {_told('', pieces)}"
    return Input(told, call, check, not is_odd, tuple(own) if is_odd else ())
