"""What does a rank compute of a convolution whose input lies in pieces on all ranks?

Each rank is sent the samples that its outputs read and that it does not have, the halo, and
computes these outputs by `conv_general`. Backward the gradient of the halo travels back, and the
gradients of the weight are summed over the ranks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import mlx.core as mx

from polyconv.distributed.halo import check_piece, gathered, sharding_of
from polyconv.distributed.sharding import ShardedAxis, Sharding, sharded_axis
from polyconv.distributed.transport import Group, group_of, summed_gradient
from polyconv.execution.arrays import cut
from polyconv.execution.device import check_float64
from polyconv.execution.packing import PackedWeight
from polyconv.ops import conv_transpose
from polyconv.ops.call import Weight, dtype_names
from polyconv.planning.forms import options_of
from polyconv.problem import arguments, spec
from polyconv.problem.signatures import Signature

Result: TypeAlias = "tuple[mx.array, Sharding]"

HALVES = (mx.float16, mx.bfloat16)


@dataclass(frozen=True)
class Layout:
    """Along which axis and on which ranks input and output are cut, and options of the call."""

    axis: int
    group: Group | None
    sharding: Sharding | None
    output_sharding: Sharding | None
    options: dict[str, Any]


def piece_of_output(op: str, x: mx.array, w: Weight, layout: Layout, options: Signature) -> Result:
    """This rank's piece of the output, and how the output is cut, of options that were read."""
    group = group_of(op, layout.group)
    axis = layout.axis
    sharding = layout.sharding
    if sharding is None:
        sharding = sharding_of(x, axis=axis, group=group)
    check_piece(op, x, sharding, axis, group)
    check_float64(op, "weight", w.dtype)
    if not 1 <= axis <= x.ndim - 2:
        arguments.refuse(op, "axis must be a spatial axis of x", str(axis))
    shape = (*x.shape[:axis], sharding.size, *x.shape[axis + 1 :])
    problem = options.spec(op, shape, w.shape, dtype_names((x.dtype, w.dtype)))
    along = problem.axes[axis - 1]
    _check_outputs(op, layout.output_sharding, along.output_size, group)
    cuts = sharded_axis(along, sharding, layout.output_sharding)
    return _computed(x, w, problem, cuts, layout, group), cuts.outputs


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
    layout: Layout,
    group: Group,
) -> mx.array:
    """The outputs of this rank, computed from the samples that they read.

    A rank without outputs runs through this too, because it may hold samples for other ranks.
    """
    axis, part = layout.axis, cuts.parts[group.rank()]
    convolve = _local(problem, axis, part.axis, layout.options)
    halves = x.dtype in HALVES
    inputs = gathered(x, cuts.exchange, axis, group, mx.float32 if halves else None)
    if isinstance(w, PackedWeight) and not w.is_constant:
        w = w.array  # its gradient is summed over the ranks too
    if isinstance(w, PackedWeight):
        y = convolve(inputs.astype(x.dtype), w)
    else:
        y = _with_summed_gradient(convolve, inputs, w, (x.dtype, w.dtype), group)
    return cut(y, axis, 0, part.outputs[1] - part.outputs[0], 1)


def _with_summed_gradient(
    convolve: Callable[[mx.array, mx.array], mx.array],
    inputs: mx.array,
    w: mx.array,
    dtypes: tuple[mx.Dtype, mx.Dtype],
    group: Group,
) -> mx.array:
    """The convolution, whose gradient of the weight is summed over the ranks."""
    is_half = [dtype in HALVES for dtype in dtypes]
    held = summed_gradient(w.astype(mx.float32) if is_half[1] else w, group)
    if any(is_half):
        return rounded_once(convolve, inputs, held, dtypes)
    return convolve(inputs, held)


def _local(
    problem: spec.ConvSpec, axis: int, along: spec.Axis, options: dict[str, Any]
) -> Callable[[mx.array, Weight], mx.array]:
    axes = (*problem.axes[: axis - 1], along, *problem.axes[axis:])
    given: tuple[Any, ...] = options_of(replace(problem, axes=axes))
    return lambda x, w: conv_transpose.conv_general(x, w, *given, **options)


def rounded_once(
    convolve: Callable[[mx.array, mx.array], mx.array],
    x: mx.array,
    w: mx.array,
    dtypes: tuple[mx.Dtype, mx.Dtype],
) -> mx.array:
    """The convolution of halves that are held as float32, with its gradients in float32.

    Gradients are so summed over the ranks before they are rounded, as for the whole sequence.
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
