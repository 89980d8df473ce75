"""How do calls of MLX's own functions, in code that nobody edits, come to polyconv?"""

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
    """Whether calls are taken over, and by which of the blocks and calls that asked for it."""

    permanent: Options | None = None  # those of `patch()`, if it is in force
    blocks: dict[object, Options] = field(default_factory=dict)  # by open block
    listeners: dict[object, Listener] = field(default_factory=dict)  # of `intercepted` blocks

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
            if not _STATE.is_active:  # listened to, or kept by somebody beyond the end
                return own(*args, **kwargs)
            return routing.answer(name, _STATE.options, args, kwargs)

        for listener in list(_STATE.listeners.values()):
            compute = functools.partial(listener, name, compute, args, kwargs)
        return compute()

    return function


_PATCHES = {name: _taking_over(name) for name in ORIGINALS}


def patch(cpu_convs: bool = True, max_workspace: int | None = None) -> list[str]:
    """Has polyconv answer MLX's transposed convolutions in this process, until `unpatch()`.

    That is every call of ``mx.conv_transpose1d/2d/3d``, and of ``mx.conv_general`` with an input
    dilation, from Python: also by ``mlx.nn``, and in modules that imported these names before.

    Args:
        cpu_convs (bool, optional): On the CPU take over ``mx.conv1d/2d/3d`` and the rest of
            ``mx.conv_general`` too, as MLX computes dilated and grouped ones there by a naive loop.
            Elsewhere it changes nothing. Default: ``True``.
        max_workspace (int, optional): Bytes that each of these calls may allocate besides its
            arguments and its result. Default: what the device allows.

    Returns:
        list(str): What else was rebound, beside the functions of ``mlx.core``: names of modules and
        classes that had imported them.

    Raises:
        ValueError: If `max_workspace` is no positive int.
    """
    options = _options("patch", cpu_convs, max_workspace)
    with ALONE:
        _STATE.permanent = options
        return rebind(ORIGINALS, _PATCHES)


def unpatch() -> None:
    """Ends `patch()`. Blocks of `patched()` that are open go on."""
    with ALONE:
        _STATE.permanent = None
        _restore()


@contextmanager
def patched(cpu_convs: bool = True, max_workspace: int | None = None) -> Iterator[list[str]]:
    """As `patch`, inside a ``with`` block. Blocks nest, and the innermost one's arguments count.

    The patch is of the process: other threads are in it too, until the last block is left.
    What `mx.compile` traced before stays as it was, and what it traced inside stays polyconv's.

    Yields:
        list(str): What was rebound, as of `patch`.
    """
    options = _options("patched", cpu_convs, max_workspace)
    block = object()  # those of several threads end in any order
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
    """Hands each call inside to `listener`: its name, what computes it, and its arguments."""
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
    """Exchanges functions wherever a module or a class of one holds them by a name.

    Returns:
        list(str): These names, but for those of `mlx.core` itself.
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
            except (AttributeError, TypeError):  # a class that does not let itself be changed
                continue
            if owner is not mx:
                found.append(f"{path}.{name}")
    return found


def _owners() -> Iterator[tuple[Any, str]]:
    """All modules but polyconv's, and their classes."""
    for path, module in list(sys.modules.items()):
        if path.partition(".")[0] == "polyconv" or not hasattr(module, "__dict__"):
            continue
        yield module, path
        for name, value in list(vars(module).items()):
            # Not `isinstance`, which asks what stands in for an object that is made when used.
            if issubclass(type(value), type) and value.__module__ == path:
                yield value, f"{path}.{name}"
