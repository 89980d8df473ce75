"""Is the gradient of a weight one convolution, and which? Standard library only.

With cotangent y, the gradient of the weight of an ordinary convolution with stride s, kernel
dilation d and padding is

    dw[k] = sum over frames m of   x[s m + d k - padding_lo] y[m]

This is a convolution of x by the kernel y, with stride d and kernel dilation s. Batch and channels
change places, as it sums over the batch. cuDNN has an operation of its own for it. MLX asks for it
where both arrays are transposed views and the kernel is longer than the output
(mlx/backend/cuda/conv.cpp).

Else it is a product of y and all windows, which are copied. In 1D these overlap. A run of n frames
reads a window of K + s (n - 1) samples. So to take the frames of a run for n times as many channels
copies a fraction of that. What is found is the gradient of a longer kernel, for each frame. What is
wanted of frame j begins at tap s j. The sum of these parts is the gradient.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod

from polyconv.planning.cudnn_plans import lies_exchanged, zeros_in_front
from polyconv.planning.plan import ConvPlan
from polyconv.problem.spec import ITEMSIZE, Axis, ConvSpec

# By docs/benchmarks/cuda_layers.py --residual on an H200. The product of all windows, copied, is
# faster where few channels meet more taps to a stride than these, and where many channels and
# frames meet windows that reach further.
_FEW_CHANNELS, _MOST_TAPS = 64, 3
_MANY_CHANNELS, _MANY_FRAMES, _FURTHEST = 128, 2**15, 24

# To copy a number takes as long as so many multiply-accumulates of a product, on an H200: 8 bytes
# at some 2.5 TB/s, and 150 TFLOP/s by TF32.
_COPY, _RUNS = 240, (1, 2, 4, 8, 16)


@dataclass(frozen=True, slots=True)
class WeightGradient:
    """A weight's gradient as one convolution of two axes. One axis gets one of size 1 in front.

    `options` are the arguments of `mx.conv_general` after both arrays. Of each axis of its result
    the first samples are the gradient. With `is_longer` there are others behind.
    """

    options: tuple[object, ...]
    is_longer: bool


def as_convolution(plan: ConvPlan) -> WeightGradient | None:
    """The gradient of a weight as one convolution. None if a product is to be taken.

    Args:
        plan (ConvPlan): MLX's own op for an ordinary convolution.
    """
    axes = plan.first.spec.axes
    # In 3D MLX could not map it by `mx.vmap`, whose rule is read even where ours is taken.
    suits = plan.device.backend.convolves_for_weights and plan.problem.groups == 1
    if not suits or len(axes) > 2 or _is_slow(plan.first.spec):
        return None
    issued = [_exchanged(axis) for axis in axes]
    if not (all(map(_is_gradient, axes, issued)) and _are_exchanged(plan.first.spec)):
        return None
    if issued[-1].kernel_size <= issued[-1].output_size:
        return None  # MLX would not ask for cuDNN's gradient
    is_longer = any(new.output_size > old.kernel_size for new, old in zip(issued, axes))
    issued = [*[Axis(size=1, kernel_size=1)] * (2 - len(axes)), *issued]
    options = (
        tuple([axis.stride for axis in issued]),
        (tuple([a.padding_lo for a in issued]), tuple([a.padding_hi for a in issued])),
        tuple([axis.kernel_dilation for axis in issued]),
    )
    return WeightGradient(options, is_longer)


@dataclass(frozen=True, slots=True)
class Run:
    """So many frames of a line, taken at once, and the taps of the window that they read."""

    frames: int
    taps: int


def run_of(plan: ConvPlan) -> Run | None:
    """The run that costs least in the product of all windows. None if frames are taken singly.

    What is counted for each channel that is read: the windows, which are copied, the products, and
    the gradient of the longer kernel, which is copied three times.
    """
    spec = plan.problem
    if spec.ndim > 1 or spec.groups > 1:
        return None
    (axis,) = plan.first.spec.axes
    if axis.kernel_size <= axis.stride or axis.kernel_dilation > 1:
        return None
    frames, outputs = spec.batch * axis.output_size, spec.out_channels

    def price(run: Run) -> float:
        copied = frames / run.frames + 3 * run.frames * outputs
        return run.taps * (_COPY * copied + frames * outputs)

    whole = [n for n in _RUNS if axis.output_size % n == 0]
    best = min([Run(n, axis.kernel_size + axis.stride * (n - 1)) for n in whole], key=price)
    return best if best.frames > 1 else None


def _exchanged(axis: Axis) -> Axis:
    """The axis of that convolution: its kernel are the frames of this one.

    It is padded behind as in front where cuDNN might else run the plan of another call
    (`cudnn_plans.py`). That adds outputs behind, and costs less than zeros copied in front.
    """
    steps = {"stride": axis.kernel_dilation, "kernel_dilation": axis.stride}
    found = replace(axis, kernel_size=axis.output_size, **steps)
    return replace(found, padding_hi=found.padding_lo) if zeros_in_front(found) else found


def _is_gradient(axis: Axis, exchanged: Axis) -> bool:
    """Whether cuDNN's gradient is taken for it.

    MLX gives cuDNN the padding in front for both ends, which must lead to as many frames.
    """
    lo, hi = axis.padding_lo, axis.padding_hi
    given = replace(axis, kernel_size=exchanged.output_size, padding_hi=lo)
    return hi >= 0 and 0 <= lo - hi < axis.stride and given.output_size == axis.output_size


def _are_exchanged(spec: ConvSpec) -> bool:
    """Whether MLX sees two transposed views, and so copies neither (`cudnn_plans.py`)."""
    itemsize, points = ITEMSIZE[spec.dtype], prod(axis.size for axis in spec.axes)
    read = lies_exchanged(itemsize, spec.batch, points, spec.in_channels)
    frames = prod(spec.output_sizes)
    return read and lies_exchanged(itemsize, spec.batch, frames, spec.out_channels)


def _is_slow(spec: ConvSpec) -> bool:
    """Whether cuDNN was measured to be slower than a product."""
    channels = min(spec.in_channels, spec.out_channels)
    is_narrow = channels < _FEW_CHANNELS
    is_long = spec.batch * prod(spec.output_sizes) >= _MANY_FRAMES and channels >= _MANY_CHANNELS
    return any(
        (is_narrow and axis.kernel_size > _MOST_TAPS * axis.stride)
        or (is_long and axis.window > _FURTHEST * axis.stride)
        for axis in spec.axes
    )
