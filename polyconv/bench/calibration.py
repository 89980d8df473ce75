"""At what rates does this machine do what a `Cost` counts? For `polyconv bench --calibrate`.

Every form of every method is timed on layers drawn at random, and rates are fitted to the times.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, astuple, replace
from math import prod
from typing import Any, TypeAlias

import mlx.core as mx
import numpy as np

from polyconv.bench import metal_calibration
from polyconv.bench.tuning import milliseconds
from polyconv.execution import device
from polyconv.execution.run import run
from polyconv.metal.seconds import Parameters
from polyconv.planning.choose import alternatives
from polyconv.planning.devices import Device, Metal
from polyconv.planning.estimate import seconds_of
from polyconv.planning.plan import ConvPlan
from polyconv.planning.rates import Rates
from polyconv.problem import arguments
from polyconv.problem.signatures import problem_of
from polyconv.problem.spec import ConvSpec

_Array: TypeAlias = "np.ndarray[Any, Any]"

_SWEEPS, _ROUNDS = 3, 6
_MOST_SECONDS = 1.2  # for a layer in a sweep, once there are two rounds
_MOST_MACS, _MOST_MACS_IN_LOOPS = 1.5e9, 2e8


def layers(seed: int, n: int) -> Iterator[dict[str, Any]]:
    """`n` random layers as calls: `op`, shapes and options. The same seed gives the same layers.

    They are of the kinds that models have: kernels that are a multiple of the stride and kernels
    that are not; dense, grouped and depthwise ones; and ordinary convolutions with a dilation.
    """
    chance = random.Random(seed)
    found = 0
    while found < n:
        call = _layer(chance)
        problem = _problem(call)
        if 1e5 < _macs(problem) < _MOST_MACS and problem.n_outputs < 2**23:
            found += 1
            yield call


def _layer(chance: random.Random) -> dict[str, Any]:
    ndim = chance.choices((1, 2, 3), (5, 4, 1))[0]
    inputs, outputs = [chance.choice((8, 16, 32, 48, 64, 96, 128, 192, 256, 512)) for _ in "xy"]
    groups = chance.choices((1, 4, inputs), (8, 1, 1))[0]
    outputs = inputs if groups > 1 else chance.choice((outputs, outputs, 1, 3))
    most = {1: 20000, 2: 128, 3: 20}[ndim]
    size = [int(most ** chance.uniform(0.1, 1))] * ndim
    call: dict[str, Any] = {"input": (chance.choice((1, 1, 1, 4, 8)), *size, inputs)}
    if chance.random() < 0.15:
        kernel = chance.choice((1, 3, 5, 7))
        dilation = chance.choice((1, 1, 3, 5)) if ndim == 1 else chance.choice((1, 2))
        padding = dilation * (kernel - 1) // 2
        options = {"stride": chance.choice((1, 1, 2)), "padding": padding}
        call |= {"op": "conv_general", **options, "kernel_dilation": dilation}
    else:
        stride = chance.choice((2, 2, 2, 3, 4, 5, 8)) if ndim == 1 else chance.choice((2, 2, 2, 4))
        kernel = chance.choice((stride, 2 * stride, 2 * stride, stride + 1, 2 * stride + 1, 3))
        padding = max(0, kernel - stride) // 2
        call |= {"op": f"conv_transpose{ndim}d", "stride": stride, "padding": padding}
    call["weight"] = (outputs, *[kernel] * ndim, inputs // groups)
    return call | {"groups": groups}


def _problem(layer: dict[str, Any]) -> ConvSpec:
    """The convolution of a call, or of a row of times."""
    options = {k: v for k, v in layer.items() if k not in ("op", "input", "weight", "ms")}
    shapes = tuple(layer["input"]), tuple(layer["weight"])
    return problem_of(layer["op"], *shapes, "float32", options)


def _macs(problem: ConvSpec) -> int:
    per_output = prod(a.kernel_size for a in problem.axes) * problem.in_channels // problem.groups
    return problem.n_outputs * per_output // prod(a.input_dilation for a in problem.axes)


def measure(call: dict[str, Any]) -> dict[str, float]:
    """Milliseconds of each form, by its label, with packing.

    They are the least of several interleaved rounds, as other work on a machine only adds time.
    """
    problem = _problem(call)
    if device.device_for(None).backend.predicts_kernels:  # as in a model: several in flight
        in_flight = milliseconds(problem, False, rounds=_ROUNDS, seconds=_MOST_SECONDS)
        return {label: float(f"{ms:.4g}") for label, ms in in_flight.items()}
    rng = np.random.default_rng(0)
    x, w = [mx.array(rng.standard_normal(call[k]).astype(np.float32)) for k in ("input", "weight")]
    mx.eval(x, w)
    plans = [each for each in _plans(problem) if each.cost.macs_in_loops < _MOST_MACS_IN_LOOPS]
    times: dict[str, list[float]] = {each.label: [] for each in plans}
    start = time.perf_counter()
    for done in range(-1, _ROUNDS):
        if done >= 2 and time.perf_counter() - start > _MOST_SECONDS:
            break
        random.Random(done).shuffle(plans)
        for each in plans:
            begin = time.perf_counter()
            mx.eval(run(each, x, w, device.pads_explicitly()))
            if done >= 0:  # the first round warms up
                times[each.label].append(1e3 * (time.perf_counter() - begin))
    return {label: float(f"{min(each):.4g}") for label, each in times.items()}


def _plans(problem: ConvSpec) -> list[ConvPlan]:
    where = device.device_for(None)
    return [each for each in alternatives(problem, where) if each.cost.n_convs <= 256]


def sweep(calls: Sequence[dict[str, Any]], tell: Callable[[str], None]) -> list[dict[str, Any]]:
    """The layers with their times under ``"ms"``: the least of several sweeps over all layers.

    A shared machine may be slow for all rounds of a layer, but not in each sweep.
    """
    found: list[dict[str, float]] = [{} for _ in calls]
    for done in range(_SWEEPS):
        for i, call in enumerate(calls):
            tell(f"sweep {done + 1} of {_SWEEPS}, layer {i + 1} of {len(calls)}")
            for label, ms in measure(call).items():
                found[i][label] = min(ms, found[i].get(label, ms))
    return [{**call, "ms": ms} for call, ms in zip(calls, found, strict=True)]


def fit(rows: Sequence[dict[str, Any]]) -> Rates:
    """The rates that say best by how much each form is slower than the fastest of its layer.

    No rate is negative. Only differences within a layer count, because `auto` chooses a form for a
    layer. They are taken relative to the times themselves. Squares of misfits are weighted down to
    absolute values, so that no outlier decides.

    Args:
        rows (list(dict)): Layers, each with its times under ``"ms"``.

    Returns:
        Rates: In seconds per unit of a `Cost`.

    Raises:
        ImportError: Without SciPy, which the `bench` extra brings.
    """
    from scipy.optimize import nnls

    pieces = [_differences(row) for row in rows]
    counts = np.concatenate([more for more, _, _ in pieces])
    seconds = np.concatenate([slower for _, slower, _ in pieces])
    weights = np.concatenate([weight for _, _, weight in pieces])
    scale = np.maximum(np.abs(counts * weights[:, None]).max(axis=0), 1e-300)
    trusted = weights
    for _ in range(4):
        rates = nnls(counts * trusted[:, None] / scale, seconds * trusted)[0] / scale
        misfit = np.abs(counts @ rates - seconds) * weights
        trusted = weights / np.sqrt(np.maximum(misfit, 0.05))
    return Rates(*[float(f"{rate:.3g}") for rate in rates])


def _differences(row: dict[str, Any]) -> tuple[_Array, _Array, _Array]:
    """How each form differs from the fastest: in what it does, in seconds, and its weight."""
    plans = [each for each in _plans(_problem(row)) if each.label in row["ms"]]
    # `macs` is left out, as the same multiply-accumulates are counted in panels or in loops.
    counts = np.array([astuple(replace(each.cost, macs=0)) for each in plans], np.float64)
    seconds = np.array([row["ms"][each.label] for each in plans]) / 1e3
    best = int(seconds.argmin())
    weights = 1 / seconds / len(plans) ** 0.5
    return counts - counts[best], seconds - seconds[best], weights


def quality(rows: Sequence[dict[str, Any]], where: Device) -> list[float]:
    """For each layer the time of the form that `auto` takes, over the time of the fastest form."""
    found = []
    for row in rows:
        plans = alternatives(_problem(row), where)
        chosen = min((each for each in plans if each.label in row["ms"]), key=seconds_of)
        found.append(row["ms"][chosen.label] / min(row["ms"].values()))
    return found


def fitted(rows: Sequence[dict[str, Any]]) -> Rates | Parameters:
    """What says best how long the forms of layers take here: rates, or on a Mac parameters."""
    where = check_device()
    return metal_calibration.fit(rows, where, _problem) if isinstance(where, Metal) else fit(rows)


def check_device() -> Device:
    """The device that rates are measured for: the default one, or what plans are made for.

    Raises:
        ValueError: If it is a Mac's, and not this one's.
    """
    where = device.device_for(None)
    if isinstance(where, Metal) and device.is_planned_elsewhere():
        arguments.refuse("bench", "--calibrate must be of this machine", where.name)
    return where


def as_file(rows: Sequence[dict[str, Any]], rates: Rates | Parameters) -> dict[str, Any]:
    """A file for `polyconv.use_rates`: the rates, and the rows that they were fitted to."""
    where = check_device()
    name = "metal" if isinstance(where, Metal) else where.name
    return {"rates": {name: asdict(rates)}, "rows": list(rows)}
