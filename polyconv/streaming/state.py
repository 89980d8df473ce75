"""What a model holds, so that a trace of it leaves everything as it was.

A model may store what it computed: a cache, running statistics, the state of random numbers. Of a
trace that would be arrays without numbers.
"""

from __future__ import annotations

import functools
import sys
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FunctionType, MethodType, ModuleType
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from polyconv.execution.identity import by_handles, handle_of, is_traced

# Objects of these are no part of a model: locks, files, arrays.
_OTHERS = {*sys.stdlib_module_names, "mlx", "numpy", "polyconv"}


def roots_of(function: Any) -> list[Any]:
    """The modules that a function can reach: itself, its own, those of its closure.

    And the attributes of objects of other classes that it can reach, as dicts.
    """
    found: list[Any] = []
    seen: set[int] = set()

    def look(value: Any, depth: int) -> None:
        if id(value) in seen or depth > 4:
            return
        seen.add(id(value))
        if isinstance(value, nn.Module):
            found.append(value)
        elif isinstance(value, functools.partial):
            for each in (value.func, *value.args, *value.keywords.values()):
                look(each, depth + 1)
        elif isinstance(value, (list, tuple)):
            for each in value[:64]:
                look(each, depth + 1)
        elif (attributes := _attributes(value)) is not None:
            found.append(attributes)
            for each in attributes.values():
                look(each, depth + 1)
        elif callable(value):
            look(getattr(value, "__self__", None), depth + 1)
            look(getattr(value, "__wrapped__", None), depth + 1)
            for each in getattr(value, "__defaults__", None) or ():
                look(each, depth + 1)
            for cell in getattr(value, "__closure__", None) or ():
                try:
                    look(cell.cell_contents, depth + 1)
                except ValueError:  # not filled yet
                    continue

    look(function, 0)
    return found


def _attributes(value: Any) -> dict[str, Any] | None:
    """What an object of somebody's class holds, which is no module."""
    if isinstance(value, (nn.Module, type, FunctionType, MethodType, ModuleType)):
        return None
    if type(value).__module__.partition(".")[0] in _OTHERS:
        return None
    found: dict[str, Any] | None = getattr(value, "__dict__", None)
    return found


class Kept:
    """The containers of some roots, and the arrays that they hold now."""

    def __init__(self, roots: list[Any]) -> None:
        self._containers = [(each, _with_handles(each)) for each in _containers_of(roots)]

    @contextmanager
    def put_back(self) -> Iterator[None]:
        """With the arrays of then inside, and afterwards all as it was before."""
        with _left([each for each, _ in self._containers]):
            for container, then in self._containers:
                _fill(container, then)
            with by_handles():
                yield


def _containers_of(roots: list[Any]) -> list[Any]:
    """What holds something: modules, dicts, lists and queues."""
    found: list[Any] = []
    seen: set[int] = set()
    waiting = list(roots)
    while waiting:
        value = waiting.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        attributes = vars(value) if isinstance(value, nn.Module) else _attributes(value)
        if attributes is not None:
            waiting.append(attributes)
        if isinstance(value, (dict, list, deque)):
            found.append(value)
        if isinstance(value, (dict, list, tuple, deque)):
            waiting += value.values() if isinstance(value, dict) else value
    return found


class Trained:
    """The arrays of modules of which a gradient is asked for, if one is.

    A trace would hold their numbers alone. So they are inputs of it.
    """

    def __init__(self, roots: list[Any]) -> None:
        places = [
            (container, key, value)
            for container in _containers_of(roots)
            for key, value in _items(container)
            if isinstance(value, mx.array)
        ]
        is_asked = is_traced([value for _, _, value in places]) if places else False
        self._places = places if is_asked else []

    @property
    def arrays(self) -> list[mx.array]:
        return [value for _, _, value in self._places]

    def as_inputs(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function of an input and these arrays, which take their places."""

        def call(x: mx.array, *arrays: mx.array) -> Any:
            for (container, key, _), array in zip(self._places, arrays, strict=True):
                container[key] = array
            return function(x)

        return call


def _items(container: Any) -> list[tuple[Any, Any]]:
    return list(container.items() if isinstance(container, dict) else enumerate(container))


@contextmanager
def untouched(roots: list[Any]) -> Iterator[None]:
    """Leaves modules and the random state as they were."""
    with _left(_containers_of(roots)):
        yield


@contextmanager
def _left(containers: list[Any]) -> Iterator[None]:
    before = [(each, _copied(each)) for each in containers]
    key = _key()
    try:
        yield
    finally:
        for container, was in before:
            _fill(container, was)
        _set_key(key)


def _key() -> mx.array:
    """The state of MLX's random numbers, which are drawn from this thread's."""
    key = handle_of(mx.random.state[0])
    mx.eval(key)
    return key


def _set_key(key: mx.array) -> None:
    """In a list before MLX 0.32, and in place from then on."""
    state = mx.random.state
    if isinstance(state, list):
        state[0] = key
    else:
        state[0][:] = key


def _copied(container: Any) -> Any:
    return dict(container) if isinstance(container, dict) else list(container)


def _with_handles(container: Any) -> Any:
    handled: Callable[[Any], Any] = lambda a: handle_of(a) if isinstance(a, mx.array) else a  # noqa: E731
    if isinstance(container, dict):
        return {key: handled(value) for key, value in container.items()}
    return [handled(value) for value in container]


def _fill(container: Any, values: Any) -> None:
    """Nothing that stays is missing in between, as another thread may run the model."""
    if isinstance(container, dict):
        kind: Any = dict if isinstance(container, nn.Module) else type(container)
        for key, value in values.items():
            if dict.get(container, key, values) is not value:
                kind.__setitem__(container, key, value)
        for key in [key for key in container if key not in values]:
            kind.__delitem__(container, key)
        if list(container) != list(values):  # something was deleted and came back
            kind.clear(container)
            kind.update(container, values)
    elif len(container) != len(values) or any(a is not b for a, b in zip(container, values)):
        if isinstance(container, list):
            container[:] = values
        else:
            container.clear()
            container.extend(values)
