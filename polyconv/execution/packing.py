"""Which weights are cut into taps once, and kept for all calls?"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import mlx.core as mx

from polyconv.execution.cutting import cutter
from polyconv.execution.identity import handle_of, is_traced
from polyconv.planning.plan import ConvPlan

Call: TypeAlias = "Callable[[mx.array], mx.array]"

# A model calls a weight with a few lengths. A program that never repeats one must not keep all.
_MOST_CALLS = 64


class PackedWeight:
    """A weight that is cut into taps once, for functions that are called with it again and again.

    Made by :func:`polyconv.pack`. What is kept belongs to this object and to its `array`, which
    cannot be exchanged, so it cannot grow stale. It is evaluated when it is made, so that any
    thread may use it. Where it is made inside a gradient of the array, it has that gradient.
    """

    def __init__(self, w: mx.array) -> None:
        self._w = handle_of(w)
        self.shape: tuple[int, ...] = w.shape
        self.dtype: mx.Dtype = w.dtype
        self._taps: dict[object, list[mx.array]] = {}
        self.calls: dict[object, Call] = {}
        self._has_numbers = evaluate([self._w])
        self._is_constant = self._has_numbers and not is_traced([self._w])

    @property
    def array(self) -> mx.array:
        """The weight as it was given, as a new array object, which the caller may change."""
        return handle_of(self._w)

    @property
    def has_numbers(self) -> bool:
        """False if it was made where `mx.compile` or `mx.vmap` trace. It is then a plain weight."""
        return self._has_numbers

    @property
    def is_constant(self) -> bool:
        """False if it was made where a gradient of it may be asked for."""
        return self._is_constant

    def taps_of(self, plan: ConvPlan) -> list[mx.array]:
        """What `cutter(plan)` makes, kept for all plans that cut alike, whatever their lengths.

        They have no gradient. The map that computes with them has its own rule for `array`.
        """
        if plan.is_zero:
            return []
        key = plan.packing_key
        found = self._taps.get(key)
        if found is None:  # by several threads at once, perhaps: they find the same
            found = cutter(plan)(mx.stop_gradient(self._w))
            evaluate(found)
            self._taps[key] = found
        return found

    def keep_call(self, key: object, call: Call) -> Call:
        """Keeps what computes with this weight in `calls`, which is emptied where it is full."""
        if len(self.calls) >= _MOST_CALLS:
            self.calls = {}
        self.calls[key] = call
        return call

    def __getstate__(self) -> dict[str, object]:
        """What is pickled and copied: the weight. It is cut up again when it is used."""
        of_weight = ("_w", "_has_numbers", "_is_constant")
        return {name: getattr(self, name) for name in of_weight}

    def __setstate__(self, state: dict[str, Any]) -> None:
        w = state["_w"]
        kept: dict[str, Any] = {"_taps": {}, "calls": {}}
        vars(self).update(state | kept | {"shape": w.shape, "dtype": w.dtype})

    def __repr__(self) -> str:
        return f"PackedWeight(shape={self.shape}, dtype={self.dtype})"


def evaluate(arrays: list[mx.array]) -> bool:
    """Evaluates them, unless MLX traces what they depend on, as for `mx.compile` or `mx.vmap`.

    From MLX 0.31.2 on only the thread that made an array can evaluate it. So what is kept for all
    threads is evaluated before another thread sees it. The answer is whether they were evaluated.
    """
    try:
        mx.eval(arrays)
    except ValueError:
        return False
    return True
