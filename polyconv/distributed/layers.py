"""Layers whose channels are split among the ranks of a group, as those of `mlx.nn`'s linear ones.

`AllToSharded` layers make a part of the output channels on each rank, of an input that all have;
`ShardedToAll` layers take a part of the input channels on each rank, and all have the output. One
behind the other they communicate once, and pointwise functions may lie between. A layer with groups
is split by groups.
"""

from __future__ import annotations

import math
from typing import Any, NoReturn, TypeAlias

import mlx.core as mx
import mlx.nn as nn
from mlx.nn.layers.distributed import sum_gradients

from polyconv.distributed.functions import HALVES, rounded_once
from polyconv.distributed.transport import Group, group_of
from polyconv.execution.arrays import contiguous, cut, summed_in
from polyconv.gradients.bias import add_bias
from polyconv.ops.layers import OPS, OPTIONS, PolyConvTranspose
from polyconv.problem import arguments

IntOrTuple: TypeAlias = "int | tuple[int, ...]"
_LAYERS = (PolyConvTranspose, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


class _Sharded(PolyConvTranspose):
    """What both kinds share: a layer of this rank's channels, or of its groups."""

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
        name = type(self).__name__
        group = group_of(name, group)
        n = group.size()
        counts = {"in_channels": in_channels, "out_channels": out_channels, "groups": groups}
        whole = {key: arguments.count(name, key, value) for key, value in counts.items()}
        sizes = dict(whole)
        # With groups all three: each rank has some of the groups.
        for key in (self._divided,) if whole["groups"] == 1 else counts:
            if sizes[key] % n:
                must = f"{key} must be divisible by the {n} ranks"
                arguments.refuse(name, must, str(sizes[key]))
            sizes[key] //= n
        options = (stride, padding, dilation, output_padding, sizes["groups"], bias)
        super().__init__(
            *(sizes["in_channels"], sizes["out_channels"], kernel_size, *options),
            ndim=self._ndim,
            max_workspace=max_workspace,
        )
        # Of all input channels of a group, as in an undivided layer.
        per_group = whole["in_channels"] // whole["groups"]
        self.weight = self.weight * math.sqrt(self.weight.shape[-1] / per_group)
        self.group = group
        self._channels = tuple(whole.values())
        if "bias" in self:
            self.bias = mx.zeros((self._n_biases(),))

    def _n_biases(self) -> int:
        """Of the output channels that this rank has."""
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
        """Refuses what is no input, or not of so many channels, of which each rank takes some."""
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
        """The part of this rank of what all ranks have."""
        n = array.shape[axis] // self.group.size()
        start = self.group.rank() * n
        return cut(array, axis, start, start + n, 1)

    def to_packed(self) -> NoReturn:
        """Not for these: a packed layer would be one of this rank alone."""
        must = "layer must have all its channels to be packed"
        arguments.refuse(type(self).__name__, must, f"those of one of {self.group.size()} ranks")

    @classmethod
    def from_conv_transpose(cls, layer: nn.Module, *, group: Group | None = None) -> _Sharded:
        """This rank's part of a layer, :class:`mlx.nn.ConvTranspose1d` or one of polyconv's, say.

        Args:
            layer (Module): The layer, with the same weights on all ranks.
            group (Group, optional): The ranks. Default: all.

        Raises:
            ValueError: If the layer is of another rank, or its channels or groups do not divide.
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


class _AllToSharded(_Sharded):
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
        # The gradient is summed up over ranks in float32, then rounded.
        x = sum_gradients(self.group)(x.astype(mx.float32) if halves else x)
        if self._channels[2] != 1:
            x = self._mine(x, x.ndim - 1)
        if halves:
            wide = w.astype(summed_in(w.dtype))
            y = rounded_once(self._convolve, x, wide, dtypes)
        else:
            y = self._convolve(x, w)
        return add_bias(y, self.bias) if "bias" in self else y


class _ShardedToAll(_Sharded):
    _kind = "sharded-to-all"
    _divided = "in_channels"

    def _n_biases(self) -> int:
        return self._channels[1]

    def _take(self, weight: mx.array, bias: mx.array | None, groups: int) -> None:
        self.weight = contiguous(self._mine(weight, weight.ndim - 1 if groups == 1 else 0))
        if bias is not None:
            self.bias = mx.array(bias)  # a layer's own, as `+=` changes an array object in place

    def __call__(self, x: mx.array) -> mx.array:
        self._check(x)
        y = self._joined(x) if self._channels[2] != 1 else self._summed(x)
        return add_bias(y, self.bias) if "bias" in self else y

    def _summed(self, x: mx.array) -> mx.array:
        """Sums over input channels are of all ranks: of float32, rounded at the end."""
        w = self.weight
        if self.group.size() == 1:
            return self._convolve(x, w)
        wide_x, wide_w = [a.astype(summed_in(a.dtype)) for a in (x, w)]
        y = mx.distributed.all_sum(self._convolve(wide_x, wide_w), group=self.group)
        dtype = (mx.zeros((0,), x.dtype) * mx.zeros((0,), w.dtype)).dtype
        return y.astype(dtype)

    def _joined(self, x: mx.array) -> mx.array:
        """Whole groups on each rank: their output channels, one behind the other."""
        y = mx.moveaxis(self._convolve(x, self.weight), -1, 0)
        return mx.moveaxis(mx.distributed.all_gather(contiguous(y), group=self.group), 0, -1)


class AllToShardedConvTranspose1d(_AllToSharded):
    """A transposed convolution of which each rank makes a part of the output channels.

    The input is the same on all ranks, and so is its gradient, which is summed up over them; the
    output's part lies on each. With ``groups`` each rank has some of the groups.

    Args:
        in_channels (int): The number of input channels, of all.
        out_channels (int): The number of output channels, of all ranks together.
        kernel_size (int or tuple): The size of the filters.
        stride, padding, dilation, output_padding, bias, groups, max_workspace: As in
            :class:`polyconv.PolyConvTranspose1d`.
        group (Group, optional): The ranks. Default: all.

    Raises:
        ValueError: If the ranks do not divide the output channels, or the groups where there are
            more than one.
    """

    _ndim = 1


class AllToShardedConvTranspose2d(_AllToSharded):
    """As :class:`AllToShardedConvTranspose1d`, of two spatial axes."""

    _ndim = 2


class AllToShardedConvTranspose3d(_AllToSharded):
    """As :class:`AllToShardedConvTranspose1d`, of three spatial axes."""

    _ndim = 3


class ShardedToAllConvTranspose1d(_ShardedToAll):
    """A transposed convolution of which each rank takes a part of the input channels.

    All ranks have the output: the sum of what each makes of its channels, summed up in float32, or
    with ``groups``, of which each rank has some, the channels of all of them. The bias is on all.

    Args:
        in_channels (int): The number of input channels, of all ranks together.
        out_channels (int): The number of output channels, of all.
        kernel_size (int or tuple): The size of the filters.
        stride, padding, dilation, output_padding, bias, groups, max_workspace: As in
            :class:`polyconv.PolyConvTranspose1d`.
        group (Group, optional): The ranks. Default: all.

    Raises:
        ValueError: If the ranks do not divide the input channels, or the groups where there are
            more than one.
    """

    _ndim = 1


class ShardedToAllConvTranspose2d(_ShardedToAll):
    """As :class:`ShardedToAllConvTranspose1d`, of two spatial axes."""

    _ndim = 2


class ShardedToAllConvTranspose3d(_ShardedToAll):
    """As :class:`ShardedToAllConvTranspose1d`, of three spatial axes."""

    _ndim = 3


_CLASSES: dict[tuple[str, int], type[_Sharded]] = {
    (cls._kind, cls._ndim): cls
    for cls in (
        AllToShardedConvTranspose1d,
        AllToShardedConvTranspose2d,
        AllToShardedConvTranspose3d,
        ShardedToAllConvTranspose1d,
        ShardedToAllConvTranspose2d,
        ShardedToAllConvTranspose3d,
    )
}


def shard_conv_transpose(
    layer: nn.Module, sharding: str, *, group: Group | None = None
) -> _Sharded:
    """This rank's part of a layer, as a new layer; `mlx.nn.layers.distributed.shard_linear`'s like.

    Args:
        layer (Module): One of `mlx.nn.ConvTranspose1d/2d/3d` or polyconv's, the same on all ranks.
        sharding (str): ``"all-to-sharded"`` or ``"sharded-to-all"``.
        group (Group, optional): The ranks. Default: all.

    Returns:
        Module: `AllToShardedConvTranspose*` or `ShardedToAllConvTranspose*`.

    Raises:
        ValueError: If `sharding` is neither, or the layer is none or cannot be divided.
    """
    op = "shard_conv_transpose"
    arguments.choice(op, "sharding", sharding, ("all-to-sharded", "sharded-to-all"))
    weight = getattr(layer, "weight", None)
    ndim = weight.ndim - 2 if isinstance(weight, mx.array) else 0
    return _CLASSES[sharding, min(max(ndim, 1), 3)].from_conv_transpose(layer, group=group)
