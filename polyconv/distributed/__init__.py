"""Convolutions over the ranks of a group of `mx.distributed`.

There are two ways, which can be combined. A sequence is cut into pieces along an axis, and ranks
exchange samples around the cuts (`functions.py`). Or a layer's channels are divided (`layers.py`).
"""

from polyconv.distributed.functions import (
    conv1d,
    conv_general,
    conv_transpose1d,
    conv_transpose2d,
    conv_transpose3d,
)
from polyconv.distributed.halo import reshard, sharding_of, with_halo
from polyconv.distributed.layers import (
    AllToShardedConvTranspose1d,
    AllToShardedConvTranspose2d,
    AllToShardedConvTranspose3d,
    ShardedToAllConvTranspose1d,
    ShardedToAllConvTranspose2d,
    ShardedToAllConvTranspose3d,
    shard_conv_transpose,
)
from polyconv.distributed.sharding import Sharding
from polyconv.distributed.transport import Traffic, traffic

__all__ = [
    "AllToShardedConvTranspose1d",
    "AllToShardedConvTranspose2d",
    "AllToShardedConvTranspose3d",
    "ShardedToAllConvTranspose1d",
    "ShardedToAllConvTranspose2d",
    "ShardedToAllConvTranspose3d",
    "Sharding",
    "Traffic",
    "conv1d",
    "conv_general",
    "conv_transpose1d",
    "conv_transpose2d",
    "conv_transpose3d",
    "reshard",
    "shard_conv_transpose",
    "sharding_of",
    "traffic",
    "with_halo",
]
