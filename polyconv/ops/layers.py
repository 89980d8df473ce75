"""The layers: `mlx.nn.ConvTranspose1d/2d/3d` with the convolution done by polyconv.

A checkpoint of either loads into the other. As in MLX's own layers, attributes are read in each
call, since models set some after construction, such as `output_padding`.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, TypeAlias

import mlx.core as mx
import mlx.nn as nn

from polyconv.execution import packing
from polyconv.execution.identity import handle_of
from polyconv.execution.memory import check_fits
from polyconv.gradients.bias import add_bias
from polyconv.ops import conv_transpose
from polyconv.problem import arguments, shapes, spec

IntOrTuple: TypeAlias = "int | tuple[int, ...]"

OPS: dict[int, Callable[..., mx.array]] = {
    1: conv_transpose.conv_transpose1d,
    2: conv_transpose.conv_transpose2d,
    3: conv_transpose.conv_transpose3d,
}

# Defaults for layers that `convert` turned into this class, which lack these attributes.
_DEFAULTS = {"groups": 1, "max_workspace": None}
OPTIONS = ("stride", "padding", "dilation", "output_padding")


class PackedConvTranspose(nn.Module):
    """A transposed convolution for inference, made by ``PolyConvTranspose*.to_packed()``.

    It has no parameters: its weights are cut into taps, once, and cannot be updated or trained.
    """

    def __init__(
        self,
        ndim: int,
        weight: mx.array,
        bias: mx.array | None,
        options: dict[str, IntOrTuple],
        groups: int,
        max_workspace: int | None = None,
    ) -> None:
        super().__init__()
        self._call = functools.partial(
            OPS[ndim], groups=groups, max_workspace=max_workspace, **options
        )
        self._packed = conv_transpose.pack(weight)
        self._bias = None if bias is None else handle_of(bias)
        packing.evaluate([] if self._bias is None else [self._bias])
        self._shown = ", ".join(f"{name}={value}" for name, value in options.items())

    def _extra_repr(self) -> str:
        return f"weight={self._packed.shape}, {self._shown}, bias={self._bias is not None}"

    def __call__(self, x: mx.array) -> mx.array:
        y = self._call(x, self._packed)
        return y if self._bias is None else add_bias(y, self._bias)


class PolyConvTranspose(nn.Module):
    """Applies a transposed convolution of one, two or three spatial dimensions.

    The channels come last: the input is ``(N, L, C)``, ``(N, H, W, C)`` or ``(N, D, H, W, C)``.

    Args:
        in_channels (int): The number of input channels.
        out_channels (int): The number of output channels.
        kernel_size (int or tuple): The size of the filters.
        stride (int or tuple, optional): Output samples per input sample. Default: ``1``.
        padding (int or tuple, optional): Output samples dropped at each end. Default: ``0``.
        dilation (int or tuple, optional): Output samples between taps. Default: ``1``.
        output_padding (int or tuple, optional): Output samples added at the end. Default: ``0``.
        groups (int, optional): The number of groups of channels. Default: ``1``.
        bias (bool, optional): If ``True`` add a learnable bias to the output. Default: ``True``.
        ndim (int, optional): The number of spatial dimensions. Default: the length of the tuples
            among the arguments.
        max_workspace (int, optional): Bytes that a call may allocate besides arguments and result;
            an attribute, which can be set at any time. Default: what the device allows.

    Raises:
        ValueError: If the rank is not told or told in two ways, or if the groups do not divide the
            channels.
    """

    groups: int
    max_workspace: int | None

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: IntOrTuple,
        stride: IntOrTuple = 1,
        padding: IntOrTuple = 0,
        dilation: IntOrTuple = 1,
        output_padding: IntOrTuple = 0,
        groups: int = 1,
        bias: bool = True,
        *,
        ndim: int | None = None,
        max_workspace: int | None = None,
    ) -> None:
        # In the ranked classes `super()` is MLX's layer, which would make a weight of its own.
        nn.Module.__init__(self)
        name = type(self).__name__
        options = {
            "kernel_size": kernel_size,
            "stride": stride,
            "padding": padding,
            "dilation": dilation,
            "output_padding": output_padding,
        }
        self._ndim = ndim = _rank(name, ndim, options)
        in_channels = arguments.count(name, "in_channels", in_channels)
        out_channels = arguments.count(name, "out_channels", out_channels)
        groups = arguments.count(name, "groups", groups)
        names = ("in_channels", "out_channels")
        shapes.check_groups(name, in_channels, out_channels, groups, names)
        per_axis = {k: arguments.per_axis(name, k, v, ndim) for k, v in options.items()}
        for option in ("kernel_size", "stride", "dilation"):
            arguments.positive(name, option, min(per_axis[option]))
        sizes = per_axis.pop("kernel_size")
        size = out_channels * math.prod(sizes) * (in_channels // groups)
        spec.check_int32(name, in_channels, size)
        check_fits(name, "the weight", 4 * size)
        scale = math.sqrt(1 / (in_channels // groups * math.prod(sizes)))
        self.weight = mx.random.uniform(
            low=-scale, high=scale, shape=(out_channels, *sizes, in_channels // groups)
        )
        if arguments.switch(name, "bias", bias):
            self.bias = mx.zeros((out_channels,))
        for option, values in per_axis.items():
            # As in mlx.nn: plain ints in 1D, tuples above, but the dilation as it was given.
            kept = dilation if option == "dilation" and ndim > 1 else values
            setattr(self, option, values[0] if ndim == 1 else kept)
        self.groups = groups
        if max_workspace is not None:
            self.max_workspace = arguments.count(name, "max_workspace", max_workspace)

    def __getattr__(self, key: str) -> Any:
        """Looks up arrays and tuples, which MLX keeps in the dict that a module is, and defaults.

        The defaults are no attributes of the class: those would hide what the dict holds.
        """
        kept = self.get(key)  # MLX's own method would find it later; each call asks for five
        if kept is not None:
            return kept
        if key in _DEFAULTS and key not in self:
            return _DEFAULTS[key]
        try:
            return super().__getattr__(key)
        except TypeError:
            if isinstance(self, PolyConvTranspose):
                raise
            return getattr(self, key)  # another thread has reverted the layer since

    def _extra_repr(self) -> str:
        out_channels, *kernel_size, channels = self.weight.shape
        size = kernel_size[0] if len(kernel_size) == 1 else tuple(kernel_size)
        groups = f"groups={self.groups}, " if self.groups != 1 else ""
        return (
            f"{channels * self.groups}, {out_channels}, kernel_size={size}, "
            f"stride={self.stride}, padding={self.padding}, dilation={self.dilation}, "
            f"output_padding={self.output_padding}, {groups}bias={'bias' in self}"
        )

    def to_packed(self) -> PackedConvTranspose:
        """A layer for inference that holds these weights cut into taps, once.

        It is another layer with nothing to train: changing or training this one does not reach it.

        Returns:
            PackedConvTranspose: With the same outputs, on a Mac within rounding.
        """
        options = {name: getattr(self, name) for name in OPTIONS}
        bias = self.bias if "bias" in self else None
        sizes = (self.groups, self.max_workspace)
        return PackedConvTranspose(self._ndim, self.weight, bias, options, *sizes)

    def _weight_and_groups(self) -> tuple[mx.array, int]:
        return self.weight, getattr(self, "groups", 1)

    def __call__(self, x: mx.array) -> mx.array:
        # Another thread may `revert` the layer meanwhile. So each attribute that MLX's own layer
        # lacks is asked for with a default.
        own = getattr(self, "_weight_and_groups", None)
        weight, groups = own() if own else (self.weight, 1)
        options = (self.stride, self.padding, self.dilation, self.output_padding, groups)
        most = getattr(self, "max_workspace", None)
        ndim = getattr(self, "_ndim", len(weight.shape) - 2)
        y = OPS[ndim](x, weight, *options, max_workspace=most)
        if "bias" in self:
            y = add_bias(y, self.bias)
        return y


class _Ranked(PolyConvTranspose):
    """A layer of known rank, with the signature of `mlx.nn` and `groups` at its end."""

    _ndim: int

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
        max_workspace: int | None = None,
    ) -> None:
        options = (stride, padding, dilation, output_padding, groups, bias)
        super().__init__(
            *(in_channels, out_channels, kernel_size, *options),
            ndim=self._ndim,
            max_workspace=max_workspace,
        )

    def _extra_repr(self) -> str:
        # MLX's own text, which differs between its versions.
        if self.groups != 1:
            return super()._extra_repr()
        told: str = super(PolyConvTranspose, self)._extra_repr()
        return told


class PolyConvTranspose1d(_Ranked, nn.ConvTranspose1d):
    """1D transposed convolution layer for ``(N, L, C)``, in place of `mlx.nn.ConvTranspose1d`.

    It takes the same arguments, and ``groups`` behind them.

    Args:
        in_channels, out_channels, kernel_size, stride, padding, dilation, output_padding: As for
            :class:`PolyConvTranspose`.
        bias, groups, max_workspace: As for :class:`PolyConvTranspose`, in this order.

    Raises:
        ValueError: If an argument does not fit; the message says what must hold.
    """

    _ndim = 1


class PolyConvTranspose2d(_Ranked, nn.ConvTranspose2d):
    """2D transposed convolution layer for ``(N, H, W, C)``, in place of `mlx.nn.ConvTranspose2d`.

    It takes the same arguments, and ``groups`` behind them.

    Args:
        in_channels, out_channels, kernel_size, stride, padding, dilation, output_padding: As for
            :class:`PolyConvTranspose`.
        bias, groups, max_workspace: As for :class:`PolyConvTranspose`, in this order.

    Raises:
        ValueError: If an argument does not fit; the message says what must hold.
    """

    _ndim = 2


class PolyConvTranspose3d(_Ranked, nn.ConvTranspose3d):
    """3D transposed convolution layer for ``(N, D, H, W, C)``.

    It stands in place of `mlx.nn.ConvTranspose3d`, with ``groups`` behind its arguments.

    Args:
        in_channels, out_channels, kernel_size, stride, padding, dilation, output_padding: As for
            :class:`PolyConvTranspose`.
        bias, groups, max_workspace: As for :class:`PolyConvTranspose`, in this order.

    Raises:
        ValueError: If an argument does not fit; the message says what must hold.
    """

    _ndim = 3


def _rank(name: str, ndim: int | None, options: dict[str, IntOrTuple]) -> int:
    """The number of spatial axes: `ndim`, or else the one length of all tuples."""
    if ndim is None:
        told = sorted({len(v) for v in options.values() if isinstance(v, (tuple, list))})
        if len(told) != 1:
            must = "the rank must be told by ndim, or by the length of every tuple argument"
            arguments.refuse(name, must, " and ".join(map(str, told)) or "neither")
        ndim = told[0]
    ndim = arguments.count(name, "ndim", ndim)
    if ndim not in OPS:
        arguments.refuse(name, "the rank must be 1, 2 or 3", str(ndim))
    return ndim
