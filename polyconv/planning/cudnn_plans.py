"""Which calls may MLX answer by a plan of cuDNN's that was made for another call? No MLX.

MLX 0.32.4 keeps cuDNN's plans by shapes, stride, padding, kernel dilation, groups and flip
(mlx/backend/cuda/conv.cpp). The input dilation is missing, and so is the output's size. So a call
runs the plan that one of another input dilation left there, whoever made it. Two kinds are safe.

**Ordinary ones, if their padding in front is no longer than behind**, or little longer. An axis of
n samples, window W and stride s has 1 + (n + padding_lo + padding_hi - W) // s outputs. Dilated it
has as many or more. MLX tells cuDNN nothing of the dilation, and cuDNN checks the outputs:

* For its convolution they must be as many as that. So it accepts no other plan than the ordinary.
* For its gradient of a weight, which MLX tries next, MLX gives padding_lo for both ends. They may
  be at most 1 + (n + 2 padding_lo - W) // s. Where that is no more, the plan is the ordinary again.

**Transposed ones that are marked.** A flipped call is cuDNN's gradient of an input, to which MLX
does not tell the stride of the call. So one more axis of size 1 can have any stride. A stride that
no other call has, and that tells the input dilation, makes a key of its own.

docs/benchmarks/cuda_proof.py runs both on a GPU, between calls of MLX's own.

MLX also keeps plans by the alignment of both arrays as they are given. Where it copies one, the
plan is made for the copy. So a call may fail, by a misaligned pointer, if MLX copies none of its
arrays and did copy one of an equal call before it. Copies are well aligned, but those of at most 8
bytes, which lie anywhere in a pool (mlx/backend/cuda/allocator.cpp). So no plan is made for a copy
unless MLX copies that array in all equal calls, and no copy is so small. (In `exporting()` arrays
are given as they lie, since MLX cannot export `mx.contiguous`.)

MLX's own calls may still leave such a plan. An ordinary convolution finds it if its input begins at
an odd place of a buffer. MLX's own fails there too, and no operation tells where an array will lie.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from polyconv.problem.spec import ITEMSIZE, Axis, ConvSpec

# A copy of MLX's of so many bytes or fewer lies at any multiple of 8.
POOLED = 8
# Far above any stride, and below any that int32 does not hold. MLX counts the alignment of the
# weight as it is given, but prepares the plan for its copy. A weight whose channels lie exchanged
# in memory is not copied, and so has a mark of its own.
MARK, TURNED, _BITS = 2**30, 2**29, 14


def zeros_in_front(axis: Axis) -> int:
    """How much of an ordinary convolution's padding in front must be copied, to be safe."""
    alike = replace(axis, padding_hi=axis.padding_lo)
    if axis.padding_hi >= axis.padding_lo or alike.output_size <= axis.output_size:
        return 0
    return axis.padding_lo - axis.padding_hi


def behind_zeros(axis: Axis, zeros: int) -> Axis:
    """What is left to be padded once a copy has put so many zeros in front."""
    return replace(axis, size=axis.size + zeros, padding_lo=axis.padding_lo - zeros)


def marked(axes: Sequence[Axis], turned: bool) -> Axis:
    """The axis that marks a transposed convolution of these, by a weight that is turned or not."""
    told = sum(axis.input_dilation << (_BITS * i) for i, axis in enumerate(axes))
    return Axis(size=1, kernel_size=1, stride=MARK + TURNED * turned + told)


def can_be_marked(spec: ConvSpec, turned: bool) -> bool:
    """Whether it is one in 1D or 2D that cuDNN's gradient of an input computes.

    This asks for the strided convolution whose gradient it is: one with a padding of at least 0,
    and with as many outputs as there are samples here. For others MLX has a slow kernel. Of groups
    MLX copies the weight to a place that it does not keep until the kernel has run, so that other
    results may be written there. It copies nothing where each group is one channel. Nor may it copy
    a weight to its pool.
    """
    # In 2D it becomes one in 3D, where MLX has no groups. `mx.vmap` needs these for a weight that
    # is mapped, which no packed weight is.
    if spec.ndim > (2 if turned else 1) or not spec.flip:
        return False
    depthwise = spec.ndim == 1 and spec.groups == spec.in_channels == spec.out_channels
    is_kept = turned or depthwise  # where it lies, and not copied
    if not is_kept and ITEMSIZE[spec.dtype] * spec.n_weights <= POOLED:
        return False
    return (spec.groups == 1 or depthwise) and all(map(_is_gradient, spec.axes))


def lies_exchanged(itemsize: int, batch: int, points: int, channels: int) -> bool:
    """Whether an array whose batch and channels are exchanged lies no more row by row.

    It still does where two of its three sizes are 1. An array of the pool counts as lying so, too.
    For an ordinary convolution of equal shapes may find MLX's plan for exchanged arrays, or they
    its own. Then MLX copies both.
    """
    is_pooled = itemsize * batch * points * channels <= POOLED
    return not is_pooled and sum(n > 1 for n in (batch, points, channels)) > 1


def _is_gradient(axis: Axis) -> bool:
    if axis.stride > 1 or not axis.input_dilation < 1 << _BITS:
        return False
    reaches = 0 <= axis.padding_lo < axis.window
    return reaches and 0 <= axis.padding_hi - axis.padding_lo < axis.input_dilation
