"""What did the caller write? Ints, pairs and switches, from whatever form they came in.

Every error of the library has the one form that `refuse` gives it. Standard library only.
"""

from __future__ import annotations

import numbers
import operator
import reprlib
from collections.abc import Callable, Collection, Sequence
from typing import Any, NoReturn

_LONGEST_SHOWN = 80
_LONGEST = 290
# No machine has sizes beyond this, and Python does not print all such numbers.
_MOST = 2**63
_LONGEST_READ = 8

# It shows the ends of a long value without making the whole text.
_SHORT = reprlib.Repr()
_SHORT.maxlist = _SHORT.maxtuple = _SHORT.maxdict = _SHORT.maxset = _SHORT.maxfrozenset = 40
_SHORT.maxlong = _SHORT.maxstring = _SHORT.maxother = _LONGEST_SHOWN


class NoRoomError(ValueError):
    """What is to be computed does not fit into the memory that may be used.

    `least` bytes would do. It is None where a result alone is too large.
    """

    def __init__(self, text: str, least: int | None = None) -> None:
        super().__init__(text)
        self.least = least


class FatalError(ValueError):
    """MLX would not refuse the argument, but end the process."""


def refuse(
    op: str, must: str, got: str, error: Callable[[str], ValueError] = ValueError
) -> NoReturn:
    """Raises `[op] what must hold; got what`, on one line and not too long."""
    most = max(_LONGEST_SHOWN // 2, _LONGEST - len(op) - len(must))
    raise error(f"[{op}] {must}; got {one_line(got, most)}")


def shown(value: object) -> str:
    """A value as its repr, on one line and not too long; of large arrays the shape."""
    if getattr(value, "ndim", 0) and _size(value) > _LONGEST_SHOWN:
        return f"{type(value).__name__} of shape {value.shape}"  # type: ignore[attr-defined]
    try:
        return one_line(_SHORT.repr(value), _LONGEST_SHOWN)
    except Exception:  # a `__repr__` of the caller's, or an int of thousands of digits
        return f"{type(value).__name__} that has no repr"


def one_line(text: str, most: int) -> str:
    """A text on one line, and not longer than so many characters."""
    text = " ".join(text.split())
    return text if len(text) <= most else f"{text[: most - 3]}..."


def per_axis(op: str, name: str, value: object, ndim: int) -> tuple[int, ...]:
    """Reads an int, or a sequence of `ndim` ints, as one int per spatial axis.

    >>> per_axis("conv_transpose3d", "stride", (2, 2), 3)
    Traceback (most recent call last):
    ...
    ValueError: [conv_transpose3d] stride must be an int or 3 ints, one per spatial axis; got (2, 2)
    """
    if type(value) is int and -_MOST < value < _MOST:
        return (value,) * ndim
    items = _items(value)
    items = [value] * ndim if items is None else items
    ints = [_int(item) for item in items] if len(items) == ndim else []
    read = tuple(number for number in ints if number is not None)
    if len(read) == ndim:
        for number in read:
            _check_64_bits(op, name, number)
        return read
    count = "1 int" if ndim == 1 else f"{ndim} ints, one per spatial axis"
    refuse(op, f"{name} must be an int or {count}", shown(value))


def is_exact(options: tuple[object, ...]) -> bool:
    """Whether all are ints or tuples of ints, so that equal options mean the same.

    ``1.0`` and ``True`` equal 1, but no op takes them. The sixth, `flip`, is a bool.
    """
    for value in options[:5]:
        if type(value) is not int and (type(value) is not tuple or {*map(type, value)} != {int}):
            return False
    return len(options) < 6 or type(options[5]) is bool


def broadcast_axes(op: str, name: str, value: object, ndim: int, default: int) -> tuple[int, ...]:
    """As `per_axis`. As in `mx.conv_general` one item serves all axes, and none is the default."""
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


def count(op: str, name: str, value: object) -> int:
    """Reads one int of at least 1, such as `groups`; a bool is somebody's `bias`."""
    number = None if isinstance(value, bool) else _int(value)
    if number is None:
        refuse(op, f"{name} must be an int", shown(value))
    _check_64_bits(op, name, number)
    return positive(op, name, number)


def groups(op: str, value: object) -> int:
    """Reads the number of groups."""
    check_groups(op, value)
    return count(op, "groups", value)


def check_groups(op: str, value: object) -> None:
    """Refuses ints below 1. MLX divides by groups before it looks at them."""
    number = _int(value)
    if number is not None and number < 1 and not isinstance(value, bool):
        refuse(op, "groups must be at least 1", shown(number), FatalError)


def sizes(op: str, name: str, value: Any) -> tuple[int, ...]:
    """Reads a shape."""
    must = f"{name} must be a shape, ints in a list or tuple"
    if is_array(value) and (value.ndim > 1 or _size(value) > _LONGEST_READ):
        refuse(op, must, f"an array of shape {tuple(value.shape)}")
    items = _items(value)
    ints = [_int(item) for item in items] if items is not None else [None]
    read = tuple(number for number in ints if number is not None)
    if len(read) < len(ints):
        refuse(op, must, shown(value))
    if min(read, default=0) < 0:
        refuse(op, f"sizes of {name} must be at least 0", shown(value))
    for number in read:
        _check_64_bits(op, f"sizes of {name}", number)
    return read


def positive(op: str, name: str, value: int) -> int:
    """Refuses what is below 1."""
    if value < 1:
        refuse(op, f"{name} must be at least 1", str(value))
    return value


def integer(op: str, name: str, value: object) -> int:
    """Reads one int of any sign, such as an axis."""
    number = None if isinstance(value, bool) else _int(value)
    if number is None:
        refuse(op, f"{name} must be an int", shown(value))
    _check_64_bits(op, name, number)
    return number


def real(op: str, name: str, value: object) -> float:
    """Reads one real number."""
    if isinstance(value, numbers.Real) and not isinstance(value, bool):
        try:
            return float(value)
        except (OverflowError, ValueError):
            pass
    refuse(op, f"{name} must be a real number", shown(value))


def choice(op: str, name: str, value: object, options: Collection[str]) -> str:
    """Reads one of some words."""
    if not isinstance(value, str) or value not in options:
        refuse(op, f"{name} must be one of {', '.join(options)}", shown(value))
    return value


def switch(op: str, name: str, value: object) -> bool:
    """Reads a bool, such as `flip`."""
    if not isinstance(value, bool):
        refuse(op, f"{name} must be True or False", shown(value))
    return value


def _int(value: object) -> int | None:
    try:
        return operator.index(value)  # type: ignore[arg-type]
    except Exception:  # `TypeError`, or what an `__index__` of the caller's raises
        return None


def _check_64_bits(op: str, name: str, number: int) -> None:
    if not -_MOST < number < _MOST:
        refuse(op, f"{name} must fit in 64 bits", shown(number))


def is_array(value: Any) -> bool:
    """Whether it has axes, as the arrays of all libraries have."""
    return isinstance(getattr(value, "ndim", None), int) and hasattr(value, "shape")


def _items(value: object) -> Sequence[object] | None:
    """The items of a list, tuple or one-dimensional array; None for anything else."""
    if isinstance(value, (list, tuple)):
        return value
    if getattr(value, "ndim", 0) and hasattr(value, "tolist"):
        # A view may be far larger than its memory; what is too long is refused by its length.
        size = _size(value)
        return list(value.tolist()) if size <= _LONGEST_READ else range(size)
    return None


def _size(value: object) -> int:
    size = getattr(value, "size", 0)
    return size if isinstance(size, int) else 0
