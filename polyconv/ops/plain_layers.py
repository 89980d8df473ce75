"""The layers: `mlx.nn.Conv1d/2d/3d`, computed by polyconv where MLX is slow.

MLX's CPU copies all windows before it multiplies, and loops over single samples where a kernel is
dilated or 2D is grouped. On CUDA the gradient of a weight is slow: MLX copies all windows there,
too. So polyconv computes in training. Elsewhere MLX's own layer does.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from polyconv.execution.device import device_for, is_on_cpu
from polyconv.gradients.bias import add_bias
from polyconv.ops import conv

OPS: dict[int, Callable[..., mx.array]] = {1: conv.conv1d, 2: conv.conv2d, 3: conv.conv3d}
_LAYERS: dict[int, Any] = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}


class PlainConv(nn.Module):
    """What `convert` gives a layer with `cpu_convs=True`; its attributes are those of MLX's."""

    def __call__(self, x: mx.array) -> mx.array:
        # Another thread may `revert` the layer meanwhile.
        if not (is_on_cpu(None) or _is_trained_by_polyconv(self)):
            y: mx.array = _LAYERS[_ndim(self)].__call__(self, x)
            return y
        own: Any = getattr(self, "_weight_and_groups", None)
        weight, groups = own() if own else (self.weight, getattr(self, "groups", 1))
        options = (self.stride, self.padding, self.dilation, groups)
        y = OPS[_ndim(self)](x, weight, *options)
        return add_bias(y, self.bias) if "bias" in self else y


def _ndim(layer: nn.Module) -> int:
    """By its class: the weight may be another by now, and is checked where it is convolved."""
    return next(ndim for ndim, kind in _LAYERS.items() if isinstance(layer, kind))


def _is_trained_by_polyconv(layer: nn.Module) -> bool:
    """Whether polyconv's gradients are the faster ones. A packed weight is for inference."""
    is_trained = layer.training and not getattr(layer, "_is_packed", False)
    return is_trained and device_for(None).backend.convolves_for_weights


class PlainConv1d(PlainConv, nn.Conv1d):
    pass


class PlainConv2d(PlainConv, nn.Conv2d):
    pass


class PlainConv3d(PlainConv, nn.Conv3d):
    pass
