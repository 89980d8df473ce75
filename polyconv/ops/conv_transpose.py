"""The functions: `mx.conv_transpose1d/2d/3d` and `mx.conv_general`, computed by polyphase."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import mlx.core as mx

from polyconv.execution.device import StreamOrDevice, check_float64
from polyconv.execution.packing import PackedWeight
from polyconv.ops.call import Weight, convolve
from polyconv.problem import arguments

IntOrSequence: TypeAlias = "int | Sequence[int]"
Padding: TypeAlias = "int | Sequence[int] | tuple[Sequence[int], Sequence[int]]"


def pack(w: mx.array) -> PackedWeight:
    """Cuts a weight into taps once, for all calls that use it.

    Where the input is short, cutting a weight costs more than the convolution itself. Any function
    here takes the result in place of `w`. The gradient of the input is as ever. The weight has a
    gradient only if it is packed inside the function that is differentiated.

    Args:
        w (array): Weight array, ``(O, *K, C / groups)``.

    Returns:
        PackedWeight: To pass as `w`, with any options and lengths.

    Raises:
        ValueError: If `w` is not an array, or float64 with a GPU as the default device.
    """
    if not isinstance(w, mx.array):
        arguments.refuse("pack", "weight must be an mlx.core.array", type(w).__name__)
    check_float64("pack", "weight", w.dtype)
    return PackedWeight(w)


def conv_transpose1d(
    x: mx.array,
    w: Weight,
    /,
    stride: IntOrSequence = 1,
    padding: IntOrSequence = 0,
    dilation: IntOrSequence = 1,
    output_padding: IntOrSequence = 0,
    groups: int = 1,
    *,
    stream: StreamOrDevice = None,
    method: str = "auto",
    max_workspace: int | None = None,
) -> mx.array:
    """1D transposed convolution over an input with several channels.

    As :func:`mlx.core.conv_transpose1d`, with the same result wherever that is right.

    Args:
        x (array): Input array of shape ``(N, L, C_in)``, float16, bfloat16 or float32.
        w (array or PackedWeight): Weight array of shape ``(C_out, K, C_in / groups)``.
        stride (int, optional): Output samples per input sample. Default: ``1``.
        padding (int, optional): Output samples dropped at each end, or added where negative.
            Default: ``0``.
        dilation (int, optional): Output samples from one tap to the next. Default: ``1``.
        output_padding (int, optional): Output samples added at the end. As in MLX any int is
            accepted: a negative one drops samples, and one not smaller than
            ``max(stride, dilation)``, which PyTorch refuses, adds as many. Default: ``0``.
        groups (int, optional): Groups of channels. Default: ``1``.
        stream (Stream or Device, optional): Where to run. Default: MLX's default.
        method (str, optional): ``"auto"``, or ``"per_phase"``, ``"stacked"``, ``"taps"`` or
            ``"native"`` (MLX's own op) to force one. Default: ``"auto"``.
        max_workspace (int, optional): Bytes that may be allocated besides arguments and result.
            Default: what the device allows.

    Returns:
        array: Of shape ``(N, L_out, C_out)`` with ``L_out = (L - 1) * stride - 2 * padding
        + dilation * (K - 1) + output_padding + 1``.

    Raises:
        ValueError: If an argument does not fit; the message says what must hold.
    """
    given = (stride, padding, dilation, output_padding, groups)
    return convolve("conv_transpose1d", x, w, given, stream, method, max_workspace)


def conv_transpose2d(
    x: mx.array,
    w: Weight,
    /,
    stride: IntOrSequence = 1,
    padding: IntOrSequence = 0,
    dilation: IntOrSequence = 1,
    output_padding: IntOrSequence = 0,
    groups: int = 1,
    *,
    stream: StreamOrDevice = None,
    method: str = "auto",
    max_workspace: int | None = None,
) -> mx.array:
    """2D transposed convolution over an input with several channels.

    As :func:`mlx.core.conv_transpose2d`.

    Args:
        x (array): Input array of shape ``(N, H, W, C_in)``.
        w (array or PackedWeight): Weight array of shape ``(C_out, KH, KW, C_in / groups)``.
        stride, padding, dilation, output_padding (int or tuple(int), optional): One int for both
            axes, or two, for height and width.
        groups (int, optional): Groups of channels. Default: ``1``.
        stream, method, max_workspace (optional): As for :func:`conv_transpose1d`.

    Returns:
        array: Of shape ``(N, H_out, W_out, C_out)``. Each size follows from those of its axis.

    Raises:
        ValueError: If an argument does not fit; the message says what must hold.
    """
    given = (stride, padding, dilation, output_padding, groups)
    return convolve("conv_transpose2d", x, w, given, stream, method, max_workspace)


def conv_transpose3d(
    x: mx.array,
    w: Weight,
    /,
    stride: IntOrSequence = 1,
    padding: IntOrSequence = 0,
    dilation: IntOrSequence = 1,
    output_padding: IntOrSequence = 0,
    groups: int = 1,
    *,
    stream: StreamOrDevice = None,
    method: str = "auto",
    max_workspace: int | None = None,
) -> mx.array:
    """3D transposed convolution over an input with several channels.

    As :func:`mlx.core.conv_transpose3d`.

    Args:
        x (array): Input array of shape ``(N, D, H, W, C_in)``.
        w (array or PackedWeight): Weight array of shape ``(C_out, KD, KH, KW, C_in / groups)``.
        stride, padding, dilation, output_padding (int or tuple(int), optional): One int for all
            axes, or three, for depth, height and width.
        groups (int, optional): Groups of channels, which MLX refuses in 3D. Default: ``1``.
        stream, method, max_workspace (optional): As for :func:`conv_transpose1d`.

    Returns:
        array: Of shape ``(N, D_out, H_out, W_out, C_out)``. Each size follows from those of its
        axis.

    Raises:
        ValueError: If an argument does not fit; the message says what must hold.
    """
    given = (stride, padding, dilation, output_padding, groups)
    return convolve("conv_transpose3d", x, w, given, stream, method, max_workspace)


def conv_general(
    x: mx.array,
    w: Weight,
    /,
    stride: IntOrSequence = 1,
    padding: Padding = 0,
    kernel_dilation: IntOrSequence = 1,
    input_dilation: IntOrSequence = 1,
    groups: int = 1,
    flip: bool = False,
    *,
    stream: StreamOrDevice = None,
    method: str = "auto",
    max_workspace: int | None = None,
) -> mx.array:
    """Convolution of any rank with any stride, padding and dilation of kernel and input.

    As :func:`mlx.core.conv_general`, with the same result wherever that is right. Without input
    dilation it is MLX's own convolution; with ``stride`` and ``input_dilation`` both above 1 it
    resamples by their ratio.

    Args:
        x (array): Input array of shape ``(N, *S, C_in)``, one to three spatial axes.
        w (array or PackedWeight): Weight array of shape ``(C_out, *K, C_in / groups)``.
        stride (int or list(int), optional): Samples of the dilated input per output sample.
            Default: ``1``.
        padding (int, list(int) or tuple(list(int), list(int)), optional): Zeros put before and
            after the dilated input, or separately as ``([lo...], [hi...])``. A negative number
            crops the *dilated* input, as in PyTorch and JAX. Default: ``0``.
        kernel_dilation (int or list(int), optional): Samples from tap to tap. Default: ``1``.
        input_dilation (int or list(int), optional): Samples of the dilated input per input sample.
            Default: ``1``.
        groups (int, optional): Groups of channels, in any rank. Default: ``1``.
        flip (bool, optional): Whether the kernel is applied last tap first. Default: ``False``.
        stream (Stream or Device, optional): Where to run. Default: MLX's default.
        method (str, optional): A method to force. Default: ``"auto"``.
        max_workspace (int, optional): Bytes that may be allocated besides arguments and result.
            Default: what the device allows.

    Returns:
        array: Of shape ``(N, *S_out, C_out)``.

    Raises:
        ValueError: If an argument does not fit; the message says what must hold.
    """
    given = (stride, padding, kernel_dilation, input_dilation, groups, flip)
    return convolve("conv_general", x, w, given, stream, method, max_workspace)
