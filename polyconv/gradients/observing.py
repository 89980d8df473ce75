"""Who is told of each convolution that is computed?"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TypeAlias

from polyconv.execution.open_blocks import OpenBlocks
from polyconv.problem.spec import ConvSpec

Observer: TypeAlias = "Callable[[str, ConvSpec, bool], None]"

OBSERVERS: OpenBlocks[Observer] = OpenBlocks("observers")


def observed(observer: Observer) -> AbstractContextManager[None]:
    """Tells `observer` of each call: op, convolution, and whether the weight is packed."""
    return OBSERVERS.holding(observer)


def tell(op: str, spec: ConvSpec, packed: bool = False) -> None:
    """Every way of computing a call calls this, so that an observer misses none."""
    for observer in OBSERVERS.values():
        observer(op, spec, packed)
