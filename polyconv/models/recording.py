"""Which transposed convolutions does a model run, and what does each cost?"""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, TypeAlias

import mlx.core as mx

from polyconv.execution.modules import names_of
from polyconv.gradients.observing import observed
from polyconv.inspection.explain import DTYPES, metal_named, staleness
from polyconv.inspection.explanation import explain_problem
from polyconv.inspection.report import Explanation
from polyconv.models.patching import intercepted
from polyconv.ops.call import dtype_names
from polyconv.problem import arguments
from polyconv.problem.signatures import OPS, TRANSPOSED, read_call
from polyconv.problem.spec import INT32_MAX, ConvSpec, check_int32

_PACKAGE = Path(__file__).parents[1]  # lines in here made no call of their own

# The least int of each type, and one above the largest.
INTEGERS = {
    **{f"int{n}": (-(2 ** (n - 1)), 2 ** (n - 1)) for n in (8, 16, 32, 64)},
    **{f"uint{n}": (0, 2**n) for n in (8, 16, 32)},
}

Listener: TypeAlias = "Callable[[str, str, ConvSpec, float | None, bool], None]"


@dataclass(frozen=True)
class Found:
    """A convolution: where it was called, `mx` or `polyconv`, its op, its problem, its weight."""

    where: str
    lib: str
    op: str
    problem: ConvSpec
    packed: bool = False


def explain_model(
    model: Callable[..., Any],
    *inputs: Sequence[int] | mx.array,
    dtype: str = "float32",
    device: str | None = None,
) -> list[tuple[Found, int, Explanation]]:
    """Runs a model once, on zeros or given arrays, and explains its transposed convolutions.

    MLX is lazy: nothing is computed, unless the model evaluates something itself.

    Args:
        model (callable): A model of MLX, or any function of arrays.
        inputs (list(int) or array): The arguments of the model. A shape stands for zeros. A model
            that begins with an embedding takes an array of ints.
        dtype (str, optional): The type of the zeros. Default: ``"float32"``.
        device (str, optional): As for :func:`polyconv.explain`.

    Returns:
        list: For each transposed convolution that differs in place or arguments: what it is, how
        often it is called, and its `Explanation`. The largest peak by any method comes first.

    Raises:
        ValueError: If the model cannot be called, or an input, dtype or device is not known.
    """
    metal = metal_named(device)
    if not callable(model):
        arguments.refuse("explain_model", "model must be callable", arguments.shown(model))
    arguments.choice("explain_model", "dtype", dtype, DTYPES)
    told = []
    for found, n_calls in Counter(calls_of(model, inputs, dtype)).items():
        problem = found.problem
        shapes = f"x {(problem.batch, *[a.size for a in problem.axes], problem.in_channels)}"
        call = f"{found.where}: {found.lib}.{found.op} {shapes} {problem.dtype}"
        asked = (problem, call, found.op, metal, staleness())
        told.append((found, n_calls, explain_problem(*asked, packed=found.packed)))
    return sorted(told, key=lambda each: -max(line.peak_bytes for line in each[2].lines))


def calls_of(
    model: Callable[..., Any], inputs: Iterable[Any], dtype: str, plain: bool = False
) -> list[Found]:
    """The convolutions of one run of a model, as `listening` tells of them."""
    given = [_argument(each, dtype) for each in inputs]
    with recorded(model, plain) as calls:
        model(*given)
    return calls


def _argument(given: Any, dtype: str) -> mx.array:
    if isinstance(given, mx.array):
        return given
    if not arguments.is_array(given):
        return example(given, dtype)
    try:
        return mx.array(given)
    except Exception as error:  # MLX raises many types
        must = "an input must be an array that MLX takes, or a shape"
        arguments.refuse("explain_model", must, str(error))


def example(shape: Sequence[int], dtype: str, bounds: tuple[int, int] | None = None) -> mx.array:
    """An argument for a model: zeros, or the ints of a range in turn, again and again.

    Args:
        shape (list(int)): Its shape.
        dtype (str): One of `DTYPES` or `INTEGERS`.
        bounds (tuple(int, int), optional): The first int of the range, and one above its last, such
            as the size of a vocabulary. Default: zeros.

    Raises:
        ValueError: If the dtype does not hold them.
    """
    op, sizes = "explain_model", arguments.sizes("explain_model", "an input", shape)
    check_int32(op, *sizes, 0)
    if bounds is None:
        arguments.choice(op, "the dtype of an input", dtype, (*DTYPES, *INTEGERS))
        return mx.zeros(sizes, getattr(mx, dtype))
    arguments.choice(op, "the dtype of a range", dtype, tuple(INTEGERS))
    check_int32(op, prod(sizes))
    low, high = bounds
    least, behind = INTEGERS[dtype]
    if not least <= low < high <= behind:
        must = f"a range of {dtype} must be within {least}..{behind} and not empty"
        arguments.refuse(op, must, f"{low}..{high}")
    steps = mx.arange(prod(sizes), dtype=mx.int64) % min(high - low, INT32_MAX) + low
    return steps.astype(getattr(mx, dtype)).reshape(sizes)


@contextmanager
def recorded(model: object, plain: bool = False) -> Iterator[list[Found]]:
    """The convolutions called inside, as `listening` tells of them."""
    calls: list[Found] = []
    names = names_of(model)

    def listen(lib: str, op: str, problem: ConvSpec, _: float | None, packed: bool) -> None:
        calls.append(Found(where(names), lib, op, problem, packed))

    with listening(listen, plain=plain):
        yield calls


_HEARD: ContextVar[bool] = ContextVar("heard", default=False)


@contextmanager
def listening(listen: Listener, timed: bool = False, plain: bool = False) -> Iterator[None]:
    """Tells of each transposed convolution inside: library, op, problem, seconds, and if packed.

    With `timed` the arguments of a call are evaluated first, and then its seconds are measured.
    Without, the seconds are None. They are also None for polyconv's own calls, and where nothing
    can be evaluated, as inside `mx.compile`. Calls through `mx` are told of in all threads. With
    `plain` polyconv's other convolutions are told of as well.
    """

    def observe(op: str, problem: ConvSpec, packed: bool) -> None:
        if not _HEARD.get() and (plain or problem.is_input_dilated or op in TRANSPOSED):
            listen("polyconv", op, problem, None, packed)

    def intercept(
        op: str, compute: Callable[[], mx.array], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> mx.array:
        if op not in OPS:
            return compute()
        token = _HEARD.set(True)  # polyconv, called in MLX's place, must not tell of it again
        try:  # compute first, so that errors are MLX's
            y, seconds = _timed(compute, args) if timed else (compute(), None)
        finally:
            _HEARD.reset(token)
        problem = _read(op, args, kwargs)
        if problem and (problem.is_input_dilated or op in TRANSPOSED):
            listen("mx", op, problem, seconds, False)
        return y

    with intercepted(intercept), observed(observe):
        yield


def _read(op: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> ConvSpec | None:
    x, w, *rest = args
    options = {name: value for name, value in kwargs.items() if name != "stream"}
    try:
        dtypes = dtype_names((x.dtype, w.dtype))
        return read_call(op, x.shape, w.shape, dtypes, *rest, **options)
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
    """The path of the innermost module on the stack, or else the user's line that made the call."""
    frame, line = sys._getframe(1), ""
    while frame is not None:
        path = frame.f_code.co_filename
        inside = Path(path).is_relative_to(_PACKAGE)
        if not inside and not line:
            line = f"{Path(path).name}:{frame.f_lineno}"
        module = frame.f_locals.get("self")
        if id(module) in names:
            return names[id(module)]
        frame = frame.f_back  # type: ignore[assignment]
    return line
