"""Both kinds of layers whose channels are divided among the ranks of a group.

`layers.py` has the classes with one to three spatial axes.
"""

from __future__ import annotations

import math
from typing import Any, NoReturn, TypeAlias

import mlx.core as mx
import mlx.nn as nn
from mlx.nn.layers.distributed import sum_gradients

from polyconv.distributed.local import HALVES, rounded_once
from polyconv.distributed.transport import Group, group_of
from polyconv.execution.arrays import contiguous, cut, summed_in
from polyconv.execution.identity import handle_of
from polyconv.gradients.bias import add_bias
from polyconv.ops.layers import OPS, OPTIONS, PolyConvTranspose
from polyconv.problem import arguments

IntOrTuple: TypeAlias = "int | tuple[int, ...]"
_LAYERS = (PolyConvTranspose, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


class ShardedLayer(PolyConvTranspose):
    """A layer of this rank's part of the channels, or of its groups.

    Subclasses say how many spatial axes it has, and of which kind it is: its name in
    `shard_conv_transpose`, and which channels are divided.
    """

    _ndim: int
    _kind: str
    _divided: str

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: IntOrTuple,
        stride: IntOrTuple = 1,
        padding: IntOrTuple = 0,
        dilation: IntOrTuple = 1,
        output_padding: IntOrTuple = 0,
        bias: bool = True,
        groups: int = 1,
        *,
        group: Group | None = None,
        max_workspace: int | None = None,
    ) -> None:
        group = group_of(type(self).__name__, group)
        whole, sizes = self._divide(in_channels, out_channels, groups, group.size())
        options = (stride, padding, dilation, output_padding, sizes["groups"], bias)
        super().__init__(
            *(sizes["in_channels"], sizes["out_channels"], kernel_size, *options),
            ndim=self._ndim,
            max_workspace=max_workspace,
        )
        # The scale is that of an undivided layer, by all input channels of a group.
        per_group = whole["in_channels"] // whole["groups"]
        self.weight = self.weight * math.sqrt(self.weight.shape[-1] / per_group)
        self.group = group
        self._channels = tuple(whole.values())
        if "bias" in self:
            self.bias = mx.zeros((self._n_biases(),))

    def _divide(
        self, in_channels: int, out_channels: int, groups: int, n: int
    ) -> tuple[dict[str, int], dict[str, int]]:
        """The three counts of the whole layer, and those of one of n ranks."""
        name = type(self).__name__
        counts = {"in_channels": in_channels, "out_channels": out_channels, "groups": groups}
        whole = {key: arguments.count(name, key, value) for key, value in counts.items()}
        sizes = dict(whole)
        # A rank that has some of the groups has their channels: all three counts are divided.
        for key in (self._divided,) if whole["groups"] == 1 else counts:
            if sizes[key] % n:
                must = f"{key} must be divisible by the {n} ranks"
                arguments.refuse(name, must, str(sizes[key]))
            sizes[key] //= n
        return whole, sizes

    def _n_biases(self) -> int:
        """One for each output channel that this rank has."""
        n: int = self.weight.shape[0]
        return n

    def _extra_repr(self) -> str:
        in_channels, out_channels, groups = self._channels
        kernel = self.weight.shape[1:-1]
        size = kernel[0] if len(kernel) == 1 else tuple(kernel)
        told = f"groups={groups}, " if groups != 1 else ""
        options = ", ".join(f"{name}={getattr(self, name)}" for name in OPTIONS)
        return (
            f"{in_channels}, {out_channels}, kernel_size={size}, {options}, "
            f"{told}bias={'bias' in self}"
        )

    def _check(self, x: Any, channels: int | None = None) -> None:
        """Refuses what is no input of the layer. `channels`, if given, are those of the input."""
        name = type(self).__name__
        if not isinstance(x, mx.array):
            arguments.refuse(name, "x must be an mlx.core.array", type(x).__name__)
        if channels is not None and (x.ndim != self._ndim + 2 or x.shape[-1] != channels):
            must = f"x must have {self._ndim + 2} axes, the last of {channels} channels"
            arguments.refuse(name, must, arguments.shown(x.shape))

    def _convolve(self, x: mx.array, w: mx.array) -> mx.array:
        options = (self.stride, self.padding, self.dilation, self.output_padding, self.groups)
        return OPS[self._ndim](x, w, *options, max_workspace=self.max_workspace)

    def _mine(self, array: mx.array, axis: int) -> mx.array:
        """This rank's part of an array that all ranks have."""
        n = array.shape[axis] // self.group.size()
        start = self.group.rank() * n
        return cut(array, axis, start, start + n, 1)

    def to_packed(self) -> NoReturn:
        """Refuses: a packed layer would compute the part of this rank alone."""
        must = "layer must have all its channels to be packed"
        arguments.refuse(type(self).__name__, must, f"those of one of {self.group.size()} ranks")

    @classmethod
    def from_conv_transpose(cls, layer: nn.Module, *, group: Group | None = None) -> ShardedLayer:
        """This rank's part of a layer.

        Args:
            layer (Module): A transposed convolution of `mlx.nn` or polyconv, with the same weights
                on all ranks.
            group (Group, optional): The ranks. Default: all.

        Returns:
            ShardedLayer: Of this class, with this rank's channels of the weight and the bias.

        Raises:
            ValueError: If it is no such layer, has another number of spatial axes, or its channels
                or groups are not divisible by the ranks.
        """
        name = cls.__name__
        if not isinstance(layer, _LAYERS):
            must = "layer must be a transposed convolution of mlx.nn or polyconv"
            arguments.refuse(name, must, type(layer).__name__)
        out_channels, *kernel, channels = layer.weight.shape
        if len(kernel) != cls._ndim:
            must = f"layer must have {cls._ndim} spatial axes"
            arguments.refuse(name, must, str(len(kernel)))
        groups = getattr(layer, "groups", 1)
        options = {key: getattr(layer, key) for key in OPTIONS}
        sizes = (channels * groups, out_channels, kernel[0] if len(kernel) == 1 else tuple(kernel))
        bias = "bias" in layer
        made = cls(*sizes, **options, bias=bias, groups=groups, group=group)
        made._take(layer.weight, layer.bias if bias else None, groups)
        return made


class AllToSharded(ShardedLayer):
    _kind = "all-to-sharded"
    _divided = "out_channels"

    def _take(self, weight: mx.array, bias: mx.array | None, groups: int) -> None:
        self.weight = contiguous(self._mine(weight, 0))
        if bias is not None:
            self.bias = contiguous(self._mine(bias, 0))

    def __call__(self, x: mx.array) -> mx.array:
        self._check(x, self._channels[0])
        w, dtypes = self.weight, (x.dtype, self.weight.dtype)
        halves = x.dtype in HALVES
        # The gradient is summed over the ranks in float32, then rounded.
        x = sum_gradients(self.group)(x.astype(mx.float32) if halves else x)
        if self._channels[2] != 1:
            x = self._mine(x, x.ndim - 1)
        if halves:
            wide = w.astype(summed_in(w.dtype))
            y = rounded_once(self._convolve, x, wide, dtypes)
        else:
            y = self._convolve(x, w)
        return add_bias(y, self.bias) if "bias" in self else y


class ShardedToAll(ShardedLayer):
    _kind = "sharded-to-all"
    _divided = "in_channels"

    def _n_biases(self) -> int:
        return self._channels[1]

    def _take(self, weight: mx.array, bias: mx.array | None, groups: int) -> None:
        self.weight = contiguous(self._mine(weight, weight.ndim - 1 if groups == 1 else 0))
        if bias is not None:
            self.bias = handle_of(bias)

    def __call__(self, x: mx.array) -> mx.array:
        self._check(x)
        y = self._joined(x) if self._channels[2] != 1 else self._summed(x)
        return add_bias(y, self.bias) if "bias" in self else y

    def _summed(self, x: mx.array) -> mx.array:
        """The sum over all ranks of what they make of their input channels, rounded once."""
        w = self.weight
        if self.group.size() == 1:
            return self._convolve(x, w)
        wide_x, wide_w = [a.astype(summed_in(a.dtype)) for a in (x, w)]
        y = mx.distributed.all_sum(self._convolve(wide_x, wide_w), group=self.group)
        dtype = (mx.zeros((0,), x.dtype) * mx.zeros((0,), w.dtype)).dtype
        return y.astype(dtype)

    def _joined(self, x: mx.array) -> mx.array:
        """The output channels of all ranks, which have whole groups each, concatenated."""
        y = mx.moveaxis(self._convolve(x, self.weight), -1, 0)
        return mx.moveaxis(mx.distributed.all_gather(contiguous(y), group=self.group), 0, -1)
