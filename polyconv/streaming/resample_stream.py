"""Resampling of a signal that comes in chunks: `resample_poly` as a stream."""

from __future__ import annotations

import mlx.core as mx
import numpy as np

from polyconv.execution.identity import handle_of
from polyconv.ops import conv_transpose
from polyconv.problem import arguments
from polyconv.streaming.boundary import Array
from polyconv.streaming.filter_design import Window, design, lowest_terms, read_reals
from polyconv.streaming.functional import stream_flush, stream_init, stream_step

# What `up` and `down` are called here, for errors.
_RATES = ("out_rate", "in_rate")


class ResampleStream:
    """Resamples a signal that comes in chunks, as `soxr.ResampleStream` does.

    The outputs of all chunks, concatenated, are `resample_poly` of the whole signal.

    Args:
        in_rate (int): Samples per second of the input.
        out_rate (int): Samples per second of the output.
        num_channels (int, optional): Channels. Default: ``1``.
        window (str, tuple or array, optional): As for :func:`resample_poly`.

    Raises:
        ValueError: If a rate or the number of channels is no positive integer.
    """

    def __init__(
        self,
        in_rate: int,
        out_rate: int,
        num_channels: int = 1,
        *,
        window: Window = ("kaiser", 5.0),
    ) -> None:
        up, down = lowest_terms("ResampleStream", out_rate, in_rate, _RATES)
        self._channels = arguments.count("ResampleStream", "num_channels", num_channels)
        taps = design("ResampleStream", up, down, window, _RATES)
        half = (taps.shape[0] - 1) // 2
        self._packed = conv_transpose.pack(taps.reshape(1, -1, 1))
        self._state = stream_init(
            "conv_general",
            self._packed,
            batch=self._channels,
            stride=down,
            input_dilation=up,
            # This makes as many outputs as `resample_poly` gives: `(up n - 1) // down + 1`.
            padding=([taps.shape[0] - 1 - half], [half + up - 1]),
            flip=True,
        )

    @property
    def latency(self) -> tuple[int, int]:
        """By how many samples of the output, and of the input, the output is behind at most."""
        return self._state.latency

    @property
    def state(self) -> list[mx.array]:
        """The samples that the stream holds. After `mx.eval` of them another thread may go on."""
        return [handle_of(self._state.tail)]

    def resample_chunk(self, x: mx.array | Array, last: bool = False) -> mx.array | Array:
        """Takes a chunk, and gives the samples that are known with it.

        Args:
            x (array): ``(n,)``, or ``(n, channels)``; float32, of MLX or of NumPy.
            last (bool, optional): Whether the signal ends with this chunk; the stream then begins
                anew. Default: ``False``.

        Returns:
            array: Samples, of the kind and with the axes of `x`.

        Raises:
            ValueError: If the chunk has other channels than the stream.
        """
        arguments.switch("resample_chunk", "last", last)
        samples = read_reals("resample_chunk", "x", x)
        is_mono = samples.ndim == 1
        lines = samples[:, None] if is_mono else samples
        if lines.ndim != 2 or lines.shape[1] != self._channels:
            shape = "(n,) or (n, 1)" if self._channels == 1 else f"(n, {self._channels})"
            got = f"shape {tuple(samples.shape)}"
            arguments.refuse("resample_chunk", f"x must be of shape {shape}", got)
        y, self._state = stream_step(self._state, lines.T[..., None], self._packed)
        if last:
            rest, self._state = stream_flush(self._state, self._packed)
            y = mx.concatenate([y, rest], 1)
        y = y[..., 0].T
        y = y[:, 0] if is_mono else y
        if isinstance(x, mx.array):
            return y
        # An unevaluated array belongs to its thread. NumPy callers may change threads, so the
        # state is evaluated now too.
        mx.eval(y, self.state)
        return np.array(y)
