"""Who is told of each convolution that is computed?"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeAlias

from polyconv.problem.spec import ConvSpec

Observer: TypeAlias = "Callable[[str, ConvSpec, bool], None]"

OBSERVER: ContextVar[Observer | None] = ContextVar("observer", default=None)


@contextmanager
def observed(observer: Observer) -> Iterator[None]:
    """Tells `observer` of each call: op, convolution, and whether the weight is packed."""
    token = OBSERVER.set(observer)
    try:
        yield
    finally:
        OBSERVER.reset(token)


def tell(op: str, spec: ConvSpec, packed: bool = False) -> None:
    """Every way of computing a call calls this, so that an observer misses none."""
    observer = OBSERVER.get()
    if observer is not None:
        observer(op, spec, packed)
