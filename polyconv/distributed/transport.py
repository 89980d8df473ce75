"""How does what ranks hold get to other ranks, in the order of a plan?

Neighbours send each other messages. MLX's have no labels: a rank receives what its neighbour sent
first. In a lazy graph the order would be the graph's, which may differ from rank to rank. So each
message is sent at once. All ranks run the same program, so they send and receive in the same order.

Where a group cannot send, as MLX's NCCL cannot, all ranks gather what any of them gives.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from typing import Any, TypeAlias

import mlx.core as mx

from polyconv.distributed.sharding import Message, Transfer, given_by, most_given
from polyconv.execution.arrays import contiguous, cut, pad
from polyconv.execution.open_blocks import OpenBlocks
from polyconv.problem import arguments

Group: TypeAlias = "mx.distributed.Group"
Pieces: TypeAlias = "dict[Transfer, mx.array]"


def group_of(op: str, group: Any) -> Group:
    """The group that is given, or else that of all ranks."""
    if group is None:
        return mx.distributed.init()
    if not isinstance(group, mx.distributed.Group):
        arguments.refuse(op, "group must be one of mx.distributed", arguments.shown(group))
    return group


@dataclass
class Traffic:
    """How much this rank sent and received: samples and their gradients.

    :func:`traffic` makes it. Where a group cannot send, what a rank gives to all counts as sent
    once.
    """

    bytes_sent: int = 0
    bytes_received: int = 0
    messages: int = 0


_TRAFFIC: OpenBlocks[Traffic] = OpenBlocks("traffic")


@contextmanager
def traffic() -> Iterator[Traffic]:
    """Counts what this rank sends and receives inside.

    Yields:
        Traffic: Bytes and messages, counted on as they pass.
    """
    counted = Traffic()
    with _TRAFFIC.holding(counted):
        yield counted


def _count(sent: int, received: int) -> None:
    for counted in _TRAFFIC.values():
        counted.bytes_sent += sent
        counted.bytes_received += received
        counted.messages += sent > 0


def exchanged(
    pieces: Pieces,
    transfers: Sequence[Transfer],
    messages: Sequence[Message],
    like: mx.array,
    axis: int,
    group: Group,
) -> Pieces:
    """Brings the pieces that this rank holds to their targets. All ranks must call it.

    Args:
        pieces (dict): What this rank holds of `transfers`.
        transfers (list(Transfer)): All that any rank lacks.
        messages (list(Message)): The messages that carry them, in the order to keep to.
        like (array): Tells the dtype, and the shape but for `axis`.
        axis (int): The axis along which the sequence is cut.
        group (Group): The ranks.

    Returns:
        dict: The pieces whose target is this rank.
    """
    if not transfers:
        return {}
    if can_send(group):
        return _passed_on(pieces, messages, like, axis, group)
    return _gathered(pieces, transfers, like, axis, group)


# By size and rank of a group, which is all that MLX tells of it.
_CAN_SEND: dict[tuple[int, int], bool] = {}


def can_send(group: Group) -> bool:
    """Whether ranks of this group can send to each other. The first time all ranks must ask.

    Nothing tells what a group can do, so each rank sends one number to the next.
    """
    known = (group.size(), group.rank())
    if known not in _CAN_SEND:
        _CAN_SEND[known] = _tried(group)
    return _CAN_SEND[known]


def _tried(group: Group) -> bool:
    """Whether a number goes from each rank to the next. Every second rank receives first."""
    rank, one = group.rank(), mx.zeros((1,))
    steps: list[Callable[[], mx.array]] = []
    if rank + 1 < group.size():
        steps.append(lambda: mx.distributed.send(one, rank + 1, group=group))
    if rank > 0:
        steps.append(lambda: mx.distributed.recv((1,), mx.float32, rank - 1, group=group))
    if rank % 2:
        steps.reverse()
    try:
        for step in steps:
            mx.eval(step())
    except RuntimeError:  # also if a rank is lost, which the exchange itself will say
        return False
    return True


def _gathered(
    pieces: Pieces, transfers: Sequence[Transfer], like: mx.array, axis: int, group: Group
) -> Pieces:
    """All ranks get what any rank gives, and take what is for them.

    Each gives as many samples as the one that gives most, as gathered arrays must be alike.
    """
    before, behind = like.shape[:axis], like.shape[axis + 1 :]
    frame = prod((*before, *behind))
    most = most_given(transfers, group.size()) * frame
    mine = [pieces[each].reshape(-1) for each in given_by(group.rank(), transfers)]
    payload = mx.concatenate([*mine, mx.zeros((0,), like.dtype)])
    payload = contiguous(pad(payload, 0, 0, most - payload.size))
    everything = payload
    if most:  # a batch may be empty
        everything = mx.distributed.all_gather(payload, group=group)
        mx.eval(everything)
        _count(payload.nbytes, everything.nbytes - payload.nbytes)
    found = {}
    for source in range(group.size()):
        start = source * most
        for each in given_by(source, transfers):
            stop = start + each.size * frame
            if each.target == group.rank():
                part = cut(everything, 0, start, stop, 1)
                found[each] = part.reshape(*before, each.size, *behind)
            start = stop
    return found


def _passed_on(
    pieces: Pieces, messages: Sequence[Message], like: mx.array, axis: int, group: Group
) -> Pieces:
    """Sends and receives the messages of this rank, in their order."""
    rank, pieces = group.rank(), dict(pieces)
    for message in messages:
        if message.sender == rank:
            _send([pieces.pop(each) for each in message.transfers], message, axis, group)
        elif message.receiver == rank:
            pieces.update(_receive(message, like, axis, group))
    return pieces


def _send(parts: list[mx.array], message: Message, axis: int, group: Group) -> None:
    payload = contiguous(parts[0] if len(parts) == 1 else mx.concatenate(parts, axis))
    mx.eval(mx.distributed.send(payload, message.receiver, group=group))
    _count(payload.nbytes, 0)


def _receive(message: Message, like: mx.array, axis: int, group: Group) -> Pieces:
    shape = (*like.shape[:axis], message.size, *like.shape[axis + 1 :])
    payload = mx.distributed.recv(shape, like.dtype, message.sender, group=group)
    mx.eval(payload)
    _count(0, payload.nbytes)
    found, start = {}, 0
    for each in message.transfers:
        found[each] = cut(payload, axis, start, start + each.size, 1)
        start += each.size
    return found


def evaluate(x: mx.array) -> None:
    try:
        mx.eval(x)
    except ValueError:
        must = "messages between ranks must be sent outside of mx.compile and mx.vmap"
        arguments.refuse("distributed", must, "a call inside")


def summed_gradient(w: mx.array, group: Group) -> mx.array:
    """`w`, which all ranks have; its gradient is the sum of those of all ranks."""
    if group.size() == 1:
        return w

    @mx.custom_function
    def same(w: mx.array) -> mx.array:
        return w

    @same.vjp
    def pull_back(w: mx.array, dw: mx.array, _: Any) -> mx.array:
        evaluate(dw)
        total = mx.distributed.all_sum(dw, group=group)
        mx.eval(total)
        return total

    return same(w)
