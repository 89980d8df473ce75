"""Which transposed convolutions does a model run, and what does each cost?"""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import mlx.core as mx

from polyconv import arguments, transforms
from polyconv.calls import dtype_names
from polyconv.explanation import TRANSPOSED, Explanation, explain_problem, read_call
from polyconv.inspection import DTYPES, metal_named, staleness
from polyconv.patching import intercepted
from polyconv.spec import ConvSpec, check_int32
from polyconv.traversal import names_of

Listener: TypeAlias = "Callable[[str, str, ConvSpec, float | None], None]"


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
        its `Explanation`; the one with the largest peak by any method comes first.
    """
    metal = metal_named(device)
    if not callable(model):
        arguments.refuse("explain_model", "model must be callable", arguments.shown(model))
    arguments.choice("explain_model", "dtype", dtype, DTYPES)
    shapes = [arguments.sizes("explain_model", "an input", shape) for shape in inputs]
    for shape in shapes:
        check_int32("explain_model", *shape, 0)
    with recorded(model) as calls:
        model(*[mx.zeros(shape, getattr(mx, dtype)) for shape in shapes])
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
    names = names_of(model)

    def listen(lib: str, op: str, problem: ConvSpec, seconds: float | None) -> None:
        calls.append(Found(where(names), lib, op, problem))

    with listening(listen):
        yield calls


_HEARD: ContextVar[bool] = ContextVar("heard", default=False)


@contextmanager
def listening(listen: Listener, timed: bool = False) -> Iterator[None]:
    """Tells of each transposed convolution inside: of which library, which op, and what it is.

    With `timed` also how many seconds it took, its arguments evaluated before, None where nothing
    can be evaluated, as inside `mx.compile`, and for polyconv's own. In all threads.
    """

    def observe(op: str, problem: ConvSpec) -> None:
        if not _HEARD.get() and (problem.is_input_dilated or op in TRANSPOSED):
            listen("polyconv", op, problem, None)

    def intercept(
        op: str, compute: Callable[[], mx.array], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> mx.array:
        if op not in TRANSPOSED and op != "conv_general":
            return compute()
        token = _HEARD.set(True)  # or polyconv, called in MLX's place, would tell it again
        try:  # first, so that errors are MLX's
            y, seconds = _timed(compute, args) if timed else (compute(), None)
        finally:
            _HEARD.reset(token)
        problem = _read(op, args, kwargs)
        if problem and (problem.is_input_dilated or op in TRANSPOSED):
            listen("mx", op, problem, seconds)
        return y

    with intercepted(intercept), transforms.observed(observe):
        yield


def _read(op: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> ConvSpec | None:
    x, w, *rest = args
    options = {name: value for name, value in kwargs.items() if name != "stream"}
    try:
        dtypes = dtype_names((x.dtype, w.dtype))
        return read_call(op, x.ndim - 2, x.shape, w.shape, dtypes, *rest, **options)
    except ValueError:  # only MLX takes it
        return None


def _timed(compute: Callable[[], mx.array], args: tuple[Any, ...]) -> tuple[mx.array, float | None]:
    try:
        mx.eval(*args[:2])
    except (RuntimeError, ValueError):
        return compute(), None
    start = time.perf_counter()
    y = compute()
    mx.eval(y)
    return y, time.perf_counter() - start


def where(names: dict[int, str]) -> str:
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
