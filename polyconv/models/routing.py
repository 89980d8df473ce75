"""Which calls of MLX's convolutions does polyconv answer in MLX's place?"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple, TypeAlias

import mlx.core as mx

from polyconv.execution.device import is_on_cpu
from polyconv.execution.identity import Held
from polyconv.execution.unpatched import ORIGINALS, PLAIN
from polyconv.ops import conv, conv_transpose
from polyconv.problem.arguments import FatalError, NoRoomError, check_groups

Function: TypeAlias = "Callable[..., mx.array]"

# Weights that are zero outside their blocks, each with the number of blocks.
Blocks: TypeAlias = "Sequence[tuple[Held, int]]"

_BLOCKS: ContextVar[Blocks] = ContextVar("blocks", default=())

_OURS: dict[str, Function] = {
    name: getattr(conv if name in PLAIN else conv_transpose, name) for name in ORIGINALS
}
# Places among the arguments: `input_dilation` of `conv_general`, and `groups` of this and of the
# transposed convolutions. Plain ones have `groups` one place earlier.
_INPUT_DILATION, _GROUPS = 5, 6


class Options(NamedTuple):
    """Whether polyconv answers all convolutions on a CPU, and how many bytes each may allocate."""

    cpu_convs: bool
    max_workspace: int | None = None


def answer(name: str, options: Options, args: tuple[Any, ...], kwargs: dict[str, Any]) -> mx.array:
    """The result of a call of `mx.<name>`, by polyconv or by MLX.

    polyconv answers transposed convolutions, and all others on a CPU if `cpu_convs`. MLX answers
    what polyconv refuses: errors are then MLX's, and what only MLX computes, such as complex
    weights, is computed. Two refusals of polyconv are raised instead: calls for which there is no
    memory, and groups below 1, which may end the process in MLX.
    """
    own = ORIGINALS[name]
    _check_groups(name, args, kwargs)
    if not _is_transposed(name, args, kwargs):
        stream = kwargs.get("stream")
        if not (options.cpu_convs and is_on_cpu(stream)):
            return own(*args, **kwargs)
    try:
        grouped, named = _by_blocks(name, args, kwargs)
        return _OURS[name](*grouped, **named, max_workspace=options.max_workspace)
    except (NoRoomError, FatalError):
        raise
    except (ValueError, TypeError):
        pass
    return own(*args, **kwargs)


def _check_groups(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Refuses groups below 1 on every device, also for calls that MLX answers."""
    place = _GROUPS - (name in PLAIN)
    check_groups(name, kwargs.get("groups", args[place] if len(args) > place else 1))


def always(name: str) -> Function:
    """`mx.<name>`, which polyconv answers if it is a transposed convolution."""

    @functools.wraps(ORIGINALS[name])
    def routed(*args: Any, **kwargs: Any) -> mx.array:
        return answer(name, Options(False), args, kwargs)

    return routed


def _is_transposed(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    if name != "conv_general":
        return name not in PLAIN
    given = kwargs.get(
        "input_dilation", args[_INPUT_DILATION] if len(args) > _INPUT_DILATION else 1
    )
    return any(step != 1 for step in given) if isinstance(given, (list, tuple)) else given != 1


@contextmanager
def known_blocks(blocks: Blocks) -> Iterator[None]:
    """Calls inside with one of these very weights, and without groups, are computed by groups."""
    token = _BLOCKS.set(blocks)
    try:
        yield
    finally:
        _BLOCKS.reset(token)


def _by_blocks(
    name: str, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments of a call, with the weight's blocks as groups if these are known."""
    if name in PLAIN or len(args) < 2:
        return args, kwargs
    placed = len(args) > _GROUPS
    grouped = args[_GROUPS] if placed else kwargs.get("groups", 1)
    for known, n_blocks in _BLOCKS.get():
        if grouped == 1 and known.holds(args[1]):
            args = (args[0], diagonal(args[1], n_blocks), *args[2:])
            if placed:
                return (*args[:_GROUPS], n_blocks, *args[_GROUPS + 1 :]), kwargs
            return args, {**kwargs, "groups": n_blocks}
    return args, kwargs


def diagonal(w: mx.array, n: int) -> mx.array:
    """The blocks of `(O, *K, C)` as the weight `(O, *K, C / n)` of a convolution of n groups."""
    outputs, *kernel, channels = w.shape
    blocks = w.reshape(n, outputs // n, *kernel, n, channels // n)
    blocks = mx.diagonal(blocks, 0, 0, blocks.ndim - 2)  # (O / n, *K, C / n, n)
    return mx.moveaxis(blocks, -1, 0).reshape(outputs, *kernel, channels // n)
