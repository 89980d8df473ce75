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

# A weight that is zero outside its blocks, and how many blocks it has.
Blocks: TypeAlias = "Sequence[tuple[Held, int]]"

_BLOCKS: ContextVar[Blocks] = ContextVar("blocks", default=())

_OURS: dict[str, Function] = {
    name: getattr(conv if name in PLAIN else conv_transpose, name) for name in ORIGINALS
}
# Their places among the arguments: of `conv_general`, and of all that can be transposed.
_INPUT_DILATION, _GROUPS = 5, 6


class Options(NamedTuple):
    """Whether all convolutions on a CPU are taken over, and how many bytes they may allocate."""

    cpu_convs: bool
    max_workspace: int | None = None


def answer(name: str, options: Options, args: tuple[Any, ...], kwargs: dict[str, Any]) -> mx.array:
    """The result of a call of `mx.<name>`, by polyconv if it is polyconv's to answer.

    Its to answer are transposed convolutions and, with `cpu_convs`, on a CPU all others. What
    polyconv refuses is left to MLX: what is wrong is then told in MLX's words, and what only MLX
    computes (complex weights, say) it does. But not what there is no memory for, nor groups below
    1, which in MLX may end the process.
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
    """On every device, also of calls that are MLX's to answer."""
    place = _GROUPS - (name in PLAIN)
    check_groups(name, kwargs.get("groups", args[place] if len(args) > place else 1))


def always(name: str) -> Function:
    """`mx.<name>` by polyconv where it dilates its input, else MLX's own."""

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
    """Calls inside with one of these very weights, and no groups, are grouped ones."""
    token = _BLOCKS.set(blocks)
    try:
        yield
    finally:
        _BLOCKS.reset(token)


def _by_blocks(
    name: str, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments, with the weight's blocks as groups if its blocks are known."""
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
