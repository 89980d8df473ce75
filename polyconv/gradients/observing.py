"""Who is told of each convolution that is computed?"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeAlias

from polyconv.problem.spec import ConvSpec

Observer: TypeAlias = "Callable[[str, ConvSpec], None]"

OBSERVER: ContextVar[Observer | None] = ContextVar("observer", default=None)


@contextmanager
def observed(observer: Observer) -> Iterator[None]:
    """Tells `observer` the op and the convolution of each call."""
    token = OBSERVER.set(observer)
    try:
        yield
    finally:
        OBSERVER.reset(token)


def tell(op: str, spec: ConvSpec) -> None:
    """Every way of computing a call calls this, so that an observer misses none."""
    observer = OBSERVER.get()
    if observer is not None:
        observer(op, spec)
