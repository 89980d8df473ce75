"""What stands in the place of MLX's convolutions, and whom does it ask?

A function for each of MLX's own. In order it asks whether a converted module runs in this thread or
task, who listens, and whether `patched()` is in force. If nobody answers it is MLX's own.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Coroutine, Generator
from contextvars import ContextVar
from dataclasses import dataclass, field
from types import CoroutineType, GeneratorType
from typing import Any, TypeAlias

import mlx.core as mx

from polyconv.execution.unpatched import ORIGINALS
from polyconv.models import routing
from polyconv.models.bindings import Bindings
from polyconv.models.routing import Known, Options

Listener: TypeAlias = (
    "Callable[[str, Callable[[], mx.array], tuple[Any, ...], dict[str, Any]], mx.array]"
)


@dataclass
class _State:
    """Who has asked to take calls over: `patch()`, open `patched` blocks, and listeners."""

    permanent: Options | None = None  # the options of `patch()`, if it is in force
    blocks: dict[object, Options] = field(default_factory=dict)  # by open `patched` block
    listeners: dict[object, Listener] = field(default_factory=dict)  # by open `intercepted` block

    @property
    def is_active(self) -> bool:
        return self.permanent is not None or bool(self.blocks)

    @property
    def options(self) -> Options:
        return [self.permanent or Options(False), *self.blocks.values()][-1]


STATE = _State()


@dataclass(eq=False)
class Count:
    """How often a converted module ran, and how many of its convolutions polyconv answered."""

    runs: int = 0
    answered: int = 0


@dataclass(eq=False)
class Running:
    """A converted module that runs in this thread or task: what it calls is polyconv's."""

    known: Known
    count: Count


# None outside of converted modules, and in a module that the predicate of `convert` left alone.
_RUNNING: ContextVar[Running | None] = ContextVar("running", default=None)


def _answered(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> mx.array | None:
    """What polyconv answers for the converted module that runs here, if one does."""
    running = _RUNNING.get()
    if running is None or not routing.is_transposed(name, args, kwargs):
        return None
    y = routing.answer_transposed(name, running.known, args, kwargs)
    running.count.answered += y is not None
    return y


def _dispatcher(name: str) -> Callable[..., mx.array]:
    own = ORIGINALS[name]

    @functools.wraps(own)
    def function(*args: Any, **kwargs: Any) -> mx.array:
        y = _answered(name, args, kwargs)
        if y is not None:
            return y

        def compute() -> mx.array:
            # Only listeners may be active. Or somebody kept this function.
            if not STATE.is_active:
                return own(*args, **kwargs)
            return routing.answer(name, STATE.options, args, kwargs)

        for listener in list(STATE.listeners.values()):
            compute = functools.partial(listener, name, compute, args, kwargs)
        return compute()

    return function


def _in_front_of(name: str, foreign: Callable[..., Any]) -> Callable[..., Any]:
    """What stands before a function that somebody else has put into `mlx.core`."""

    @functools.wraps(foreign)
    def function(*args: Any, **kwargs: Any) -> Any:
        y = _answered(name, args, kwargs)
        return foreign(*args, **kwargs) if y is None else y

    return function


BINDINGS = Bindings(ORIGINALS, {name: _dispatcher(name) for name in ORIGINALS}, _in_front_of)


def call(
    running: Running | None, own: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    """Calls a method of a converted module. polyconv answers what it calls, wherever that is.

    So it does while generators and coroutines that the method gives go on, and not in between.
    """
    result = _call(running, own, *args, **kwargs)
    if type(result) is GeneratorType:
        return _steps(running, result)
    if type(result) is CoroutineType:
        return _awaited(running, result)
    return result


def _call(running: Running | None, own: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    holder, token = object(), _RUNNING.set(running)
    try:
        if running is not None:
            BINDINGS.hold(holder, thorough=False)
        return own(*args, **kwargs)
    finally:
        _RUNNING.reset(token)
        if running is not None:
            BINDINGS.let_go(holder)


def _steps(running: Running | None, inner: Any) -> Generator[Any, Any, Any]:
    step, given = inner.send, None
    while True:
        try:
            asked = _call(running, step, given)
        except StopIteration as end:
            return end.value
        try:
            step, given = inner.send, (yield asked)
        except GeneratorExit:
            _call(running, inner.close)
            raise
        except BaseException as error:
            step, given = inner.throw, error


class _Awaitable:
    def __init__(self, steps: Generator[Any, Any, Any]) -> None:
        self._steps = steps

    def __await__(self) -> Generator[Any, Any, Any]:
        return self._steps


async def _awaited(running: Running | None, inner: Coroutine[Any, Any, Any]) -> Any:
    return await _Awaitable(_steps(running, inner))
