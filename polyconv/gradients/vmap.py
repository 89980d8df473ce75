"""Which larger problem is a convolution under `mx.vmap`?

The mapped axis becomes more batch, more output channels or more groups.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import mlx.core as mx

from polyconv.execution.arrays import summed_in
from polyconv.planning.request import Kind
from polyconv.problem.spec import ConvSpec


class Folded(NamedTuple):
    """One problem for all mapped items, its arrays, and where its result has the mapped axis."""

    spec: ConvSpec
    arrays: list[mx.array]
    place: type[_Batch | _Channels]
    n_maps: int

    def unfold(self, kind: Kind, result: mx.array) -> mx.array:
        """The result, with the mapped axis in front."""
        return self.place.unfold(kind, result, self.n_maps)


def fold(
    spec: ConvSpec, kinds: Sequence[Kind], arrays: Sequence[mx.array], axes: Sequence[int | None]
) -> Folded:
    """Folds the mapped axis of a map's arguments into a larger problem.

    Args:
        spec (ConvSpec): The problem of one mapped item.
        kinds (list): The kinds of the arguments: two of ``"x"``, ``"w"`` and ``"y"``.
        arrays (list(array)): The arguments.
        axes (list(int)): Their mapped axes. None for an argument that all items share.
    """
    n = next(a.shape[i] for a, i in zip(arrays, axes, strict=True) if i is not None)
    unmapped = [kind for kind, axis in zip(kinds, axes, strict=True) if axis is None]
    place: type[_Batch | _Channels] = _Channels
    if unmapped == ["w"]:
        more, place = replace(spec, batch=n * spec.batch), _Batch
    elif unmapped == ["x"] and spec.groups == 1:
        more = replace(spec, out_channels=n * spec.out_channels)
    else:
        sizes = (n * spec.in_channels, n * spec.out_channels, n * spec.groups)
        more = replace(spec, in_channels=sizes[0], out_channels=sizes[1], groups=sizes[2])
        unmapped = []
    folded = [
        a if kind in unmapped else place.fold(kind, a, axis, n)
        for kind, a, axis in zip(kinds, arrays, axes, strict=True)
    ]
    return Folded(more, folded, place, n)


class _Batch:
    """The mapped axis in front of the batch."""

    @staticmethod
    def fold(kind: Kind, array: mx.array, axis: int | None, n_maps: int) -> mx.array:
        return mx.moveaxis(array, axis, 0).flatten(0, 1)

    @staticmethod
    def unfold(kind: Kind, array: mx.array, n_maps: int) -> mx.array:
        return array.reshape(n_maps, array.shape[0] // n_maps, *array.shape[1:])


class _Channels:
    """The mapped axis in front of the channels, which are a weight's first axis."""

    @staticmethod
    def fold(kind: Kind, array: mx.array, axis: int | None, n_maps: int) -> mx.array:
        if axis is None:
            wide = array.astype(summed_in(array.dtype))  # its gradient is a sum over the items
            array, axis = mx.broadcast_to(wide, (n_maps, *array.shape)), 0
        if kind == "w":
            return mx.moveaxis(array, axis, 0).flatten(0, 1)
        return mx.moveaxis(array, axis, -2).flatten(-2, -1)

    @staticmethod
    def unfold(kind: Kind, array: mx.array, n_maps: int) -> mx.array:
        if kind == "w":
            return _Batch.unfold(kind, array, n_maps)
        array = array.reshape(*array.shape[:-1], n_maps, array.shape[-1] // n_maps)
        return mx.moveaxis(array, -2, 0)
