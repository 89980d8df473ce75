"""How long do whole models take, here and now? Layers of MLX, converted, and other frameworks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from math import prod
from typing import Any

import mlx.core as mx

from polyconv.bench import model_frameworks
from polyconv.bench.competitors import native_seconds
from polyconv.bench.frameworks import Array, Run
from polyconv.bench.model_cases import Model
from polyconv.bench.timing import Timing, interleaved, told
from polyconv.problem import arguments
from polyconv.problem.signatures import problem_of
from polyconv.problem.spec import ITEMSIZE

_MOST = 120.0  # seconds; MLX's own layers are left out where they are estimated to take longer


def bench_models(
    models: Iterable[Model],
    convert: Callable[..., Any],
    *,
    rounds: int = 15,
    seconds: float = 4.0,
    rivals: Sequence[str] = (),
    native: bool = True,
) -> list[dict[str, Any]]:
    """Times whole models, in float32 and in interleaved rounds.

    Args:
        models (list(Model)): Models as data.
        convert (callable): ``polyconv.convert``, which stands above this wing.
        rounds (int, optional): As for :func:`polyconv.bench.timing.bench`. Default: ``15``.
        seconds (float, optional): As there. Default: ``4.0``.
        rivals (list(str), optional): Other frameworks, of `model_frameworks.PEERS`. Default: none.
        native (bool, optional): Time MLX's own layers too. They are left out where they are
            estimated to take more than two minutes. Default: ``True``.

    Returns:
        list(dict): A row per model, with its timings by competitor. ``mx`` are MLX's own layers,
        ``converted`` the same after ``polyconv.convert(model, cpu_convs=True)``, ``packed`` after
        ``packed=True`` as well. Errors are the largest against float64, and None without PyTorch.

    Raises:
        ValueError: If a rival is none of those.
    """
    arguments.positive("bench", "rounds", rounds)
    for name in rivals:
        arguments.choice("bench", "--rivals of --models", name, tuple(model_frameworks.PEERS))
    rows = []
    for model in models:
        drawn = model_frameworks.drawn(model)
        runs = _ours(model, *drawn, convert, native)
        for name in rivals:
            runs.update(_if_there(model_frameworks.PEERS[name], model, *drawn) or {})
        truth = _if_there(model_frameworks.exact, model, *drawn)
        rows.append(_row(model, interleaved(runs, rounds, seconds, truth)))
    return rows


def _if_there(framework: Callable[..., Any], *given: Any) -> Any:
    """What a framework makes of it, None if it is not installed."""
    try:
        return framework(*given)
    except ImportError:
        return None


def _row(model: Model, timings: list[Timing]) -> dict[str, Any]:
    return {
        "name": model.name,
        "inputs": model.inputs,
        "macs": model.macs,
        "output_bytes": ITEMSIZE["float32"] * _n_outputs(model),
        "timings": told(timings),
    }


def _n_outputs(model: Model) -> int:
    op, x, w, options = model.calls[-1]
    return prod(problem_of(op, x, w, "float32", options).output_shape)


def _ours(
    model: Model,
    inputs: list[Array],
    weights: model_frameworks.Weights,
    convert: Callable[..., Any],
    native: bool,
) -> dict[str, Run]:
    """MLX's own layers, and the same converted."""
    given = [mx.array(x) for x in inputs]
    mx.eval(given)
    problems = [problem_of(op, x, w, "float32", options) for op, x, w, options in model.calls]
    ways: dict[str, dict[str, bool]] = {"converted": {}, "packed": {"packed": True}}
    runs: dict[str, Run] = {}
    if native and sum(map(native_seconds, problems)) < _MOST:
        own = model_frameworks.mlx_model(model, weights)
        runs["mx"] = lambda: own(*given)
    for name, options in ways.items():
        converted = model_frameworks.mlx_model(model, weights)
        convert(converted, cpu_convs=True, **options)
        runs[name] = lambda converted=converted: converted(*given)  # type: ignore[misc]
    return runs
