"""Which calls of MLX's convolutions does polyconv answer in MLX's place?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

import mlx.core as mx

from polyconv.execution.device import is_on_cpu
from polyconv.execution.unpatched import ORIGINALS
from polyconv.models.known_weights import KnownWeight
from polyconv.ops import conv, conv_transpose
from polyconv.problem.arguments import FatalError, NoRoomError, check_groups
from polyconv.problem.signatures import PLAIN

Function: TypeAlias = "Callable[..., mx.array]"
Known: TypeAlias = "Sequence[KnownWeight]"

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
    _check_groups(name, args, kwargs)
    is_ours = options.cpu_convs and is_on_cpu(kwargs.get("stream"))
    y = None
    if is_ours or is_transposed(name, args, kwargs):
        y = _ours(name, args, kwargs, options.max_workspace)
    return ORIGINALS[name](*args, **kwargs) if y is None else y


def answer_transposed(
    name: str, known: Known, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> mx.array | None:
    """The result of a transposed convolution by polyconv, None if it is left to MLX.

    A weight that is known is computed in the form that is known of it.
    """
    _check_groups(name, args, kwargs)
    args, kwargs = _by_known(known, args, kwargs)
    return _ours(name, args, kwargs, None)


def is_transposed(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether a call of `mx.<name>` puts zeros between the samples of its input."""
    if name != "conv_general":
        return name not in PLAIN
    given = kwargs.get(
        "input_dilation", args[_INPUT_DILATION] if len(args) > _INPUT_DILATION else 1
    )
    return any(step != 1 for step in given) if isinstance(given, (list, tuple)) else given != 1


def _ours(
    name: str, args: tuple[Any, ...], kwargs: dict[str, Any], max_workspace: int | None
) -> mx.array | None:
    try:
        return _OURS[name](*args, **kwargs, max_workspace=max_workspace)
    except (NoRoomError, FatalError):
        raise
    except (ValueError, TypeError):
        return None


def _check_groups(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Refuses groups below 1 on every device, also for calls that MLX answers."""
    place = _GROUPS - (name in PLAIN)
    check_groups(name, kwargs.get("groups", args[place] if len(args) > place else 1))


def _by_known(
    known: Known, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments of a call, with a known weight in its form, and its blocks as groups."""
    if len(args) < 2:
        return args, kwargs
    placed = len(args) > _GROUPS
    grouped = args[_GROUPS] if placed else kwargs.get("groups", 1)
    for each in known:
        if (each.n_blocks > 1 and grouped != 1) or not each.holds(args[1]):
            continue
        args = (args[0], each.stand_in(args[1]), *args[2:])
        if each.n_blocks == 1:
            return args, kwargs
        if placed:
            return (*args[:_GROUPS], each.n_blocks, *args[_GROUPS + 1 :]), kwargs
        return args, {**kwargs, "groups": each.n_blocks}
    return args, kwargs
