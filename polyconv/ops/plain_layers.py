"""The layers: `mlx.nn.Conv1d/2d/3d` with the convolution done by polyconv on a CPU.

MLX's CPU copies all windows before it multiplies, and loops over single samples where a kernel is
dilated or 2D is grouped. On a GPU MLX's own layer computes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from polyconv.execution.device import is_on_cpu
from polyconv.gradients.bias import add_bias
from polyconv.ops import conv

OPS: dict[int, Callable[..., mx.array]] = {1: conv.conv1d, 2: conv.conv2d, 3: conv.conv3d}


class PlainConv(nn.Module):
    """What `convert` gives a layer with `cpu_convs=True`; its attributes are those of MLX's."""

    def __call__(self, x: mx.array) -> mx.array:
        if not is_on_cpu(None):
            y: mx.array = super().__call__(x)  # MLX's layer stands behind
            return y
        # Another thread may `revert` the layer meanwhile.
        own: Any = getattr(self, "_weight_and_groups", None)
        weight, groups = own() if own else (self.weight, getattr(self, "groups", 1))
        options = (self.stride, self.padding, self.dilation, groups)
        y = OPS[len(weight.shape) - 2](x, weight, *options)
        return add_bias(y, self.bias) if "bias" in self else y


class PlainConv1d(PlainConv, nn.Conv1d):
    pass


class PlainConv2d(PlainConv, nn.Conv2d):
    pass


class PlainConv3d(PlainConv, nn.Conv3d):
    pass
