"""How does polyconv answer calls of MLX's own functions, in code that nobody edits?"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import mlx.core as mx

from polyconv.execution.locking import ALONE
from polyconv.execution.unpatched import ORIGINALS
from polyconv.models import routing
from polyconv.models.routing import Options
from polyconv.problem import arguments

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
    def is_needed(self) -> bool:
        return self.is_active or bool(self.listeners)

    @property
    def is_active(self) -> bool:
        return self.permanent is not None or bool(self.blocks)

    @property
    def options(self) -> Options:
        return [self.permanent or Options(False), *self.blocks.values()][-1]


_STATE = _State()


def _taking_over(name: str) -> Callable[..., mx.array]:
    own = ORIGINALS[name]

    @functools.wraps(own)
    def function(*args: Any, **kwargs: Any) -> mx.array:
        def compute() -> mx.array:
            # Only listeners may be active. Or somebody kept this function after the patch's end.
            if not _STATE.is_active:
                return own(*args, **kwargs)
            return routing.answer(name, _STATE.options, args, kwargs)

        for listener in list(_STATE.listeners.values()):
            compute = functools.partial(listener, name, compute, args, kwargs)
        return compute()

    return function


_PATCHES = {name: _taking_over(name) for name in ORIGINALS}


def patch(cpu_convs: bool = True, max_workspace: int | None = None) -> list[str]:
    """Has polyconv answer MLX's transposed convolutions in this process, until `unpatch()`.

    These are all calls from Python of ``mx.conv_transpose1d/2d/3d``, and of ``mx.conv_general``
    with an input dilation. Calls by ``mlx.nn``, and in modules that imported these names before,
    are among them.

    Args:
        cpu_convs (bool, optional): On the CPU, answer ``mx.conv1d/2d/3d`` and all calls of
            ``mx.conv_general`` too, because MLX computes dilated and grouped ones there by a naive
            loop. Elsewhere it changes nothing. Default: ``True``.
        max_workspace (int, optional): Bytes that each of these calls may allocate besides its
            arguments and its result. Default: what the device allows.

    Returns:
        list(str): The names in modules and classes that were rebound too, because they held these
        functions. Those of ``mlx.core`` itself are left out.

    Raises:
        ValueError: If `max_workspace` is no positive int.
    """
    options = _options("patch", cpu_convs, max_workspace)
    with ALONE:
        _STATE.permanent = options
        return rebind(ORIGINALS, _PATCHES)


def unpatch() -> None:
    """Ends `patch()`. Open blocks of `patched()` stay in force."""
    with ALONE:
        _STATE.permanent = None
        _restore()


@contextmanager
def patched(cpu_convs: bool = True, max_workspace: int | None = None) -> Iterator[list[str]]:
    """`patch` for a ``with`` block. Blocks may nest; the arguments of the innermost one count.

    The patch holds for the whole process, in all threads, until the last block is left. What
    `mx.compile` traced before the block stays as it was. What it traces inside stays polyconv's.

    Yields:
        list(str): The names that were rebound, as for `patch`.
    """
    options = _options("patched", cpu_convs, max_workspace)
    block = object()  # blocks of several threads end in any order
    try:
        with ALONE:
            _STATE.blocks[block] = options
            rebound = rebind(ORIGINALS, _PATCHES)
        yield rebound
    finally:
        with ALONE:
            _STATE.blocks.pop(block, None)
            _restore()


@contextmanager
def intercepted(listener: Listener) -> Iterator[None]:
    """Hands each call inside to `listener`: name, function that computes the result, arguments."""
    block = object()
    try:
        with ALONE:
            _STATE.listeners[block] = listener
            rebind(ORIGINALS, _PATCHES)
        yield
    finally:
        with ALONE:
            _STATE.listeners.pop(block, None)
            _restore()


def _options(op: str, cpu_convs: bool, max_workspace: int | None) -> Options:
    if max_workspace is not None:
        max_workspace = arguments.count(op, "max_workspace", max_workspace)
    return Options(arguments.switch(op, "cpu_convs", cpu_convs), max_workspace)


def _restore() -> None:
    if not _STATE.is_needed:
        rebind(_PATCHES, ORIGINALS)


def rebind(
    before: dict[str, Callable[..., mx.array]], after: dict[str, Callable[..., mx.array]]
) -> list[str]:
    """Exchanges functions wherever a module, or a class in a module, holds them by a name.

    Returns:
        list(str): These names, without those of `mlx.core` itself.
    """
    changes = {id(before[name]): after[name] for name in before}
    found = []
    for owner, path in _owners():
        for name, value in list(vars(owner).items()):
            plain = value.__func__ if type(value) is staticmethod else value
            if id(plain) not in changes:
                continue
            new = changes[id(plain)]
            try:
                setattr(owner, name, staticmethod(new) if plain is not value else new)
            except (AttributeError, TypeError):  # some classes cannot be changed
                continue
            if owner is not mx:
                found.append(f"{path}.{name}")
    return found


def _owners() -> Iterator[tuple[Any, str]]:
    """All modules except polyconv's, and their classes, with their paths."""
    for path, module in list(sys.modules.items()):
        if path.partition(".")[0] == "polyconv" or not hasattr(module, "__dict__"):
            continue
        yield module, path
        for name, value in list(vars(module).items()):
            # `type()`, because `isinstance` would load lazy proxies.
            if issubclass(type(value), type) and value.__module__ == path:
                yield value, f"{path}.{name}"
