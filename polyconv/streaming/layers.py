"""Layers of `mlx.nn` that also take their input chunk by chunk."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import mlx.core as mx
import mlx.nn as nn

from polyconv.execution.identity import Held
from polyconv.execution.memory import check_fits
from polyconv.execution.packing import PackedWeight
from polyconv.gradients.bias import add_bias
from polyconv.ops import conv
from polyconv.ops.conv_transpose import pack
from polyconv.ops.layers import OPTIONS, PolyConvTranspose1d
from polyconv.problem import arguments, shapes, spec
from polyconv.problem.signatures import Plain
from polyconv.streaming.functional import (
    StreamState,
    check_chunk,
    stream_flush,
    stream_init,
    stream_step,
)


class StreamCache:
    """The state of one stream through a layer. `state` is None until the first chunk."""

    def __init__(self) -> None:
        self.state: StreamState | None = None


class _Streaming(nn.Module):
    """`step`, `flush`, `reset_state` and `make_cache`, for a layer with `weight` and maybe `bias`.

    The outputs of all chunks, concatenated, are the output for the whole input.
    """

    # The op that the layer streams, and for each option of it the attribute that holds its value.
    _op: str
    _option_attributes: ClassVar[Mapping[str, str]]

    def _stream_options(self) -> dict[str, Any]:
        return {option: getattr(self, name) for option, name in self._option_attributes.items()}

    def make_cache(self) -> StreamCache:
        """A cache for another stream than the layer's own, to pass to `step` and `flush`.

        Returns:
            StreamCache: Of a stream that has not begun.
        """
        return StreamCache()

    def reset_state(self) -> None:
        """Forgets the layer's own stream."""
        self.__dict__["_cache"] = StreamCache()

    def step(
        self, x: mx.array, cache: StreamCache | None = None, *, reset: mx.array | None = None
    ) -> mx.array:
        """Takes a chunk ``(N, L, C)``, and gives the outputs that are known with it.

        Args:
            x (array): The chunk; its length may differ from call to call, and be 0.
            cache (StreamCache, optional): The stream. Default: the layer's own.
            reset (array, optional): Which rows begin anew, as for :func:`polyconv.stream_step`.

        Returns:
            array: ``(N, L_out, C_out)``, maybe of length 0.

        Raises:
            ValueError: If the chunk is not of the stream's batch and channels.
        """
        check_chunk(type(self).__name__, x)
        cache, packed = self._own(cache), self._weight_once()
        if cache.state is None:
            cache.state = self._begun(packed, x)
        y, cache.state = stream_step(cache.state, x, packed, reset=reset)
        return self._with_bias(y)

    def flush(self, cache: StreamCache | None = None) -> mx.array:
        """Gives what is left when the input has ended; the stream then begins anew.

        Args:
            cache (StreamCache, optional): The stream. Default: the layer's own.

        Returns:
            array: ``(N, L_out, C_out)``, maybe of length 0.

        Raises:
            ValueError: If `cache` is no StreamCache, or of another layer.
        """
        cache, packed = self._own(cache), self._weight_once()
        state = cache.state
        if state is None:
            state = self._begun(packed, mx.zeros((1, 0, 0), packed.dtype))
        y, _ = stream_flush(state, packed)
        cache.state = None
        return self._with_bias(y)

    @property
    def latency(self) -> tuple[int, int]:
        """By how many samples of the output, and of the input, the output is behind at most."""
        return self._begun(self._weight_once(), mx.zeros((1, 0, 0))).latency

    def _begun(self, packed: PackedWeight, x: mx.array) -> StreamState:
        options = self._stream_options()
        return stream_init(self._op, packed, batch=x.shape[0], dtype=x.dtype, **options)

    def _own(self, cache: StreamCache | None) -> StreamCache:
        if cache is not None:
            is_one = isinstance(cache, StreamCache)
            if not is_one or not isinstance(cache.state, (StreamState, type(None))):
                got = "another state in it" if is_one else arguments.shown(cache)
                arguments.refuse(type(self).__name__, "cache must be a StreamCache", got)
            return cache
        if "_cache" not in self.__dict__:
            self.reset_state()
        own: StreamCache = self.__dict__["_cache"]
        return own

    def _weight_once(self) -> PackedWeight:
        """The packed weight. It is packed again only if the weight was changed or replaced."""
        kept: tuple[Held, PackedWeight] | None = self.__dict__.get("_packed")
        weight = self.weight
        if kept is None or not kept[0].holds(weight):
            packed = pack(weight)  # this evaluates the weight, so that `Held` knows it again
            kept = self.__dict__["_packed"] = (Held(weight), packed)
        return kept[1]

    def _with_bias(self, y: mx.array) -> mx.array:
        return add_bias(y, self.bias) if "bias" in self else y


class StreamingConvTranspose1d(_Streaming, PolyConvTranspose1d):
    """Transposed convolution layer for ``(N, L, C)``, at once or chunk by chunk.

    It stands in place of `mlx.nn.ConvTranspose1d`, with ``groups`` behind its arguments.

    Args:
        in_channels, out_channels, kernel_size, stride, padding, dilation, output_padding: As for
            :class:`PolyConvTranspose1d`.
        bias, groups, max_workspace: As for :class:`PolyConvTranspose1d`, in this order.

    Raises:
        ValueError: If an argument does not fit; the message says what must hold.
    """

    _op = "conv_transpose1d"
    _option_attributes: ClassVar[Mapping[str, str]] = {name: name for name in (*OPTIONS, "groups")}


class StreamingConv1d(_Streaming, nn.Conv1d):
    """Convolution layer for ``(N, L, C)``, at once or chunk by chunk, in place of `mlx.nn.Conv1d`.

    With `padding` at both ends the output is behind its input, by the samples that it reads ahead.
    A causal one reads none: it is padded in front alone, by ``dilation * (kernel_size - 1)`` zeros.

    Args:
        in_channels (int): The number of input channels.
        out_channels (int): The number of output channels.
        kernel_size (int): The size of the filters.
        stride (int, optional): Input samples per output sample. Default: ``1``.
        padding (int, optional): Zeros at each end. Default: ``0``.
        dilation (int, optional): Samples from one tap to the next. Default: ``1``.
        groups (int, optional): The number of groups of channels. Default: ``1``.
        bias (bool, optional): If ``True`` add a learnable bias to the output. Default: ``True``.
        causal (bool, optional): Pad in front alone, and ignore `padding`. Default: ``False``.

    Raises:
        ValueError: If an argument does not fit; the message says what must hold.
    """

    _op = "conv_general"
    _option_attributes: ClassVar[Mapping[str, str]] = {
        "stride": "stride",
        "padding": "_ends",
        "kernel_dilation": "dilation",
        "groups": "groups",
    }
    causal = False

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        padding: int = 0,
        dilation: int = 1,
        groups: int = 1,
        bias: bool = True,
        *,
        causal: bool = False,
    ) -> None:
        name = type(self).__name__
        in_channels = arguments.count(name, "in_channels", in_channels)
        out_channels = arguments.count(name, "out_channels", out_channels)
        (kernel_size,) = arguments.per_axis(name, "kernel_size", kernel_size, 1)
        arguments.positive(name, "kernel_size", kernel_size)
        read = Plain(stride, padding, dilation, groups).read(name, 1)
        (stride,), (padding,), (dilation,), groups = read
        arguments.positive(name, "stride", stride)
        names = ("in_channels", "out_channels")
        shapes.check_groups(name, in_channels, out_channels, groups, names)
        size = kernel_size * in_channels * out_channels // groups
        spec.check_int32(name, in_channels, size)
        check_fits(name, "the weight", 4 * size)
        bias = arguments.switch(name, "bias", bias)
        super().__init__(
            *(in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias)
        )
        self.causal = arguments.switch(name, "causal", causal)

    @property
    def _ends(self) -> tuple[list[int], list[int]]:
        if self.causal:
            return [self.dilation * (self.weight.shape[1] - 1)], [0]
        return [self.padding], [self.padding]

    def __call__(self, x: mx.array) -> mx.array:
        lo, hi = self._ends
        if lo != hi:
            x = mx.pad(x, [(0, 0), (lo[0], hi[0]), (0, 0)])
            lo = [0]
        y = conv.conv1d(x, self.weight, self.stride, lo[0], self.dilation, self.groups)
        return self._with_bias(y)
