"""How long does each plan of a convolution take, here and now? For `polyconv tune`."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from math import prod

import mlx.core as mx

from polyconv.bench import timing
from polyconv.execution.cutting import cutter
from polyconv.execution.device import device_for, pads_explicitly
from polyconv.execution.memory import has_room
from polyconv.execution.run import executor
from polyconv.planning.candidates import candidates
from polyconv.planning.plan import ConvPlan
from polyconv.planning.tiling import least_room
from polyconv.problem.spec import ConvSpec

# Plans of more convolutions, or of more multiply-accumulates by loops, are not waited for.
_MOST_CONVS, _MOST_MACS_IN_LOOPS = 256, 2e8
# So many rounds at a time, and how many times as slow as the fastest a plan may be to be timed on:
# after the first ones, and later.
_ROUNDS, _FAR, _NEAR = 5, 2.5, 1.25
# A least time is trusted once so many are within this factor of it.
_TIMES_SEEN, _SAME = 3, 1.03


def plans_of(problem: ConvSpec, allow_unfold: bool, packed: bool = False) -> list[ConvPlan]:
    """What is timed of a convolution: all that `auto` may take and that fits without tiles."""
    where = device_for(None)
    return [
        each
        for each in candidates(problem, where, allow_unfold, packed)
        if not each.is_zero
        and each.cost.n_convs <= _MOST_CONVS
        and each.cost.macs_in_loops <= _MOST_MACS_IN_LOOPS
        and has_room(least_room(each, "y", None), where)
    ]


def milliseconds(
    problem: ConvSpec, packed: bool, *, rounds: int, seconds: float, allow_unfold: bool = False
) -> dict[str, float]:
    """Of each plan by its label, with a packed weight or one that is cut up in each call.

    They are the least of interleaved rounds, as other work on a machine only adds time. Plans that
    are much slower than the fastest have few rounds. On a GPU several calls are in flight, as in a
    model.
    """
    runs = _runs(problem, plans_of(problem, allow_unfold, packed), packed)
    return _raced(runs, rounds, seconds)


def _runs(
    problem: ConvSpec, plans: list[ConvPlan], packed: bool
) -> dict[str, Callable[[], mx.array]]:
    dtype = getattr(mx, problem.dtype)
    kernel = tuple([axis.kernel_size for axis in problem.axes])
    w_shape = (problem.out_channels, *kernel, problem.in_channels // problem.groups)
    x_shape = (problem.batch, *[axis.size for axis in problem.axes], problem.in_channels)
    keys = mx.random.split(mx.random.key(0))
    x, w = [mx.random.normal(s, key=key) for s, key in zip((x_shape, w_shape), keys, strict=True)]
    x, w = x.astype(dtype), (w / prod(w_shape[1:]) ** 0.5).astype(dtype)
    mx.eval(x, w)
    return {each.label: prepared(each, x, w, packed) for each in plans}


def prepared(plan: ConvPlan, x: mx.array, w: mx.array, packed: bool) -> Callable[[], mx.array]:
    """What computes a plan for given arrays, once its weight is packed if it is to be."""
    cut, execute = cutter(plan), executor(plan, pads_explicitly())
    if not packed:
        return lambda: execute(x, cut(w))
    taps = cut(w)
    mx.eval(taps)
    return lambda: execute(x, taps)


def _raced(
    runs: Mapping[str, Callable[[], mx.array]], rounds: int, seconds: float
) -> dict[str, float]:
    """The least times. What has no chance to be the fastest is left out of the later rounds.

    A machine is slower at times. So what was left out is told by its ratio to the fastest then.
    """
    found, start = timing.measured(runs), time.perf_counter()
    slow = {label: each.times[0] for label, each in found.items() if each.times}
    left = {label: each for label, each in found.items() if not each.times}
    ratios: dict[str, float] = {}
    done = 0
    while left and (done < rounds or not all(map(_is_seen_again, left.values()))):
        if done and time.perf_counter() - start > seconds:
            break
        timing.run_rounds([*left.values()], _ROUNDS, seconds)
        done += _ROUNDS
        times, best = _least_of(left)
        factor = _NEAR if done > _ROUNDS else _FAR
        ratios |= {name: t / best for name, t in times.items() if t > factor * best}
        left = {name: each for name, each in left.items() if name not in ratios}
        if len(left) == 1 and done >= rounds:
            break
    times, best = _least_of(left)
    times |= slow | {label: ratio * best for label, ratio in ratios.items()}
    return {label: 1e3 * times[label] for label in found}


def _is_seen_again(measured: timing.Measured) -> bool:
    """Whether the least time is no chance, as others are near it."""
    return sum(each <= _SAME * min(measured.times) for each in measured.times) >= _TIMES_SEEN


def _least_of(measured: Mapping[str, timing.Measured]) -> tuple[dict[str, float], float]:
    found = {label: min(each.times) for label, each in measured.items()}
    return found, min(found.values(), default=0.0)
