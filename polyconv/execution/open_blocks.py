"""What do the open blocks of this thread or task ask for?"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Generic, TypeVar

T = TypeVar("T")


class OpenBlocks(Generic[T]):
    """The values of `with` blocks that are open in this thread or task.

    Blocks may end in any order. Each takes its own value away, and no other.
    One that ends in another thread or task stays open in the one where it was opened.
    """

    def __init__(self, name: str) -> None:
        # The values by block. A block is known by its object, as two may have equal values.
        self._open: ContextVar[tuple[tuple[object, T], ...]] = ContextVar(name, default=())
        # Whether any is open. Each call asks this, so it is no method, which would cost a frame.
        self.any: Callable[[], object] = self._open.get

    @contextmanager
    def holding(self, value: T) -> Iterator[None]:
        """Holds a value until the end of this block."""
        block = object()
        self._open.set((*self._open.get(), (block, value)))
        try:
            yield
        finally:
            self._open.set(tuple([each for each in self._open.get() if each[0] is not block]))

    def values(self) -> list[T]:
        """Those of all blocks, the innermost last."""
        return [value for _, value in self._open.get()]

    def innermost(self) -> T | None:
        """That of the block that was opened last, None if there is none."""
        blocks = self._open.get()
        return blocks[-1][1] if blocks else None
