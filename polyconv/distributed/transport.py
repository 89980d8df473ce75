"""Messages between neighbouring ranks, in the order of a plan.

MLX's messages have no labels: a rank receives what its neighbour sent first. In a lazy graph the
order would be the graph's, which may differ from rank to rank. So each message is sent at once. All
ranks run the same program, so they send and receive in the same order.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, TypeAlias

import mlx.core as mx

from polyconv.distributed.sharding import Message, Transfer
from polyconv.execution.arrays import contiguous, cut
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

    :func:`traffic` makes it.
    """

    bytes_sent: int = 0
    bytes_received: int = 0
    messages: int = 0


_TRAFFIC: ContextVar[Traffic | None] = ContextVar("traffic", default=None)


@contextmanager
def traffic() -> Iterator[Traffic]:
    """Counts what this rank sends and receives inside.

    Yields:
        Traffic: Bytes and messages, counted on as they pass.
    """
    counted = Traffic()
    token = _TRAFFIC.set(counted)
    try:
        yield counted
    finally:
        _TRAFFIC.reset(token)


def pass_on(
    pieces: Pieces, messages: Sequence[Message], like: mx.array, axis: int, group: Group
) -> Pieces:
    """Sends and receives the messages of this rank, in their order.

    Returns:
        dict: The pieces whose target is this rank.
    """
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
    counted = _TRAFFIC.get()
    if counted is not None:
        counted.bytes_sent += payload.nbytes
        counted.messages += 1


def _receive(message: Message, like: mx.array, axis: int, group: Group) -> Pieces:
    shape = (*like.shape[:axis], message.size, *like.shape[axis + 1 :])
    payload = mx.distributed.recv(shape, like.dtype, message.sender, group=group)
    mx.eval(payload)
    counted = _TRAFFIC.get()
    if counted is not None:
        counted.bytes_received += payload.nbytes
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
