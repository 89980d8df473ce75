"""Does a stream give what its model gives? Tried with short random inputs before it is used."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import mlx.core as mx

from polyconv.execution.identity import is_traced
from polyconv.problem import arguments
from polyconv.streaming.built import Built

# Lengths to prove at, other ones than those that are traced.
_SHORT = (29, 42)
# At most so much of the scale of the whole may a stream differ from it, by type.
_CLOSE = {mx.float32: 1e-3, mx.complex64: 1e-3, mx.float16: 2e-2, mx.bfloat16: 1e-1}


def prove(
    model: Callable[..., Any],
    built: Built,
    example: mx.array,
    usual: Sequence[int],
    lengths: Sequence[int],
) -> None:
    """Refuses a stream that does not give what the model gives, in chunks of any lengths.

    `lengths` are those that were traced. Where they are not the `usual` ones, the model does not
    take these, or takes another way there.
    """
    rng = random.Random(0)
    is_usual = lengths == usual
    for n in _SHORT if is_usual else (*_SHORT, *usual):
        _prove_at(model, built, _drawn(example, built.at, n), rng, is_usual)
    if not is_usual:
        for n in (lengths[0], 2 * lengths[1] - lengths[0]):
            _prove_at(model, built, _drawn(example, built.at, n), rng, True)


def _prove_at(
    model: Callable[..., Any], built: Built, x: mx.array, rng: random.Random, must_end: bool
) -> None:
    try:
        whole = model(x)
    except Exception:
        if must_end:
            raise
        return
    if is_traced([whole]):  # its numbers are not known here
        return
    try:
        found = mx.concatenate(list(_in_chunks(built, x, rng)), built.out.at)
    except Exception as error:
        if must_end:
            _disprove(f"{type(error).__name__}: {error}")
        return
    if found.shape != whole.shape:
        _disprove(f"an output of shape {found.shape} and not {whole.shape}")
    if mx.array_equal(found, whole, equal_nan=mx.issubdtype(whole.dtype, mx.inexact)).item():
        return
    if whole.dtype not in _CLOSE:
        _disprove("other numbers")
    scale = mx.abs(whole).max().item()
    wide = mx.complex64 if whole.dtype == mx.complex64 else mx.float32
    apart = mx.abs(found.astype(wide) - whole.astype(wide)).max().item()
    if not apart <= _CLOSE[whole.dtype] * scale:
        _disprove(f"numbers that are {apart:.2g} apart at a scale of {scale:.2g}")


def _disprove(got: str) -> None:
    arguments.refuse("stream", "chunks must give what the model gives at once", got)


def _in_chunks(built: Built, x: mx.array, rng: random.Random) -> Iterator[mx.array]:
    built.program.reset()
    at, start = built.at, 0
    while start < x.shape[at]:
        n = rng.choice((1, 3, 8, 13))
        part = (*[slice(None)] * at, slice(start, start + n))
        y = built.run(x[part], False, x)
        mx.eval(y)
        yield y
        start += n
    yield built.run(None, True, x)
    built.program.reset()


def _drawn(example: mx.array, axis: int, n: int) -> mx.array:
    """A random input of so many samples; of integers some of the example's."""
    shape = [*example.shape]
    shape[axis] = n
    key = mx.random.key(n)
    if mx.issubdtype(example.dtype, mx.floating):
        return mx.random.normal(shape, key=key).astype(example.dtype)
    flat = example.flatten()
    return flat[mx.random.randint(0, flat.size, shape, key=key)]
