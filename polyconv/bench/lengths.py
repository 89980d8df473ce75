"""What does a new length of the input cost, for which a plan must be made?"""

from __future__ import annotations

import random
import statistics
from collections.abc import Callable, Sequence
from typing import Any

import mlx.core as mx
import numpy as np

from polyconv.bench.competitors import Call, rival
from polyconv.bench.frameworks import Run
from polyconv.bench.stopwatch import rounded, timed
from polyconv.ops import conv_transpose
from polyconv.problem.signatures import problem_of


def new_lengths(
    op: str,
    input: Sequence[int],
    weight: Sequence[int],
    *,
    dtype: str = "float32",
    rivals: Sequence[str] = (),
    **options: Any,
) -> dict[str, tuple[float, float]]:
    """Times calls at one length of the input, and at a new length for each call.

    Args:
        op (str): One of the transposed convolutions.
        input (list(int)): The shape of ``x``; its first length is replaced by 200 around it.
        weight (list(int)): The shape of ``w``.
        dtype (str, optional): The type of both. Default: ``"float32"``.
        rivals (list(str), optional): Other frameworks, of `frameworks.PEERS`. Default: none.
        options: Options of the op.

    Returns:
        dict: By competitor, the median milliseconds of 200 calls at one length and of 200 calls at
        new lengths. No length comes twice, and the mean of the new lengths is the one length.
    """
    middle = int(input[1])
    others = [max(1, middle + i - 100) for i in range(201) if i != 100]
    random.Random(0).shuffle(others)
    rng = np.random.default_rng(0)
    longest = rng.standard_normal((input[0], max(others), *input[2:])).astype(np.float32)
    w = rng.standard_normal(weight).astype(np.float32)
    packed = conv_transpose.pack(mx.array(w).astype(getattr(mx, dtype)))
    ours = getattr(conv_transpose, op)

    def ready(length: int) -> dict[str, Run]:
        values = longest[:, :length]
        x = mx.array(values).astype(getattr(mx, dtype))
        mx.eval(x)
        problem = problem_of(op, values.shape, tuple(weight), dtype, options)
        runs: dict[str, Run] = {"packed": lambda: ours(x, packed, **options)}
        for name in rivals:
            runs.update(rival(name, Call(op, options, problem, values, w)))
        return runs

    at_one, at_new = [_medians(ready, each) for each in ([middle] * 200, others)]
    return {name: (rounded(ms), rounded(at_new[name])) for name, ms in at_one.items()}


def _medians(ready: Callable[[int], dict[str, Run]], lengths: Sequence[int]) -> dict[str, float]:
    """Of what `ready` gives for each length, the milliseconds of a call, by competitor."""
    times: dict[str, list[float]] = {}
    for length in lengths:
        for name, run in ready(length).items():
            times.setdefault(name, []).append(1e3 * timed(run)[1])
    return {name: statistics.median(each) for name, each in times.items()}
