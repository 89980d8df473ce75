"""Which weights of a converted layer are computed in another form than they are held in?"""

from __future__ import annotations

from typing import Any

import mlx.core as mx

from polyconv.execution.identity import Held
from polyconv.execution.packing import PackedWeight
from polyconv.models.block_diagonal import diagonal
from polyconv.ops.conv_transpose import pack


class KnownWeight:
    """A weight as it was when its layer was converted: its blocks, and whether it is packed."""

    def __init__(self, weight: mx.array, n_blocks: int, is_packed: bool) -> None:
        self._held, self.n_blocks, self._is_packed = Held(weight), n_blocks, is_packed
        self._packed: PackedWeight | None = None
        if is_packed:
            self.stand_in(weight)

    @property
    def is_packed(self) -> bool:
        return self._is_packed

    @property
    def if_changed(self) -> str:
        """What a user is told if the layer has another one by now."""
        kind, how = ("block-diagonal", "densely") if self.n_blocks > 1 else ("packed", "unpacked")
        return f"its {kind} weight was replaced or changed and is computed {how}"

    def holds(self, weight: Any) -> bool:
        """Whether it is this very weight, and was not changed in place."""
        return self._held.holds(weight)

    def is_of(self, weight: Any) -> bool:
        """Whether it is this very weight, which was just asked to be what it `holds`."""
        return self._held.is_of(weight)

    def stand_in(self, weight: mx.array) -> mx.array | PackedWeight:
        """What is computed with, in place of the weight that is held, by `n_blocks` groups."""
        if self._packed is not None:
            return self._packed
        blocks = diagonal(weight, self.n_blocks) if self.n_blocks > 1 else weight
        if not self._is_packed:
            return blocks
        self._packed = packed = pack(blocks)
        return packed

    def __getstate__(self) -> dict[str, Any]:
        """Pickled and copied without what is packed, which is packed again at the next call."""
        return vars(self) | {"_packed": None}
