"""Odd values, and arrays that lie oddly in memory, drawn by a random generator or by hypothesis."""

from __future__ import annotations

import fractions
import random
from collections.abc import Callable, Sequence
from typing import Any

import mlx.core as mx
import numpy as np

FLOATS = ("float32", "float16", "bfloat16")
DTYPES = (*FLOATS, "float64", "complex64", "bool_", "int8", "uint8", "int32", "uint32", "int64")
SPECIAL = (float("nan"), float("inf"), -float("inf"), 1e-40, -1e-45, 0.0, -0.0, 3e38, 6e4)


class Unindexable:
    """What only claims to be an int."""

    def __index__(self) -> int:
        raise RuntimeError("no index\nof mine")

    def __repr__(self) -> str:  # that of an object holds its address: another in each process
        return "Unindexable()"


class Unprintable:
    def __repr__(self) -> str:
        raise RuntimeError("no repr of mine")


class Endless:
    """A sequence by its methods, which never ends."""

    def __len__(self) -> int:
        return 2**62

    def __getitem__(self, i: int) -> int:
        return 1

    def __repr__(self) -> str:
        return "Endless()"


class Indexable:
    def __init__(self, value: int) -> None:
        self.value = value

    def __index__(self) -> int:
        return self.value

    def __repr__(self) -> str:
        return "Indexable()"


HUGE = (
    *(2**31 - 1, 2**31, -(2**31), 2**32, 2**40, 2**63 - 1, 2**63, -(2**63), 2**64),
    *(10**9, -(10**9), 10**18, -(10**18), 10**100, -(10**300), 10**5000, -(10**5000)),
    *(10**5, 10**6, 10**7, 2**24, 2**20 + 7),
)
SCALARS: tuple[Any, ...] = (
    *(0, -1, 1, 2, 3, 7, True, False, None, 2.0, 2.5, -0.0, float("nan"), float("inf"), 1e300),
    *(np.int64(2), np.int32(-1), np.uint8(3), np.int8(1), np.uint64(2**63), np.bool_(True)),
    *(np.float32(2), np.float64("nan"), np.array(2), np.array(2.0), np.array(True)),
    *(2j, fractions.Fraction(2), Indexable(2), Indexable(10**5000), Unindexable(), Unprintable()),
    *("2", "", "a\nb", "x" * 5000, "\x00", "\ud800", b"2", bytearray(b"1"), object(), object),
    *(len, Ellipsis, NotImplemented, slice(1), range(2), {}, {1: 2}, {1, 2}, Endless()),
)
SEQUENCES: tuple[Any, ...] = (
    *([], (), [1], (2,), [2, 3], (2, 2), (1, 2, 3), (1,) * 4, (1,) * 1000, [[1]], [[1], [2]]),
    *(([1], [2]), ([1, 1], [0, 0]), ([], []), ([0], []), [None], [2, None], [2.0, 1], ["1", "2"]),
    *([True], [np.int64(2)], [[[[]]]], (10**20,), [10**5000], [2, 10**9], [Unprintable()]),
    *(np.array([2]), np.array([2, 3]), np.array([], int), np.array([2.0]), np.array([[2]])),
    *(np.array([2**62, 1]), np.array(["a"]), np.array([None, 1]), np.zeros((0, 3), int)),
    *(np.broadcast_to(np.array(2), (2,)), np.arange(4)[::-2], np.ones(10**6, np.int8)),
)


def odd(rng: random.Random) -> Any:
    """Any value at all."""
    kind = rng.random()
    if kind < 0.45:
        return rng.choice(SCALARS)
    if kind < 0.7:
        return rng.choice(HUGE)
    if kind < 0.92:
        return rng.choice(SEQUENCES)
    return rng.choice(_ARRAYS)()


_ARRAYS: tuple[Callable[[], Any], ...] = (
    lambda: mx.array(2),
    lambda: mx.array([2]),
    lambda: mx.array([2, 3]),
    lambda: mx.array([1, 2, 3], mx.uint8),
    lambda: mx.array(2.0),
    lambda: mx.array([]),
    lambda: mx.array(True),
    lambda: mx.zeros((2, 0)),
    lambda: mx.broadcast_to(mx.array(1), (2**12,)),
)


def index_of(value: Any) -> int | None:
    """As `operator.index`, None for what is no int."""
    try:
        return int(value.__index__())
    except Exception:
        return None


def shown(value: Any) -> str:
    if isinstance(value, (list, tuple)) and len(value) < 9:
        return f"[{', '.join(map(shown, value))}]"
    if isinstance(value, mx.array) or (isinstance(value, np.ndarray) and value.size > 4):
        return f"array {tuple(value.shape)} {value.dtype}".replace("mlx.core.", "mx.")
    try:
        text = repr(value)
    except Exception as error:
        text = f"<{type(value).__name__}, unprintable: {type(error).__name__}>"
    return text if len(text) < 90 else f"{text[:40]}..."


def numbers(rng: random.Random, shape: Sequence[int], special: bool = False) -> np.ndarray:
    """Small integers, of which sums are exact; with `special` some that are no finite numbers."""
    seed = rng.randrange(2**32)
    a = np.random.default_rng(seed).integers(-2, 3, shape).astype(np.float32)
    if special and a.size:
        for _ in range(rng.choice((1, 1, 2, 5))):
            a.flat[rng.randrange(a.size)] = rng.choice(SPECIAL)
    return a


def array(rng: random.Random, shape: Sequence[int], dtype: str, special: bool = False) -> mx.array:
    """An array of this shape, however it lies in memory."""
    view = rng.choice(VIEWS)
    a = view(rng, tuple(shape), special)
    return cast(mx.abs(a) if dtype.startswith("u") else a, getattr(mx, dtype))


def cast(a: mx.array, dtype: mx.Dtype) -> mx.array:
    """Of another type, as users have it: float64 can be given to a GPU, but not be made there."""
    return a.astype(dtype, stream=mx.cpu if dtype == mx.float64 else None)


def _plain(rng: random.Random, shape: tuple[int, ...], special: bool) -> mx.array:
    return mx.array(numbers(rng, shape, special))


def _transposed(rng: random.Random, shape: tuple[int, ...], special: bool) -> mx.array:
    axes = list(range(len(shape)))
    rng.shuffle(axes)
    stored = mx.array(numbers(rng, [shape[i] for i in axes], special))
    return stored.transpose([axes.index(i) for i in range(len(shape))])


def _reversed(rng: random.Random, shape: tuple[int, ...], special: bool) -> mx.array:
    key = tuple(slice(None, None, rng.choice((1, -1))) for _ in shape)
    return mx.array(numbers(rng, shape, special))[key]


def _stepped(rng: random.Random, shape: tuple[int, ...], special: bool) -> mx.array:
    steps = [rng.choice((1, 1, 2, 3)) for _ in shape]
    stored = [n * step + 2 for n, step in zip(shape, steps)]
    key = tuple(slice(1, 1 + n * step, step) for n, step in zip(shape, steps))
    return mx.array(numbers(rng, stored, special))[key]


def _broadcast(rng: random.Random, shape: tuple[int, ...], special: bool) -> mx.array:
    stored = [n if rng.random() < 0.5 else min(n, 1) for n in shape]
    return mx.broadcast_to(mx.array(numbers(rng, stored, special)), shape)


def _overlapping(rng: random.Random, shape: tuple[int, ...], special: bool) -> mx.array:
    """Rows that share samples, as the frames of a signal."""
    strides = [rng.choice((0, 1, 1, 2, 3)) for _ in shape]
    size = 1 + sum(step * max(n - 1, 0) for n, step in zip(shape, strides))
    return mx.as_strided(mx.array(numbers(rng, (size,), special)), shape, strides)


def _read_only(rng: random.Random, shape: tuple[int, ...], special: bool) -> mx.array:
    """Of a NumPy array that cannot be written to, and one that changes when MLX has taken it."""
    source = numbers(rng, shape, special)
    if rng.random() < 0.5:
        source.flags.writeable = False
        return mx.array(source)
    a = mx.array(source)
    source[...] = 9
    return a


VIEWS = (_plain, _plain, _transposed, _reversed, _stepped, _broadcast, _overlapping, _read_only)


def no_array(rng: random.Random) -> Any:
    """What stands where an array belongs, or an array of odd shape and dtype."""
    if rng.random() < 0.4:
        return odd(rng)
    return odd_array(rng)


def odd_array(rng: random.Random) -> mx.array:
    if rng.random() < 0.1:  # large, but nowhere in memory
        shape = [rng.choice((1, 2, 2**10, 2**20, 2**28, 2**30)) for _ in range(rng.choice((3, 4)))]
        if np.prod(shape, dtype=float) < 2**31:
            return mx.broadcast_to(mx.zeros((1,) * len(shape)), shape)
    shape = [rng.choice((0, 1, 1, 2, 3, 4, 6)) for _ in range(rng.choice((0, 1, 2, 3, 3, 4, 5, 6)))]
    return array(rng, shape, rng.choice(DTYPES), rng.random() < 0.2)
