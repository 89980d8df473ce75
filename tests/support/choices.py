"""Random problems, and what `auto` takes for each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from polyconv.execution.memory import room_on
from polyconv.planning.devices import CPU
from polyconv.planning.request import KINDS, Kind, Request, Way
from polyconv.problem import spec


def problems(n: int = 300) -> Iterator[spec.ConvSpec]:
    """Random convolutions of all kinds."""
    rng = np.random.default_rng(7)
    while n:
        ndim = int(rng.integers(1, 4))
        groups = int(rng.choice([1, 1, 1, 2, 8]))
        c, o = groups * int(rng.choice([1, 4, 16])), groups * int(rng.choice([1, 3, 16]))
        size = tuple(int(s) for s in rng.integers(2, (0, 500, 20, 8)[ndim], ndim))
        kernel = tuple(int(k) for k in rng.integers(1, (0, 20, 5, 4)[ndim], ndim))
        stride, padding, dilation = (
            tuple(int(s) for s in rng.integers(a, b, ndim)) for a, b in ((1, 6), (0, 3), (1, 3))
        )
        dtypes = (str(rng.choice(["float32", "float16"])),) * 2
        shapes = (int(rng.integers(1, 5)), *size, c), (o, *kernel, c // groups)
        try:
            if rng.integers(2):
                found = spec.transposed(
                    "op", *shapes, dtypes, stride, padding, dilation, (0,) * ndim, groups
                )
            else:
                pads = (padding, padding)
                up = (1,) * ndim if rng.integers(2) else dilation
                found = spec.general(
                    "op", *shapes, dtypes, stride, pads, dilation, up, groups, False
                )
        except ValueError:  # the kernel does not fit
            continue
        n -= 1
        yield found


PROBLEMS = list(problems())


def choice(
    problem: spec.ConvSpec, max_workspace: int | None = None, results: Sequence[Kind] = KINDS
) -> list[Any]:
    """Of all three maps."""
    asked = Request("op", problem, "auto", CPU, max_workspace)
    plans = [Way(result, asked).arranged(room_on(CPU))[0] for result in results]
    return [
        (plan.method, plan.products, [axis.block_sizes for axis in plan.axes]) for plan in plans
    ]


def all_choices() -> list[list[Any]]:
    return [choice(problem) for problem in PROBLEMS]
