"""How does a rank get samples that others hold, and where do their gradients go?"""

from __future__ import annotations

from typing import Any

import mlx.core as mx

from polyconv.distributed.sharding import Exchange, Sharding, Span, common
from polyconv.distributed.transport import Group, evaluate, exchanged, group_of
from polyconv.execution.arrays import cut, pad
from polyconv.execution.device import check_float64
from polyconv.problem import arguments


def sharding_of(x: mx.array, *, axis: int = 1, group: Group | None = None) -> Sharding:
    """How a sequence is cut among the ranks of a group. All ranks must ask, and tell each other.

    Args:
        x (array): The piece of this rank.
        axis (int, optional): The axis along which the sequence is cut. Default: ``1``.
        group (Group, optional): The ranks. Default: all.

    Returns:
        Sharding: The same on every rank.

    Raises:
        ValueError: If `x` is no array that has the axis.
    """
    _check_axis("sharding_of", x, axis)
    group = group_of("sharding_of", group)
    sizes = mx.distributed.all_gather(mx.array([x.shape[axis]]), group=group)
    return Sharding.of_sizes([int(size) for size in sizes.tolist()])


def reshard(
    x: mx.array,
    sharding: Sharding,
    to: Sharding,
    *,
    axis: int = 1,
    group: Group | None = None,
) -> mx.array:
    """The piece of this rank when a sequence is cut differently.

    It is differentiable, as :func:`with_halo`.

    Args:
        x (array): The piece of this rank, with any other axes.
        sharding (Sharding): How the sequence is cut.
        to (Sharding): How it is to be cut.
        axis (int, optional): The axis along which it is cut. Default: ``1``.
        group (Group, optional): The ranks. Default: all.

    Returns:
        array: With ``to.sizes[rank]`` samples along `axis`.

    Raises:
        ValueError: If the piece or the number of ranks is not the sharding's, or lengths differ.
    """
    if not isinstance(to, Sharding) or to.n_ranks != getattr(sharding, "n_ranks", None):
        n_ranks = getattr(sharding, "n_ranks", "as many")
        must = f"to must be a Sharding for {n_ranks} ranks, as sharding"
        arguments.refuse("reshard", must, arguments.shown(to))
    if to.size != sharding.size:
        arguments.refuse("reshard", f"to must be of {sharding.size} samples", str(to.size))
    group = group_of("reshard", group)
    check_piece("reshard", x, sharding, axis, group)
    return gathered(x, Exchange(sharding, to.spans), axis, group)


def with_halo(
    x: mx.array,
    sharding: Sharding,
    before: int,
    behind: int,
    *,
    axis: int = 1,
    group: Group | None = None,
) -> mx.array:
    """The piece of this rank, with samples of the ranks around it but none beyond the ends.

    It is differentiable: the gradient of a sample is the sum of the gradients of all its copies.

    Args:
        x (array): The piece of this rank.
        sharding (Sharding): How the sequence is cut.
        before (int): How many samples to add in front of the piece.
        behind (int): How many samples to add behind it.
        axis (int, optional): The axis along which it is cut. Default: ``1``.
        group (Group, optional): The ranks. Default: all.

    Returns:
        array: With up to ``before + behind`` samples more along `axis`.

    Raises:
        ValueError: If the piece or the number of ranks is not the sharding's.
    """
    before, behind = [_margin(*each) for each in (("before", before), ("behind", behind))]
    group = group_of("with_halo", group)
    check_piece("with_halo", x, sharding, axis, group)
    spans = [(max(0, a - before), min(sharding.size, b + behind)) for a, b in sharding.spans]
    return gathered(x, Exchange(sharding, tuple(spans)), axis, group)


def _margin(name: str, value: object) -> int:
    n = arguments.integer("with_halo", name, value)
    if n < 0:
        arguments.refuse("with_halo", f"{name} must be at least 0", str(n))
    return n


def check_piece(op: str, x: mx.array, sharding: Sharding, axis: int, group: Group) -> None:
    """Refuses an array that is not this rank's piece of a sharding."""
    if not isinstance(sharding, Sharding):
        arguments.refuse(op, "sharding must be a Sharding", arguments.shown(sharding))
    _check_axis(op, x, axis)
    check_float64(op, "x", x.dtype)
    if sharding.n_ranks != group.size():
        must = f"sharding must have a piece for each of {group.size()} ranks"
        arguments.refuse(op, must, str(sharding.n_ranks))
    rank = group.rank()
    if x.shape[axis] != sharding.sizes[rank]:
        must = f"x must have {sharding.sizes[rank]} samples along axis {axis} on rank {rank}"
        arguments.refuse(op, must, str(x.shape[axis]))


def _check_axis(op: str, x: Any, axis: Any) -> None:
    if not isinstance(x, mx.array):
        arguments.refuse(op, "x must be an mlx.core.array", type(x).__name__)
    if type(axis) is not int or not 0 <= axis < x.ndim:
        must = f"axis must be one of the {x.ndim} axes of x, counted from the first"
        arguments.refuse(op, must, arguments.shown(axis))


def gathered(
    x: mx.array, exchange: Exchange, axis: int, group: Group, dtype: mx.Dtype | None = None
) -> mx.array:
    """The samples that this rank has after an exchange.

    Args:
        x (array): The piece that it holds before.
        exchange (Exchange): The plan, the same on all ranks.
        axis (int): The axis along which the sequence is cut.
        group (Group): The ranks.
        dtype (Dtype, optional): The type of the result, in which its gradient is summed
            before it is rounded. Samples travel in the type of `x`. Default: the type of `x`.

    Returns:
        array: Evaluated.
    """

    @mx.custom_function
    def gather(x: mx.array) -> mx.array:
        return _gather(x, exchange, axis, group).astype(dtype or x.dtype)

    @gather.vjp
    def pull_back(x: mx.array, dy: mx.array, _: Any) -> mx.array:
        return _collected(dy, exchange, axis, group).astype(x.dtype)

    return gather(x)


def _collected(y: mx.array, exchange: Exchange, axis: int, group: Group) -> mx.array:
    """The transpose of `gathered`: a rank sends back the gradients of what it was sent.

    The rank that holds a sample adds these up.
    """

    @mx.custom_function
    def collect(y: mx.array) -> mx.array:
        return _collect(y, exchange, axis, group)

    @collect.vjp
    def pull_back(y: mx.array, dx: mx.array, _: Any) -> mx.array:
        return gathered(dx, exchange, axis, group)

    return collect(y)


def _gather(x: mx.array, exchange: Exchange, axis: int, group: Group) -> mx.array:
    rank = group.rank()
    held, wanted = exchange.sharding.spans[rank], exchange.spans[rank]
    evaluate(x)
    pieces = {
        each: _cut(x, axis, held, each.span) for each in exchange.transfers if each.source == rank
    }
    came = exchanged(pieces, exchange.transfers, exchange.messages, x, axis, group)
    own = common(held, wanted)
    parts = [] if own is None else [(own, _cut(x, axis, held, own))]
    parts = sorted(parts + [(each.span, piece) for each, piece in came.items()], key=_begin)
    if not parts:
        return _cut(x, axis, held, (held[0], held[0]))
    return parts[0][1] if len(parts) == 1 else mx.concatenate([part for _, part in parts], axis)


def _collect(y: mx.array, exchange: Exchange, axis: int, group: Group) -> mx.array:
    rank = group.rank()
    held, wanted = exchange.sharding.spans[rank], exchange.spans[rank]
    evaluate(y)
    back = exchange.transfers_back
    pieces = {each: _cut(y, axis, wanted, each.span) for each in back if each.source == rank}
    came = exchanged(pieces, back, exchange.messages_back, y, axis, group)
    parts = [(each.span, came[each]) for each in sorted(came)]
    own = common(held, wanted)
    if own is not None:
        parts.insert(0, (own, _cut(y, axis, wanted, own)))
    total = mx.zeros((*y.shape[:axis], held[1] - held[0], *y.shape[axis + 1 :]), y.dtype)
    for span, part in parts:
        total = total + pad(part, axis, span[0] - held[0], held[1] - span[1])
    return total


def _begin(part: tuple[Span, mx.array]) -> int:
    return part[0][0]


def _cut(x: mx.array, axis: int, held: Span, span: Span) -> mx.array:
    return cut(x, axis, span[0] - held[0], span[1] - held[0], 1)
