"""The functions: `mx.conv1d/2d/3d`, by products on the CPU where MLX would loop or copy.

On Metal they are MLX's own ops wherever those are safe. Gradients are polyconv's everywhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import mlx.core as mx

from polyconv.execution.device import StreamOrDevice
from polyconv.ops.call import Weight, convolve

IntOrSequence: TypeAlias = "int | Sequence[int]"


def conv1d(
    x: mx.array,
    w: Weight,
    /,
    stride: IntOrSequence = 1,
    padding: IntOrSequence = 0,
    dilation: IntOrSequence = 1,
    groups: int = 1,
    *,
    stream: StreamOrDevice = None,
    method: str = "auto",
    max_workspace: int | None = None,
) -> mx.array:
    """1D convolution over an input with several channels, as :func:`mlx.core.conv1d`.

    Args:
        x (array): Input array of shape ``(N, L, C_in)``, float16, bfloat16 or float32.
        w (array or PackedWeight): Weight array of shape ``(C_out, K, C_in / groups)``.
        stride (int, optional): Samples from one output to the next. Default: ``1``.
        padding (int, optional): Zeros put at each end. Default: ``0``.
        dilation (int, optional): Samples from one tap to the next. Default: ``1``.
        groups (int, optional): Groups of channels. Default: ``1``.
        stream (Stream or Device, optional): Where to run. Default: MLX's default.
        method (str, optional): ``"auto"``, or ``"per_phase"``, ``"stacked"``, ``"taps"`` or
            ``"native"`` (MLX's own op) to force one. Default: ``"auto"``.
        max_workspace (int, optional): Bytes that may be allocated besides arguments and result.
            Default: what the device allows.

    Returns:
        array: Of shape ``(N, L_out, C_out)`` with ``L_out = (L + 2 * padding
        - dilation * (K - 1) - 1) // stride + 1``.

    Raises:
        ValueError: If an argument does not fit; the message says what must hold.
    """
    given = (stride, padding, dilation, groups)
    return convolve("conv1d", x, w, given, stream, method, max_workspace)


def conv2d(
    x: mx.array,
    w: Weight,
    /,
    stride: IntOrSequence = 1,
    padding: IntOrSequence = 0,
    dilation: IntOrSequence = 1,
    groups: int = 1,
    *,
    stream: StreamOrDevice = None,
    method: str = "auto",
    max_workspace: int | None = None,
) -> mx.array:
    """2D convolution, as :func:`mlx.core.conv2d`.

    Args:
        x (array): Input array of shape ``(N, H, W, C_in)``.
        w (array or PackedWeight): Weight array of shape ``(C_out, KH, KW, C_in / groups)``.
        stride, padding, dilation (int or tuple(int), optional): One int for both axes, or two, for
            height and width.
        groups (int, optional): Groups of channels. Default: ``1``.
        stream, method, max_workspace (optional): As for :func:`conv1d`.

    Returns:
        array: Of shape ``(N, H_out, W_out, C_out)``. Each size follows from those of its axis.

    Raises:
        ValueError: If an argument does not fit; the message says what must hold.
    """
    given = (stride, padding, dilation, groups)
    return convolve("conv2d", x, w, given, stream, method, max_workspace)


def conv3d(
    x: mx.array,
    w: Weight,
    /,
    stride: IntOrSequence = 1,
    padding: IntOrSequence = 0,
    dilation: IntOrSequence = 1,
    groups: int = 1,
    *,
    stream: StreamOrDevice = None,
    method: str = "auto",
    max_workspace: int | None = None,
) -> mx.array:
    """3D convolution, as :func:`mlx.core.conv3d`.

    Args:
        x (array): Input array of shape ``(N, D, H, W, C_in)``.
        w (array or PackedWeight): Weight array of shape ``(C_out, KD, KH, KW, C_in / groups)``.
        stride, padding, dilation (int or tuple(int), optional): One int for all axes, or three,
            for depth, height and width.
        groups (int, optional): Groups of channels, which MLX refuses in 3D. Default: ``1``.
        stream, method, max_workspace (optional): As for :func:`conv1d`.

    Returns:
        array: Of shape ``(N, D_out, H_out, W_out, C_out)``. Each size follows from those of its
        axis.

    Raises:
        ValueError: If an argument does not fit; the message says what must hold.
    """
    given = (stride, padding, dilation, groups)
    return convolve("conv3d", x, w, given, stream, method, max_workspace)
