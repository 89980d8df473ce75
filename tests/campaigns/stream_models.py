"""Random models, chunk by chunk and whole.

    python -m tests.campaigns.stream_models --models 2000

makes a stream of each model, runs it in random chunks, and compares it with the model by `==`, or,
where its functions are not exact, to 1e-4 of the scale. Items of a batch begin anew at random, and
are compared with streams of them alone. A stream is made without its own proof,
which would hide what is wrong, unless the model branches on the length. A model may be refused,
with a reason; the reasons are counted. Exits with 1 if a stream differs.
"""

from __future__ import annotations

import argparse
import copy
import functools
import random
import re
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np

import polyconv
from tests.support.cases import integers
from tests.support.streams import Restarting, whole_numbers

Function = Callable[[mx.array], mx.array]
CHANNELS = 4
_CLOSE = 1e-4  # what is clipped was up to 100 times larger


class Block(nn.Module):
    """What is made of the signal in one place, and what keeps its numbers small."""

    def __init__(self, told: str, parts: Sequence[Any], function: Any, is_exact: bool) -> None:
        super().__init__()
        self.told, self.parts, self._function, self._is_exact = told, parts, function, is_exact

    def __call__(self, x: mx.array) -> mx.array:
        y = mx.clip(self._function(x), -8, 8)
        return mx.floor(y) if self._is_exact else y


class Inherited(Block):
    def __call__(self, x: mx.array) -> mx.array:
        return super().__call__(x) + 1


def _logged(call: Any) -> Any:
    @functools.wraps(call)
    def wrapped(self: Any, *args: Any, **kwargs: Any) -> Any:
        return -call(self, *args, **kwargs)

    return wrapped


class Decorated(Block):
    __call__ = _logged(Block.__call__)


class Keeping(Block):
    """Keeps what it was given and what it made."""

    def __call__(self, x: mx.array) -> mx.array:
        self.last, self.cache = x, [super().__call__(x)]
        return self.cache[0]


class Drawn:
    """Draws the functions of a model."""

    def __init__(self, rng: random.Random, is_exact: bool) -> None:
        self.rng, self.is_exact = rng, is_exact

    # Functions that keep the length.

    def same(self) -> tuple[str, list[Any], Function]:
        return self.rng.choice(
            (
                *(self.conv_same, self.conv_causal, self.act, self.norm, self.delayed),
                *(self.padded, self.beside, self.end, self.in_place, self.there_and_back),
            )
        )()

    def conv_same(self) -> tuple[str, list[Any], Function]:
        k, d = self.rng.choice((1, 3, 5, 7)), self.rng.choice((1, 1, 2, 3))
        groups = self.rng.choice((1, 1, 2, 4))
        pad = d * (k - 1) // 2
        conv = whole_numbers(nn.Conv1d(CHANNELS, CHANNELS, k, 1, pad, d, groups))
        return f"conv k{k} d{d} g{groups}", [conv], conv

    def conv_causal(self) -> tuple[str, list[Any], Function]:
        k, d = self.rng.choice((2, 3, 4)), self.rng.choice((1, 2, 4))
        conv = whole_numbers(nn.Conv1d(CHANNELS, CHANNELS, k, dilation=d))
        pad = d * (k - 1)
        if self.rng.random() < 0.5:
            return (
                f"causal k{k} d{d}",
                [conv],
                lambda x: conv(mx.pad(x, [(0, 0), (pad, 0), (0, 0)])),
            )
        both = [(0, 0), (pad, pad), (0, 0)]
        return f"trimmed k{k} d{d}", [conv], lambda x: conv(mx.pad(x, both))[:, :-pad]

    def act(self) -> tuple[str, list[Any], Function]:
        exact: list[Any] = [
            nn.relu,
            nn.LeakyReLU(0.5),
            mx.abs,
            functools.partial(nn.leaky_relu, negative_slope=0.25),
            lambda x: mx.where(x > 1, x, -x),
            lambda x: mx.array(2.0) * x - mx.array([1.0, 2.0, 0.0, 1.0]),
            lambda x: (mx.array(1.0) == x) + x,
            mx.compile(lambda x: mx.maximum(x, -1) * 2),
        ]
        near: list[Any] = [nn.gelu, mx.tanh, nn.silu, nn.ELU(), mx.sin]
        kind = self.rng.choice(exact if self.is_exact else [*exact, *near])
        return "act", [kind], kind

    def norm(self) -> tuple[str, list[Any], Function]:
        kinds: list[tuple[str, Any]] = [
            ("minus mean", lambda x: x - mx.mean(x, -1, keepdims=True)),
            ("minus max", lambda x: x - mx.max(x, axis=2, keepdims=True)),
            ("of groups", self._grouped),
        ]
        if not self.is_exact:
            kinds += [("LayerNorm", nn.LayerNorm(4)), ("softmax", lambda x: mx.softmax(x, -1))]
        told, function = self.rng.choice(kinds)
        return told, [function], function

    @staticmethod
    def _grouped(x: mx.array) -> mx.array:
        n, length, c = x.shape
        y = x.reshape(n, length, 2, c // 2)
        return (y - mx.min(y, -1, keepdims=True)).reshape(n, length, c)

    def delayed(self) -> tuple[str, list[Any], Function]:
        n = self.rng.choice((1, 2, 5))
        if self.rng.random() < 0.5:
            return f"delay {n}", [], lambda x: mx.pad(x, [(0, 0), (n, 0), (0, 0)])[:, :-n]
        value = self.rng.choice((0, 3))
        ahead = [(0, 0), (0, n), (0, 0)]
        return f"ahead {n}", [], lambda x: mx.pad(x, ahead, constant_values=value)[:, n:]

    def padded(self) -> tuple[str, list[Any], Function]:
        n = self.rng.choice((1, 2, 3))
        conv = whole_numbers(nn.Conv1d(CHANNELS, CHANNELS, 2 * n + 1))
        if self.rng.random() < 0.5:
            edge = [(0, 0), (n, n), (0, 0)]
            return f"edge {n}", [conv], lambda x: conv(mx.pad(x, edge, mode="edge"))

        def reflected(x: mx.array) -> mx.array:
            return conv(mx.concatenate([x[:, n:0:-1], x, x[:, -2 : -2 - n : -1]], 1))

        return f"reflect {n}", [conv], reflected

    def beside(self) -> tuple[str, list[Any], Function]:
        linear = whole_numbers(nn.Linear(CHANNELS, 2 * CHANNELS))
        back = whole_numbers(nn.Linear(CHANNELS, CHANNELS))

        def halves(x: mx.array) -> mx.array:
            a, b = mx.split(mx.clip(linear(x), -4, 4), 2, -1)
            return back(a * (b > 0)) if self.is_exact else back(a * mx.sigmoid(b))

        return "gated", [linear, back], halves

    def end(self) -> tuple[str, list[Any], Function]:
        return self.rng.choice(
            (
                ("first", [], lambda x: x - x[:, :1]),
                ("third", [], lambda x: x + x[:, 2:3]),
                ("mask", [], lambda x: mx.where((mx.arange(x.shape[1]) > 2)[:, None], x, 1.0)),
                ("last", [], lambda x: x - x[:, -1:]),
            )
        )

    def in_place(self) -> tuple[str, list[Any], Function]:
        def set_channels(x: mx.array) -> mx.array:
            y = mx.array(x)
            y[:, :, 1:3] = x[:, :, :2] - 1
            y += x
            return y

        def set_front(x: mx.array) -> mx.array:
            y = mx.array(x)
            y[:, :2] = 1.0
            return y

        return self.rng.choice((("set channels", [], set_channels), ("set front", [], set_front)))

    def there_and_back(self) -> tuple[str, list[Any], Function]:
        """Of another form inside."""
        told, parts, inner = self.conv_same()

        def first(x: mx.array) -> mx.array:
            y = x.transpose(0, 2, 1)
            y = inner(y.swapaxes(1, 2)).swapaxes(1, 2)
            return mx.squeeze(mx.expand_dims(y * mx.array([[1.0]] * 4), 0), 0).swapaxes(1, 2)

        return f"({told}).T", parts, first

    def branches(self) -> tuple[str, list[Any], Function]:
        """Of different delays, that meet again."""
        drawn = [self.same() for _ in range(self.rng.choice((1, 2, 3)))]
        told = [each[0] for each in drawn]
        parts = [part for each in drawn for part in each[1]]
        functions = [each[2] for each in drawn]
        how = self.rng.choice(("residual", "sum", "stack", "concatenate", "chain"))
        mix = whole_numbers(nn.Linear(CHANNELS * len(functions), CHANNELS))

        def met(x: mx.array) -> mx.array:
            if how == "chain":
                y = x
                for function in functions:
                    y = mx.clip(function(y), -8, 8)
                return x + y
            made = [function(x) for function in functions]
            if how == "concatenate":
                return mix(mx.concatenate(made, -1))
            if how == "stack":
                return mx.max(mx.stack(made, 1), 1)
            return sum(made, x if how == "residual" else mx.array(0.0))

        return f"{how} of [{', '.join(told)}]", [*parts, mix], met

    # Functions that change the length.

    def rate(self) -> tuple[str, list[Any], Function]:
        return self.rng.choice(
            (self.up, self.up, self.down, self.conv_any, self.shuffle, self.crop)
        )()

    def up(self) -> tuple[str, list[Any], Function]:
        stride = self.rng.choice((1, 2, 3, 4))
        k, pad = self.rng.choice((1, 2, stride, 2 * stride, 5)), self.rng.choice((0, 0, 1, 2))
        more = self.rng.choice((0, 0, 1, 2))
        up = whole_numbers(
            nn.ConvTranspose1d(CHANNELS, CHANNELS, k, stride, pad, output_padding=more)
        )
        cut = self.rng.choice((0, 1, stride))
        told = f"up k{k} s{stride} p{pad} o{more} cut {cut}"
        return told, [up], lambda x: up(x)[:, : -cut or None]

    def down(self) -> tuple[str, list[Any], Function]:
        stride, k = self.rng.choice((2, 2, 3)), self.rng.choice((1, 2, 3, 4))
        pad = self.rng.choice((0, 0, 1, 2))
        conv = whole_numbers(nn.Conv1d(CHANNELS, CHANNELS, k, stride, pad))
        first = self.rng.choice((0, 1, 2))
        return self.rng.choice(
            (
                (f"down k{k} s{stride} p{pad}", [conv], conv),
                (f"every {stride} from {first}", [], lambda x: x[:, first::stride]),
            )
        )

    def conv_any(self) -> tuple[str, list[Any], Function]:
        k, groups = self.rng.choice((1, 2, 3, 5)), self.rng.choice((1, 2))
        w = integers(CHANNELS, k, CHANNELS // groups, seed=k)
        options = {
            "stride": self.rng.choice((1, 1, 2, 3)),
            "padding": ([self.rng.choice((-1, 0, 1, 4))], [self.rng.choice((-1, 0, 1, 4))]),
            "kernel_dilation": self.rng.choice((1, 2)),
            "input_dilation": self.rng.choice((1, 1, 2, 3)),
            "groups": groups,
            "flip": self.rng.choice((True, False)),
        }
        return f"conv_general k{k} {options}", [], lambda x: polyconv.conv_general(x, w, **options)

    def shuffle(self) -> tuple[str, list[Any], Function]:
        n = self.rng.choice((2, 4))
        wide = whole_numbers(nn.Linear(CHANNELS, n * CHANNELS))
        narrow = whole_numbers(nn.Linear(n * CHANNELS, CHANNELS))

        def pixels(x: mx.array) -> mx.array:
            y = wide(x)
            return y.reshape(y.shape[0], y.shape[1] * n, CHANNELS)

        def first(x: mx.array) -> mx.array:
            y = wide(x).swapaxes(1, 2)
            y = y.reshape(x.shape[0], CHANNELS, n, x.shape[1]).swapaxes(2, 3)
            return y.reshape(x.shape[0], CHANNELS, n * x.shape[1]).swapaxes(1, 2)

        def folded(x: mx.array) -> mx.array:
            return narrow(x.reshape(x.shape[0], x.shape[1] // n, n * CHANNELS))

        def between(x: mx.array) -> mx.array:
            y = mx.stack([x, *[mx.zeros_like(x)] * (n - 1)], 2)
            return y.reshape(x.shape[0], -1, CHANNELS)

        return self.rng.choice(
            (
                (f"shuffle {n}", [wide], pixels),
                (f"shuffle {n} of (N, C, L)", [wide], first),
                (f"fold {n}", [narrow], folded),
                (f"zeros between {n}", [], between),
                (f"repeat {n}", [], lambda x: mx.repeat(x, n, axis=1)),
                (f"nearest {n}", [], nn.Upsample(float(n))),
                (f"frames {n}", [], lambda x: mx.repeat(x.swapaxes(1, 2), n, 2).swapaxes(1, 2)),
            )
        )

    def crop(self) -> tuple[str, list[Any], Function]:
        lo, hi = self.rng.choice((0, 1, 3)), self.rng.choice((0, 2, 4))
        n = self.rng.choice((0, 3))
        before = [(0, 0), (n, 0), (0, 0)]
        return (
            f"crop {lo} {hi} behind {n} zeros",
            [],
            lambda x: mx.pad(x, before)[:, lo : -hi or None],
        )

    # What cannot go chunk by chunk.

    def wrong(self) -> tuple[str, list[Any], Function]:
        return self.rng.choice(
            (
                ("mean", [], lambda x: x - mx.mean(x, 1, keepdims=True)),
                ("softmax", [], lambda x: mx.softmax(x, 1)),
                ("cumsum", [], lambda x: mx.cumsum(x, 1)),
                ("positions", [], lambda x: x + mx.arange(x.shape[1])[:, None]),
                ("length", [], lambda x: x + x.shape[1] % 5),
                ("odd", [], lambda x: x + 1 if x.shape[1] % 2 else x),
                ("reversed", [], lambda x: x[:, ::-1]),
                ("rolled", [], lambda x: mx.roll(x, 2, 1)),
                ("half", [], lambda x: x[:, x.shape[1] // 2 :]),
                ("random", [], lambda x: x + mx.random.randint(0, 3, (CHANNELS,))),
                ("item", [], lambda x: x + x[0, 0, 0].item()),
                ("Gram", [], lambda x: x @ x.swapaxes(1, 2) @ x),
                ("pad to 4", [], lambda x: mx.pad(x, [(0, 0), (0, -x.shape[1] % 4), (0, 0)])),
                ("lines", [], lambda x: mx.tile(x, (1, 2, 1))),
            )
        )


class RandomModel(nn.Module):
    def __init__(self, seed: int) -> None:
        super().__init__()
        rng = random.Random(seed)
        self.is_exact = rng.random() < 0.7
        self.axis = rng.choice((1, 1, 2))
        drawn = Drawn(rng, self.is_exact)
        self.blocks = []
        for _ in range(rng.choice((1, 2, 3, 4))):
            kinds = [drawn.same, drawn.branches, drawn.branches, drawn.rate, drawn.rate]
            make = drawn.wrong if rng.random() < 0.04 else rng.choice(kinds)
            kind = rng.choice((Block, Block, Inherited, Decorated, Keeping))
            self.blocks.append(kind(*make(), self.is_exact))

    @property
    def told(self) -> str:
        return f"axis {self.axis}: " + "; ".join(
            f"{type(block).__name__} {block.told}" for block in self.blocks
        )

    def __call__(self, x: mx.array) -> mx.array:
        x = x.swapaxes(1, self.axis)
        for block in self.blocks:
            x = block(x)
        return x.swapaxes(1, self.axis)


def part_of(axis: int, start: int, stop: int) -> tuple[slice, ...]:
    return (*[slice(None)] * axis, slice(start, stop))


def in_chunks(streamed: Any, x: mx.array, axis: int, rng: random.Random) -> mx.array:
    """In random chunks, by a copy from some moment on."""
    found, start, n = [], 0, x.shape[axis]
    while start < n:
        size = rng.choice((0, 1, 1, 2, 3, 7, 19, n))
        found.append(streamed.step(x[part_of(axis, start, start + size)]))
        start += size
        if rng.random() < 0.1:
            before, streamed = streamed, copy.deepcopy(streamed)
            before.reset_state()
    found.append(streamed.flush())
    return mx.concatenate(found, axis)


def try_restarts(seed: int, counts: Counter[str]) -> None:
    """Raises AssertionError if an item that begins anew gives something else than alone."""
    rng = random.Random(f"restarts of {seed}")
    model = RandomModel(seed)
    if not model.is_exact or any(block.told in ("odd", "length") for block in model.blocks):
        return
    example = mx.zeros((3, 24, CHANNELS)).swapaxes(1, model.axis)
    axes = (model.axis, model.axis)
    try:
        case = Restarting(model, example, axes, check=False)
    except ValueError:  # no stream
        return
    step = rng.choice((1, 1, 2, 6, 12))
    kept = mx.zeros((3, 0, CHANNELS)).swapaxes(1, model.axis)
    for i in range(12):
        size = step * rng.choice((0, 1, 2, 4))
        x = integers(3, size, CHANNELS, seed=i).swapaxes(1, model.axis)
        x = mx.concatenate([kept, x], model.axis)
        which = [i > 3 and rng.random() < 0.25 for _ in example]
        for tried in (which, [False] * 3):
            try:
                case.step(x, tried)
            except ValueError as error:
                kept = x
                counts[reason_of(error)] += 1
                assert re.match(r"\[stream\] (reset must come|a chunk must hold) ", str(error))
            else:
                kept = x[part_of(model.axis, 0, 0)]
                counts["begun"] += sum(tried)
                break
    try:
        case.flush()
    except ValueError as error:
        assert re.match(r"\[stream\] the input must (not )?end ", str(error))
        counts[reason_of(error)] += 1


def restarts(seeds: Sequence[int]) -> tuple[Counter[str], list[str]]:
    """How many items of random models began anew, and of which they gave something else."""
    return _tried(try_restarts, seeds)


def reason_of(error: Exception) -> str:
    """A refusal without the path and numbers."""
    text = re.sub(r"^\[stream\] ", "", str(error))
    text = re.sub(r"; got (the model|\S+ \(\w+\)): ", "; ", text)
    text = re.sub(r"\[reshape\].*", "[reshape]", text)
    return re.sub(r"-?\d+(\.\d+)?(e[-+]\d+)?", "n", text)


def try_model(seed: int, counts: Counter[str]) -> None:
    """Raises AssertionError if the stream of a model differs from it."""
    rng = random.Random(f"chunks of {seed}")
    model = RandomModel(seed)
    example = mx.zeros((rng.choice((1, 2)), 24, CHANNELS)).swapaxes(1, model.axis)
    try:
        # What branches on the length may take one way at all lengths that are traced.
        check = rng.random() < 0.1 or any(block.told == "odd" for block in model.blocks)
        streamed = polyconv.stream(model, example, axis=model.axis, check=check)
    except ValueError as error:
        assert str(error).startswith("[stream] ")
        counts[f"refused: {reason_of(error)}"] += 1
        return
    is_compared = False
    for _ in range(3):
        length = rng.choice((24, 24, 48, 36, rng.randrange(1, 90)))
        x = integers(example.shape[0], length, CHANNELS, seed=seed).swapaxes(1, model.axis)
        try:
            whole = model(x)
            if not whole.size:
                continue
        except Exception:  # the model does not take this length
            continue
        try:
            found = in_chunks(streamed, x, model.axis, rng)
        except ValueError as error:
            assert str(error).startswith("[stream] the input must not end here")
            counts[f"length: {reason_of(error)}"] += 1
            streamed.reset_state()
            continue
        told = f"model {seed} of {length} samples, {model.told}"
        assert found.shape == whole.shape, f"{found.shape} and not {whole.shape}: {told}"
        apart = float(np.abs(np.array(found) - np.array(whole)).max())
        allowed = 0.0 if model.is_exact else _CLOSE * float(np.abs(np.array(whole)).max())
        assert apart <= allowed, f"{apart} apart: {told}"
        is_compared = True
    counts["equal" if is_compared else "of no length that was tried"] += 1


def campaign(seeds: Sequence[int]) -> tuple[Counter[str], list[str]]:
    """What became of the models, and which streams differ from them."""
    return _tried(try_model, seeds)


def _tried(
    attempt: Callable[[int, Counter[str]], None], seeds: Sequence[int]
) -> tuple[Counter[str], list[str]]:
    counts: Counter[str] = Counter()
    differ = []
    for seed in seeds:
        try:
            attempt(seed, counts)
        except AssertionError as error:
            differ.append(f"{seed}: {error}")
    return counts, differ


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", type=int, default=2_000)
    parser.add_argument("--seed", type=int, default=0, help="of the first model")
    args = parser.parse_args()
    counts, differ = campaign(range(args.seed, args.seed + args.models))
    begun, others = restarts(range(args.seed, args.seed + args.models))
    counts, differ = counts + begun, differ + others
    for told, n in counts.most_common():
        print(f"{n:6} {told}")
    for told in differ:
        print(told, file=sys.stderr)
    return 1 if differ else 0


if __name__ == "__main__":
    raise SystemExit(main())
