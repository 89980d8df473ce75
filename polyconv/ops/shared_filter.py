"""Calls with one filter for all channels: it becomes one matrix, or is repeated per channel."""

from __future__ import annotations

import mlx.core as mx

from polyconv.execution.arrays import contiguous, summed_in
from polyconv.execution.device import StreamOrDevice, on
from polyconv.execution.memory import has_room
from polyconv.execution.packing import PackedWeight
from polyconv.execution.toeplitz import filtered
from polyconv.gradients.bilinear import Call, call_of
from polyconv.gradients.observing import tell
from polyconv.planning.request import Request
from polyconv.planning.shared_filter import bytes_needed, least_room, of_all_channels
from polyconv.problem.spec import ConvSpec


class SharedFilter:
    """Computes such calls. `request` is for a single channel."""

    def __init__(
        self, request: Request, channels: int, stream: StreamOrDevice, exporting: bool
    ) -> None:
        self._op, self._one, self._stream = request.op, request.spec, stream
        self._spec = of_all_channels(self._one, channels)
        self._device = request.device
        needed = bytes_needed(self._one, channels, self._device)
        most = request.max_workspace
        self._least = None if needed is None else least_room(self._one, channels, needed, most)
        self._others = Request(self._op, self._spec, "auto", self._device, most, needed)
        self._exporting = exporting
        self._by_channels: Call | None = None
        if not self._takes_matrix():
            self._by_channels = self._made()  # refuses what does not fit before any work is done

    def __call__(self, x: mx.array, w: mx.array | PackedWeight) -> mx.array:
        plain = w.array if isinstance(w, PackedWeight) else w
        if not self._takes_matrix():
            call = self._by_channels = self._by_channels or self._made()
            return call(x, _for_each_channel(plain, self._spec))
        tell(self._op, self._spec)
        dtype = getattr(mx, self._spec.dtype)
        with on(self._stream):
            h = plain.astype(dtype).reshape(-1)
            return filtered(x.astype(dtype), h, self._one.axes[0], self._one.flip)

    def _takes_matrix(self) -> bool:
        return self._least is not None and has_room(self._least, self._device)

    def _made(self) -> Call:
        return call_of(self._others, self._stream, mx.array, self._exporting)


def _for_each_channel(w: mx.array, spec: ConvSpec) -> mx.array:
    """The filter, repeated for each channel.

    Halves become float32, since the filter's gradient is a sum over channels.
    """
    wide = w.astype(summed_in(w.dtype))
    return contiguous(mx.broadcast_to(wide, (spec.groups, *w.shape[1:])))
