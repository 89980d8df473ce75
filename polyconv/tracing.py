"""Which transposed convolutions does a model run, and what does each cost?"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from polyconv import transforms
from polyconv.calls import dtype_names
from polyconv.explanation import TRANSPOSED, Explanation, explain_problem, read_call
from polyconv.inspection import metal_named, staleness
from polyconv.spec import ConvSpec


@dataclass(frozen=True)
class Found:
    """A transposed convolution: where it was called, `mx` or `polyconv`, and what it computes."""

    where: str
    lib: str
    op: str
    problem: ConvSpec


def explain_model(
    model: Callable[..., Any],
    *inputs: Sequence[int],
    dtype: str = "float32",
    device: str | None = None,
) -> list[tuple[Found, int, Explanation]]:
    """Runs a model once on zeros and explains its transposed convolutions.

    MLX is lazy: unless the model evaluates something itself, nothing is computed.

    Args:
        model (callable): A model of MLX, or any function of arrays.
        inputs (list(int)): The shape of each argument.
        dtype (str, optional): Of the arguments. Default: ``"float32"``.
        device (str, optional): As for :func:`polyconv.explain`.

    Returns:
        list: Of each that differs in place or arguments: what it is, how often it is called, and
        its `Explanation`; the one with the largest peak by any method comes first. Calls through a
        name that was imported from `mlx.core` before are not seen.
    """
    metal = metal_named(device)
    with recorded(model) as calls:
        model(*[mx.zeros(tuple(shape), getattr(mx, dtype)) for shape in inputs])
    told = []
    for found, n_calls in Counter(calls).items():
        problem = found.problem
        shapes = f"x {(problem.batch, *[a.size for a in problem.axes], problem.in_channels)}"
        call = f"{found.where}: {found.lib}.{found.op} {shapes} {problem.dtype}"
        notes = staleness()
        told.append((found, n_calls, explain_problem(problem, call, found.op, metal, notes)))
    return sorted(told, key=lambda each: -max(line.peak_bytes for line in each[2].lines))


@contextmanager
def recorded(model: object) -> Iterator[list[Found]]:
    """The transposed convolutions called inside, through `mx` or through polyconv."""
    calls: list[Found] = []
    names = {}
    if isinstance(model, nn.Module):
        names = {id(module): name or "model" for name, module in model.named_modules()}

    def observe(op: str, problem: ConvSpec) -> None:
        if problem.is_input_dilated or op in TRANSPOSED:
            calls.append(Found(_where(names), "polyconv", op, problem))

    kept = {op: getattr(mx, op) for op in (*TRANSPOSED, "conv_general")}
    for op, function in kept.items():
        setattr(mx, op, _spy(op, function, calls, names))
    try:
        with transforms.observed(observe):
            yield calls
    finally:
        for op, function in kept.items():
            setattr(mx, op, function)


def _spy(
    op: str, function: Callable[..., mx.array], calls: list[Found], names: dict[int, str]
) -> Callable[..., mx.array]:
    def spy(x: mx.array, w: mx.array, *args: Any, **kwargs: Any) -> mx.array:
        y = function(x, w, *args, **kwargs)  # first, so that errors are MLX's
        if sys._getframe(1).f_globals["__name__"].startswith("polyconv."):
            return y  # told already, as polyconv's
        options = {name: value for name, value in kwargs.items() if name != "stream"}
        dtypes = dtype_names((x.dtype, w.dtype))
        problem = read_call(op, x.ndim - 2, x.shape, w.shape, dtypes, *args, **options)
        if problem.is_input_dilated or op in TRANSPOSED:
            calls.append(Found(_where(names), "mx", op, problem))
        return y

    return spy


def _where(names: dict[int, str]) -> str:
    """The innermost module of the model on the stack, or else the line that made the call."""
    frame, line = sys._getframe(1), ""
    while frame is not None:
        path = frame.f_code.co_filename
        inside = Path(path).parent == Path(__file__).parent
        if not inside and not line:
            line = f"{Path(path).name}:{frame.f_lineno}"
        module = frame.f_locals.get("self")
        if id(module) in names:
            return names[id(module)]
        frame = frame.f_back  # type: ignore[assignment]
    return line
