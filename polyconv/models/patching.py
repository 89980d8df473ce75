"""How does polyconv answer calls of MLX's own functions, in code that nobody edits?"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from polyconv.execution.locking import ALONE
from polyconv.models.dispatching import BINDINGS, STATE, Listener
from polyconv.models.routing import Options
from polyconv.problem import arguments

_PERMANENT = object()  # the holder that `patch()` is


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
        STATE.permanent = options
        BINDINGS.hold(_PERMANENT)
        return BINDINGS.names()


def unpatch() -> None:
    """Ends `patch()`. Open blocks of `patched()` stay in force."""
    with ALONE:
        STATE.permanent = None
        BINDINGS.let_go(_PERMANENT)


@contextmanager
def patched(cpu_convs: bool = True, max_workspace: int | None = None) -> Iterator[list[str]]:
    """Has polyconv compute calls of `mx` inside a ``with`` block, as :func:`patch`.

    Blocks may nest; the arguments of the innermost one count. The patch holds for the whole
    process, in all threads, until the last block is left. What `mx.compile` traced before the block
    stays as it was. What it traces inside stays polyconv's.

    The first block walks all modules that are imported. The next ones walk what is new.

    Args:
        cpu_convs, max_workspace (optional): As for :func:`patch`.

    Yields:
        list(str): The names that were rebound, as for :func:`patch`.

    Raises:
        ValueError: If an argument is not as for :func:`patch`.
    """
    options = _options("patched", cpu_convs, max_workspace)
    block = object()  # blocks of several threads end in any order
    try:
        with ALONE:
            STATE.blocks[block] = options
            BINDINGS.hold(block)
            rebound = BINDINGS.names()
        yield rebound
    finally:
        with ALONE:
            STATE.blocks.pop(block, None)
            BINDINGS.let_go(block)


@contextmanager
def intercepted(listener: Listener) -> Iterator[None]:
    """Hands each call inside to `listener`: name, function that computes the result, arguments."""
    block = object()
    try:
        with ALONE:
            STATE.listeners[block] = listener
            BINDINGS.hold(block)
        yield
    finally:
        with ALONE:
            STATE.listeners.pop(block, None)
            BINDINGS.let_go(block)


def _options(op: str, cpu_convs: bool, max_workspace: int | None) -> Options:
    if max_workspace is not None:
        max_workspace = arguments.count(op, "max_workspace", max_workspace)
    return Options(arguments.switch(op, "cpu_convs", cpu_convs), max_workspace)
