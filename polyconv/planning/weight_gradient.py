"""Is the gradient of a weight one convolution, and which? Standard library only.

With cotangent y, the gradient of the weight of an ordinary convolution with stride s, kernel
dilation d and padding is

    dw[k] = sum over frames m of   x[s m + d k - padding_lo] y[m]

This is a convolution of x by the kernel y, with stride d and kernel dilation s. Batch and channels
change places, as it sums over the batch. cuDNN has an operation of its own for it. MLX asks for it
where both arrays are transposed views and the kernel is longer than the output
(mlx/backend/cuda/conv.cpp).
"""

from __future__ import annotations

from polyconv.planning.plan import ConvPlan
from polyconv.problem.spec import Axis

# By docs/benchmarks/cuda_layers.py. With more taps to a stride the product of all windows, copied,
# is faster: 11 taps on 2,048 samples and more.
_MOST_TAPS = 8


def gradient_options(plan: ConvPlan) -> tuple[object, ...] | None:
    """The arguments of `mx.conv_general`, after both arrays, that give a weight's gradient.

    They are for two axes. One axis gets one of size 1 in front.

    Args:
        plan (ConvPlan): MLX's own op for an ordinary convolution.

    Returns:
        tuple: None if a product is to be taken.
    """
    axes = plan.first.spec.axes
    # In 3D MLX could not map it by `mx.vmap`, whose rule is read even where ours is taken.
    suits = plan.device.backend.convolves_for_weights and plan.problem.groups == 1
    if not suits or len(axes) > 2 or not all(map(_is_gradient, axes)):
        return None
    if axes[-1].output_size <= axes[-1].kernel_size:
        return None
    unit = (Axis(size=1, kernel_size=1),) if len(axes) == 1 else ()
    axes = (*unit, *axes)
    return (
        tuple([axis.kernel_dilation for axis in axes]),
        (tuple([a.padding_lo for a in axes]), tuple([a.padding_hi for a in axes])),
        tuple([axis.stride for axis in axes]),
    )


def _is_gradient(axis: Axis) -> bool:
    """Whether cuDNN's gradient is taken for it.

    MLX gives cuDNN the padding in front for both ends, which must lead to as many frames.
    """
    more = axis.padding_lo - axis.padding_hi
    fits = axis.padding_hi >= 0 and 0 <= more < axis.stride
    return fits and axis.kernel_size <= _MOST_TAPS * axis.stride
