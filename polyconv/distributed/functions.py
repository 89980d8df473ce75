"""Convolutions of a sequence that is cut into pieces, one for each rank of a group.

Each rank is sent the samples that its outputs read and it does not have, and computes these outputs
by the ordinary functions: what is communicated is the halo, in front, and for the gradients the
halo's gradient back and one sum of the weight's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import mlx.core as mx

from polyconv.distributed.halo import check_piece, gathered, sharding_of
from polyconv.distributed.sharding import ShardedAxis, Sharding, sharded_axis
from polyconv.distributed.transport import Group, group_of, summed_gradient
from polyconv.execution.arrays import cut
from polyconv.execution.device import StreamOrDevice
from polyconv.execution.packing import PackedWeight
from polyconv.ops import conv_transpose
from polyconv.ops.call import Weight, check_types, dtype_names
from polyconv.problem import arguments, spec
from polyconv.problem.signatures import General, Plain, Transposed

IntOrSequence: TypeAlias = "int | Sequence[int]"
Padding: TypeAlias = "int | Sequence[int] | tuple[Sequence[int], Sequence[int]]"
Result: TypeAlias = "tuple[mx.array, Sharding]"

HALVES = (mx.float16, mx.bfloat16)


@dataclass(frozen=True)
class _Where:
    """Along which axis, on which ranks, and how it is computed there."""

    axis: int
    group: Group | None
    sharding: Sharding | None
    output_sharding: Sharding | None
    options: dict[str, Any]


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
    """As :func:`polyconv.conv_transpose1d`, of a sequence in pieces, one on each rank.

    All ranks must call it, with the same arguments but for `x`, and differentiate it alike. It
    sends what is to be sent at once, so not inside of ``mx.compile`` or ``mx.vmap``.

    Args:
        x (array): The piece of this rank, ``(N, L, C_in)``.
        w (array or PackedWeight): The weight, the same on all ranks; so is its gradient.
        stride, padding, dilation, output_padding, groups: As ever.
        sharding (Sharding, optional): How the sequence is cut. Default: the ranks ask each other.
        axis (int, optional): The axis of `x` along which it is cut, ``1`` for the first spatial
            one. Default: ``1``.
        group (Group, optional): The ranks. Default: all.
        output_sharding (Sharding, optional): How the output is to be cut. Default: an output is
            where the sample next to the middle of those is that it reads.
        stream (Stream or Device, optional): Where to run. Default: MLX's default.
        method (str, optional): A method to force. Default: ``"auto"``.
        max_workspace (int, optional): Bytes that may be allocated besides arguments and result.
            Default: what the device allows.

    Returns:
        tuple: The piece of the output that this rank has, ``(N, L_out, C_out)``, and how the
        output is cut. Concatenated, the pieces are the output for the whole sequence.

    Raises:
        ValueError: If an argument does not fit, as for the whole sequence, or if the piece is not
            the one of this rank.
        RuntimeError: Of MLX, if a rank was lost.
    """
    where = _where(axis, group, sharding, output_sharding, stream, method, max_workspace)
    return _transposed(1, x, w, (stride, padding, dilation, output_padding, groups), where)


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
    """As :func:`polyconv.conv_transpose2d`, of a picture in pieces; see :func:`conv_transpose1d`.

    Args:
        x (array): The piece of this rank, ``(N, H, W, C_in)``, cut along `axis`, 1 or 2.
    """
    where = _where(axis, group, sharding, output_sharding, stream, method, max_workspace)
    return _transposed(2, x, w, (stride, padding, dilation, output_padding, groups), where)


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
    """As :func:`polyconv.conv_transpose3d`, of a volume in pieces; see :func:`conv_transpose1d`.

    Args:
        x (array): The piece of this rank, ``(N, D, H, W, C_in)``, cut along `axis`, 1 to 3.
    """
    where = _where(axis, group, sharding, output_sharding, stream, method, max_workspace)
    return _transposed(3, x, w, (stride, padding, dilation, output_padding, groups), where)


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
    """As :func:`polyconv.conv1d`, of a sequence in pieces; see :func:`conv_transpose1d`."""
    where = _where(axis, group, sharding, output_sharding, stream, method, max_workspace)
    _check_types("conv1d", x, w, where)
    stride, padding, dilation, groups = Plain(stride, padding, dilation, groups).read("conv1d", 1)
    return _general("conv1d", 1, x, w, (stride, padding, dilation, 1, groups, False), where)


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
    """As :func:`polyconv.conv_general`, of any rank; see :func:`conv_transpose1d`."""
    where = _where(axis, group, sharding, output_sharding, stream, method, max_workspace)
    given = (stride, padding, kernel_dilation, input_dilation, groups, flip)
    return _general("conv_general", None, x, w, given, where)


def _where(
    axis: int,
    group: Group | None,
    sharding: Sharding | None,
    output_sharding: Sharding | None,
    stream: StreamOrDevice,
    method: str,
    max_workspace: int | None,
) -> _Where:
    options = {"stream": stream, "method": method, "max_workspace": max_workspace}
    return _Where(axis, group, sharding, output_sharding, options)


def _transposed(
    ndim: int, x: mx.array, w: Weight, given: tuple[Any, Any, Any, Any, Any], where: _Where
) -> Result:
    op = f"conv_transpose{ndim}d"
    _check_types(op, x, w, where)
    read = Transposed(*given).read(op, ndim)
    return _sharded(op, x, w, where, lambda x, w, names: spec.transposed(op, x, w, names, *read))


def _general(
    op: str, ndim: int | None, x: mx.array, w: Weight, given: tuple[Any, ...], where: _Where
) -> Result:
    _check_types(op, x, w, where)
    ndim = spec.spatial_ndim(op, x.shape) if ndim is None else ndim
    read = General(*given).read(op, ndim)
    return _sharded(op, x, w, where, lambda x, w, names: spec.general(op, x, w, names, *read))


def _check_types(op: str, x: Any, w: Any, where: _Where) -> None:
    check_types(op, x, w, where.options["stream"], where.options["method"])


def _sharded(
    op: str, x: mx.array, w: Weight, where: _Where, problem_of: Callable[..., spec.ConvSpec]
) -> Result:
    group = group_of(op, where.group)
    axis = where.axis
    sharding = where.sharding
    if sharding is None:
        sharding = sharding_of(x, axis=axis, group=group)
    check_piece(op, x, sharding, axis, group)
    if not 1 <= axis <= x.ndim - 2:
        arguments.refuse(op, "axis must be a spatial axis of x", str(axis))
    shape = (*x.shape[:axis], sharding.size, *x.shape[axis + 1 :])
    problem = problem_of(shape, w.shape, dtype_names((x.dtype, w.dtype)))
    along = problem.axes[axis - 1]
    _check_outputs(op, where.output_sharding, along.output_size, group)
    cuts = sharded_axis(along, sharding, where.output_sharding)
    return _computed(x, w, problem, cuts, where, group), cuts.outputs


def _check_outputs(op: str, outputs: Sharding | None, size: int, group: Group) -> None:
    if outputs is None:
        return
    if not isinstance(outputs, Sharding) or (outputs.size, outputs.n_ranks) != (size, group.size()):
        must = f"output_sharding must cut {size} outputs for {group.size()} ranks"
        arguments.refuse(op, must, arguments.shown(outputs))


def _computed(
    x: mx.array,
    w: Weight,
    problem: spec.ConvSpec,
    cuts: ShardedAxis,
    where: _Where,
    group: Group,
) -> mx.array:
    """The outputs of this rank, by `conv_general` of what they read.

    Also where there are none, or they read nothing: the ranks must have the same part in messages.
    """
    axis, part = where.axis, cuts.parts[group.rank()]
    convolve = _local(problem, axis, part.axis, where.options)
    halves = x.dtype in HALVES
    inputs = gathered(x, cuts.exchange, axis, group, mx.float32 if halves else None)
    if isinstance(w, PackedWeight) and not w.is_constant:
        w = w.array  # its gradient is summed over the ranks, as that of any
    if isinstance(w, PackedWeight):
        y = convolve(inputs.astype(x.dtype), w)
    else:
        wide = w.dtype in HALVES
        held = summed_gradient(w.astype(mx.float32) if wide else w, group)
        dtypes = (x.dtype, w.dtype)
        y = (
            rounded_once(convolve, inputs, held, dtypes)
            if halves or wide
            else convolve(inputs, held)
        )
    return cut(y, axis, 0, part.outputs[1] - part.outputs[0], 1)


def _local(
    problem: spec.ConvSpec, axis: int, along: spec.Axis, options: dict[str, Any]
) -> Callable[[mx.array, Weight], mx.array]:
    axes = list(problem.axes)
    axes[axis - 1] = along
    given = (
        [each.stride for each in axes],
        ([each.padding_lo for each in axes], [each.padding_hi for each in axes]),
        [each.kernel_dilation for each in axes],
        [each.input_dilation for each in axes],
        problem.groups,
        problem.flip,
    )
    return lambda x, w: conv_transpose.conv_general(x, w, *given, **options)


def rounded_once(
    convolve: Callable[[mx.array, mx.array], mx.array],
    x: mx.array,
    w: mx.array,
    dtypes: tuple[mx.Dtype, mx.Dtype],
) -> mx.array:
    """The convolution of halves that are held as float32, and its gradients in float32.

    A gradient is then summed up over ranks before it is rounded, as that of the whole is.
    """

    @mx.custom_function
    def compute(x: mx.array, w: mx.array) -> mx.array:
        return convolve(x.astype(dtypes[0]), w.astype(dtypes[1]))

    @compute.vjp
    def pull_back(arrays: Sequence[mx.array], dy: mx.array, _: Any) -> list[mx.array]:
        grads: list[mx.array]
        _, grads = mx.vjp(convolve, list(arrays), [dy.astype(mx.float32)])
        return grads

    return compute(x, w)
