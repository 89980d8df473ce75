"""Layers whose channels are divided among the ranks of a group, as the linear ones of `mlx.nn`.

`AllToSharded` layers have the whole input on all ranks, and make a part of the output channels on
each. `ShardedToAll` layers have a part of the input channels on each rank, and the whole output on
all. One of each, in this order, communicate once; pointwise functions may lie between. A layer with
groups is divided by groups.
"""

from __future__ import annotations

import mlx.core as mx
import mlx.nn as nn

from polyconv.distributed.sharded_layer import AllToSharded, ShardedLayer, ShardedToAll
from polyconv.distributed.transport import Group
from polyconv.problem import arguments


class AllToShardedConvTranspose1d(AllToSharded):
    """1D transposed convolution layer of which each rank makes a part of the output channels.

    All ranks have the whole input, and its gradient, which is summed over them. Each rank has a
    part of the output. With ``groups`` each rank has some of the groups.

    Args:
        in_channels (int): The number of input channels.
        out_channels (int): The number of output channels, of all ranks together.
        kernel_size, stride, padding, dilation, output_padding, bias, groups, max_workspace: As for
            :class:`polyconv.PolyConvTranspose1d`.
        group (Group, optional): The ranks. Default: all.

    Raises:
        ValueError: If the output channels, or several groups, are not divisible by the ranks.
    """

    _ndim = 1


class AllToShardedConvTranspose2d(AllToSharded):
    """2D transposed convolution layer of which each rank makes a part of the output channels.

    Args:
        in_channels, out_channels, kernel_size, stride, padding, dilation, output_padding: As for
            :class:`AllToShardedConvTranspose1d`.
        bias, groups, group, max_workspace: As for :class:`AllToShardedConvTranspose1d`.

    Raises:
        ValueError: If the output channels, or several groups, are not divisible by the ranks.
    """

    _ndim = 2


class AllToShardedConvTranspose3d(AllToSharded):
    """3D transposed convolution layer of which each rank makes a part of the output channels.

    Args:
        in_channels, out_channels, kernel_size, stride, padding, dilation, output_padding: As for
            :class:`AllToShardedConvTranspose1d`.
        bias, groups, group, max_workspace: As for :class:`AllToShardedConvTranspose1d`.

    Raises:
        ValueError: If the output channels, or several groups, are not divisible by the ranks.
    """

    _ndim = 3


class ShardedToAllConvTranspose1d(ShardedToAll):
    """1D transposed convolution layer of which each rank takes a part of the input channels.

    All ranks have the whole output, and the bias. Each makes an output of its own input channels;
    their sum, in float32, is the output. With ``groups`` each rank has some of the groups, and the
    output channels of all ranks are put together.

    Args:
        in_channels (int): The number of input channels, of all ranks together.
        out_channels (int): The number of output channels.
        kernel_size, stride, padding, dilation, output_padding, bias, groups, max_workspace: As for
            :class:`polyconv.PolyConvTranspose1d`.
        group (Group, optional): The ranks. Default: all.

    Raises:
        ValueError: If the input channels, or several groups, are not divisible by the ranks.
    """

    _ndim = 1


class ShardedToAllConvTranspose2d(ShardedToAll):
    """2D transposed convolution layer of which each rank takes a part of the input channels.

    Args:
        in_channels, out_channels, kernel_size, stride, padding, dilation, output_padding: As for
            :class:`ShardedToAllConvTranspose1d`.
        bias, groups, group, max_workspace: As for :class:`ShardedToAllConvTranspose1d`.

    Raises:
        ValueError: If the input channels, or several groups, are not divisible by the ranks.
    """

    _ndim = 2


class ShardedToAllConvTranspose3d(ShardedToAll):
    """3D transposed convolution layer of which each rank takes a part of the input channels.

    Args:
        in_channels, out_channels, kernel_size, stride, padding, dilation, output_padding: As for
            :class:`ShardedToAllConvTranspose1d`.
        bias, groups, group, max_workspace: As for :class:`ShardedToAllConvTranspose1d`.

    Raises:
        ValueError: If the input channels, or several groups, are not divisible by the ranks.
    """

    _ndim = 3


_CLASSES: dict[tuple[str, int], type[ShardedLayer]] = {
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
) -> ShardedLayer:
    """This rank's part of a layer, as a new layer.

    It does for transposed convolutions what `mlx.nn.layers.distributed.shard_linear` does for
    linear layers.

    Args:
        layer (Module): One of `mlx.nn.ConvTranspose1d/2d/3d` or polyconv's, the same on all ranks.
        sharding (str): ``"all-to-sharded"`` or ``"sharded-to-all"``.
        group (Group, optional): The ranks. Default: all.

    Returns:
        Module: `AllToShardedConvTranspose*` or `ShardedToAllConvTranspose*`.

    Raises:
        ValueError: If `sharding` is neither, or the layer is no such layer or cannot be divided.
    """
    op = "shard_conv_transpose"
    arguments.choice(op, "sharding", sharding, ("all-to-sharded", "sharded-to-all"))
    weight = getattr(layer, "weight", None)
    ndim = weight.ndim - 2 if isinstance(weight, mx.array) else 0
    return _CLASSES[sharding, min(max(ndim, 1), 3)].from_conv_transpose(layer, group=group)
