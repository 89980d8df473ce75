"""What did the caller write? Ints, pairs and switches, from whatever form they came in.

Every error of the library has the one form that `refuse` gives it. Standard library only.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import NoReturn

_LONGEST_SHOWN = 80


class NoRoomError(ValueError):
    """What is to be computed does not fit into the memory that may be used."""


def refuse(op: str, must: str, got: str, error: type[ValueError] = ValueError) -> NoReturn:
    """Raises `[op] what must hold; got what`."""
    raise error(f"[{op}] {must}; got {got}")


def shown(value: object) -> str:
    """A value as its repr, on one line and not too long."""
    text = " ".join(repr(value).split())
    return text if len(text) <= _LONGEST_SHOWN else f"{text[: _LONGEST_SHOWN - 3]}..."


def per_axis(op: str, name: str, value: object, ndim: int) -> tuple[int, ...]:
    """Reads an int, or a sequence of `ndim` ints, as one int per spatial axis.

    >>> per_axis("conv_transpose3d", "stride", (2, 2), 3)
    Traceback (most recent call last):
    ...
    ValueError: [conv_transpose3d] stride must be an int or 3 ints, one per spatial axis; got (2, 2)
    """
    if type(value) is int:
        return (value,) * ndim
    items = _items(value)
    ints = [_int(item) for item in ([value] * ndim if items is None else items)]
    numbers = tuple(number for number in ints if number is not None)
    if len(numbers) == len(ints) == ndim:
        return numbers
    count = "1 int" if ndim == 1 else f"{ndim} ints, one per spatial axis"
    refuse(op, f"{name} must be an int or {count}", shown(value))


def broadcast_axes(op: str, name: str, value: object, ndim: int, default: int) -> tuple[int, ...]:
    """As `per_axis`, and as `mx.conv_general`: one item serves all axes, none is the default."""
    items = _items(value)
    if items is not None and len(items) == 0:
        return (default,) * ndim
    if items is not None and len(items) == 1 and _items(items[0]) is None:
        value = [*items] * ndim
    return per_axis(op, name, value, ndim)


def padding_pair(op: str, value: object, ndim: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Reads `conv_general`'s padding: an int, one int per axis, or a pair `([lo...], [hi...])`."""
    items = _items(value)
    if items is not None and len(items) == 2 and None not in map(_items, items):
        return (
            broadcast_axes(op, "padding_lo", items[0], ndim, 0),
            broadcast_axes(op, "padding_hi", items[1], ndim, 0),
        )
    both = broadcast_axes(op, "padding", value, ndim, 0)
    return both, both


def transposed_options(
    op: str,
    ndim: int,
    stride: object = 1,
    padding: object = 0,
    dilation: object = 1,
    output_padding: object = 0,
    groups: object = 1,
) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...], tuple[int, ...], int]:
    """Reads the options of `conv_transpose1d/2d/3d`, in their order."""
    return (
        per_axis(op, "stride", stride, ndim),
        per_axis(op, "padding", padding, ndim),
        per_axis(op, "dilation", dilation, ndim),
        per_axis(op, "output_padding", output_padding, ndim),
        count(op, "groups", groups),
    )


def general_options(
    op: str,
    ndim: int,
    stride: object = 1,
    padding: object = 0,
    kernel_dilation: object = 1,
    input_dilation: object = 1,
    groups: object = 1,
    flip: object = False,
) -> tuple[
    tuple[int, ...],
    tuple[tuple[int, ...], tuple[int, ...]],
    tuple[int, ...],
    tuple[int, ...],
    int,
    bool,
]:
    """Reads the options of `conv_general`, in their order."""
    return (
        broadcast_axes(op, "stride", stride, ndim, 1),
        padding_pair(op, padding, ndim),
        broadcast_axes(op, "kernel_dilation", kernel_dilation, ndim, 1),
        broadcast_axes(op, "input_dilation", input_dilation, ndim, 1),
        count(op, "groups", groups),
        switch(op, "flip", flip),
    )


def count(op: str, name: str, value: object) -> int:
    """Reads one int of at least 1, such as `groups`; a bool is somebody's `bias`."""
    number = None if isinstance(value, bool) else _int(value)
    if number is None:
        refuse(op, f"{name} must be an int", shown(value))
    return positive(op, name, number)


def positive(op: str, name: str, value: int) -> int:
    """Refuses what is below 1."""
    if value < 1:
        refuse(op, f"{name} must be at least 1", str(value))
    return value


def switch(op: str, name: str, value: object) -> bool:
    """Reads a bool, such as `flip`."""
    if not isinstance(value, bool):
        refuse(op, f"{name} must be True or False", shown(value))
    return value


def _int(value: object) -> int | None:
    try:
        return operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        return None


def _items(value: object) -> Sequence[object] | None:
    """The items of a list, tuple or one-dimensional array; None for anything else."""
    if isinstance(value, (list, tuple)):
        return value
    if getattr(value, "ndim", 0) and hasattr(value, "tolist"):
        return list(value.tolist())
    return None
