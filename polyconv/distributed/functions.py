"""Convolutions of a sequence that is cut into pieces, one for each rank of a group."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import mlx.core as mx

from polyconv.distributed.local import Layout, Result, piece_of_output
from polyconv.distributed.sharding import Sharding
from polyconv.distributed.transport import Group
from polyconv.execution.device import StreamOrDevice
from polyconv.ops.call import Weight, check_types
from polyconv.problem.signatures import SIGNATURES, Signature, spatial_ndim

IntOrSequence: TypeAlias = "int | Sequence[int]"
Padding: TypeAlias = "int | Sequence[int] | tuple[Sequence[int], Sequence[int]]"


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
    sharding: Sharding | None = None,
    axis: int = 1,
    group: Group | None = None,
    output_sharding: Sharding | None = None,
    stream: StreamOrDevice = None,
    method: str = "auto",
    max_workspace: int | None = None,
) -> Result:
    """This rank's piece of a 1D transposed convolution, of a sequence in pieces.

    It is :func:`polyconv.conv_transpose1d` of the whole sequence, which no rank has.

    All ranks must call it, with the same arguments except `x`, and all must differentiate it the
    same way. Ranks send each other the samples around the cuts, and backward the gradients of
    these; the gradients of the weight are summed over the ranks. Samples are sent at once, so the
    call cannot be inside of ``mx.compile`` or ``mx.vmap``.

    Args:
        x (array): The piece of this rank, ``(N, L, C_in)``.
        w (array or PackedWeight): The weight, the same on all ranks. So is its gradient.
        sharding (Sharding, optional): How the sequence is cut. Default: the ranks ask each other.
        axis (int, optional): The axis of `x` along which it is cut, ``1`` for the first spatial
            one. Default: ``1``.
        group (Group, optional): The ranks. Default: all.
        output_sharding (Sharding, optional): How to cut the output. Default: each output goes to
            the rank that holds the middle of its inputs.
        stride, padding, dilation, output_padding, groups, stream, method, max_workspace: As for
            :func:`polyconv.conv_transpose1d`.

    Returns:
        tuple: This rank's piece of the output, ``(N, L_out, C_out)``, and how the output is cut.
        The pieces, concatenated, are the output for the whole sequence.

    Raises:
        ValueError: If an argument does not fit the whole sequence, or the piece is not the one of
            this rank.
        RuntimeError: If a rank was lost. MLX raises it.
    """
    layout = _layout(axis, group, sharding, output_sharding, stream, method, max_workspace)
    given = (stride, padding, dilation, output_padding, groups)
    return _in_pieces("conv_transpose1d", x, w, given, layout)


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
    sharding: Sharding | None = None,
    axis: int = 1,
    group: Group | None = None,
    output_sharding: Sharding | None = None,
    stream: StreamOrDevice = None,
    method: str = "auto",
    max_workspace: int | None = None,
) -> Result:
    """This rank's piece of a 2D transposed convolution, of an array in pieces.

    It is :func:`polyconv.conv_transpose2d`, called by all ranks as :func:`conv_transpose1d` here.

    Args:
        x (array): The piece of this rank, ``(N, H, W, C_in)``, cut along `axis`, 1 or 2.
        w (array or PackedWeight): The weight, the same on all ranks.
        stride, padding, dilation, output_padding, groups: As for
            :func:`polyconv.conv_transpose2d`.
        axis, sharding, group, output_sharding, stream, method, max_workspace: As for
            :func:`conv_transpose1d` here.

    Returns:
        tuple: This rank's piece of the output, and how the output is cut.

    Raises:
        ValueError: If an argument does not fit the whole, or the piece is not this rank's.
        RuntimeError: If a rank was lost. MLX raises it.
    """
    layout = _layout(axis, group, sharding, output_sharding, stream, method, max_workspace)
    given = (stride, padding, dilation, output_padding, groups)
    return _in_pieces("conv_transpose2d", x, w, given, layout)


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
    sharding: Sharding | None = None,
    axis: int = 1,
    group: Group | None = None,
    output_sharding: Sharding | None = None,
    stream: StreamOrDevice = None,
    method: str = "auto",
    max_workspace: int | None = None,
) -> Result:
    """This rank's piece of a 3D transposed convolution, of an array in pieces.

    It is :func:`polyconv.conv_transpose3d`, called by all ranks as :func:`conv_transpose1d` here.

    Args:
        x (array): The piece of this rank, ``(N, D, H, W, C_in)``, cut along `axis`, 1 to 3.
        w (array or PackedWeight): The weight, the same on all ranks.
        stride, padding, dilation, output_padding, groups: As for
            :func:`polyconv.conv_transpose3d`.
        axis, sharding, group, output_sharding, stream, method, max_workspace: As for
            :func:`conv_transpose1d` here.

    Returns:
        tuple: This rank's piece of the output, and how the output is cut.

    Raises:
        ValueError: If an argument does not fit the whole, or the piece is not this rank's.
        RuntimeError: If a rank was lost. MLX raises it.
    """
    layout = _layout(axis, group, sharding, output_sharding, stream, method, max_workspace)
    given = (stride, padding, dilation, output_padding, groups)
    return _in_pieces("conv_transpose3d", x, w, given, layout)


def conv1d(
    x: mx.array,
    w: Weight,
    /,
    stride: IntOrSequence = 1,
    padding: IntOrSequence = 0,
    dilation: IntOrSequence = 1,
    groups: int = 1,
    *,
    sharding: Sharding | None = None,
    axis: int = 1,
    group: Group | None = None,
    output_sharding: Sharding | None = None,
    stream: StreamOrDevice = None,
    method: str = "auto",
    max_workspace: int | None = None,
) -> Result:
    """This rank's piece of a 1D convolution, of an array in pieces.

    It is :func:`polyconv.conv1d`, called by all ranks as :func:`conv_transpose1d` here.

    Args:
        x (array): The piece of this rank, ``(N, L, C_in)``.
        w (array or PackedWeight): The weight, the same on all ranks.
        stride, padding, dilation, groups: As for
            :func:`polyconv.conv1d`.
        axis, sharding, group, output_sharding, stream, method, max_workspace: As for
            :func:`conv_transpose1d` here.

    Returns:
        tuple: This rank's piece of the output, and how the output is cut.

    Raises:
        ValueError: If an argument does not fit the whole, or the piece is not this rank's.
        RuntimeError: If a rank was lost. MLX raises it.
    """
    layout = _layout(axis, group, sharding, output_sharding, stream, method, max_workspace)
    return _in_pieces("conv1d", x, w, (stride, padding, dilation, groups), layout)


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
    sharding: Sharding | None = None,
    axis: int = 1,
    group: Group | None = None,
    output_sharding: Sharding | None = None,
    stream: StreamOrDevice = None,
    method: str = "auto",
    max_workspace: int | None = None,
) -> Result:
    """This rank's piece of a convolution of any rank, of an array in pieces.

    It is :func:`polyconv.conv_general`, called by all ranks as :func:`conv_transpose1d` here.

    Args:
        x (array): The piece of this rank, ``(N, *S, C_in)``, cut along `axis`.
        w (array or PackedWeight): The weight, the same on all ranks.
        stride, padding, kernel_dilation, input_dilation, groups, flip: As for
            :func:`polyconv.conv_general`.
        axis, sharding, group, output_sharding, stream, method, max_workspace: As for
            :func:`conv_transpose1d` here.

    Returns:
        tuple: This rank's piece of the output, and how the output is cut.

    Raises:
        ValueError: If an argument does not fit the whole, or the piece is not this rank's.
        RuntimeError: If a rank was lost. MLX raises it.
    """
    layout = _layout(axis, group, sharding, output_sharding, stream, method, max_workspace)
    given = (stride, padding, kernel_dilation, input_dilation, groups, flip)
    return _in_pieces("conv_general", x, w, given, layout)


def _layout(
    axis: int,
    group: Group | None,
    sharding: Sharding | None,
    output_sharding: Sharding | None,
    stream: StreamOrDevice,
    method: str,
    max_workspace: int | None,
) -> Layout:
    options = {"stream": stream, "method": method, "max_workspace": max_workspace}
    return Layout(axis, group, sharding, output_sharding, options)


def _in_pieces(op: str, x: mx.array, w: Weight, given: tuple[Any, ...], layout: Layout) -> Result:
    check_types(op, x, w, layout.options["stream"], layout.options["method"])
    signature: Signature = SIGNATURES[op](*given)
    return piece_of_output(op, x, w, layout, signature.read(op, spatial_ndim(op, x.shape)))
