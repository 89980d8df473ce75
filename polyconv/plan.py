"""Which undilated convolutions replace a convolution, and why these?

A plan of rank N is the product of the plans of its axes (`axisplan.py`); what is left to choose
here is the method. Standard library only: a plan holds integers, never arrays.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from math import prod

from polyconv.axisplan import (
    AxisPlan,
    Block,
    Rejection,
    native_axis,
    per_phase_axis,
    stacked_axis,
)
from polyconv.cost import Cost
from polyconv.spec import ConvSpec, refuse

_ITEMSIZE = {"float16": 2, "bfloat16": 2, "float32": 4, "float64": 8}


@dataclass(frozen=True, slots=True)
class SubConv:
    """One convolution to issue: one block per axis, and `mx.conv_general`'s arguments for it.

    `zeros` go in front of each axis of the input beforehand, where the padding is longer than the
    kernel: for the weight's gradient MLX exchanges the two, and its CPU kernel for dilated or
    grouped convolutions writes past an output that is shorter than the padding.
    """

    blocks: tuple[Block, ...]
    n_phases: tuple[int, ...]
    zeros: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[tuple[int, ...], tuple[int, ...]]
    kernel_dilation: tuple[int, ...]
    input_dilation: tuple[int, ...]


@dataclass(frozen=True)
class ConvPlan:
    """What to run for `problem`: for each product of one block per axis, one convolution.

    `flip` is what these convolutions are called with; the weights are flipped beforehand where it
    differs from the problem's. `rejected` says why the other methods were not taken.
    """

    problem: ConvSpec
    method: str
    axes: tuple[AxisPlan, ...]
    flip: bool
    rejected: tuple[Rejection, ...] = ()

    @cached_property
    def is_zero(self) -> bool:
        """Whether no convolution is needed, as every output is zero."""
        return self.problem.is_empty or not all(axis.phases for axis in self.axes)

    @cached_property
    def subconvs(self) -> tuple[SubConv, ...]:
        """All products of one block per axis, the last axis running fastest."""
        return tuple(_subconv(blocks) for blocks in product(*[axis.blocks for axis in self.axes]))

    @cached_property
    def lone_phase_shape(self) -> tuple[int, ...]:
        """What one phase's output is reshaped to: `(N, M1, 1, M2, 1, ..., G, O / G)`."""
        spec = self.problem
        frames = [size for axis in self.axes for size in (axis.n_frames, 1)]
        return (spec.batch, *frames, spec.groups, spec.out_channels // spec.groups)

    @property
    def cost(self) -> Cost:
        if self.is_zero:
            return Cost(0, 0, 0)
        spec = self.problem
        frames = spec.batch * prod(axis.n_frames for axis in self.axes)
        weights = spec.out_channels * (spec.in_channels // spec.groups)
        weights *= prod(axis.block_taps for axis in self.axes)
        windows = frames * spec.in_channels * prod(axis.window_taps for axis in self.axes)
        outputs = frames * spec.out_channels * prod(axis.n_phases for axis in self.axes)
        return Cost(
            macs=frames * weights,
            n_convs=prod(axis.n_blocks for axis in self.axes),
            bytes_moved=_ITEMSIZE[spec.dtype] * (windows + weights + outputs * self._n_copies),
        )

    @property
    def _n_copies(self) -> int:
        """How often weaving copies the output: per concatenation, and for one transposition."""
        joins = sum(axis.is_joined for axis in self.axes)
        widest = [axis.stacked and len(axis.phases) > 1 for axis in self.axes]
        # In 1D the phases lie between frames and channels already, where they belong.
        transposed = any(widest[:-1]) or (widest[-1] and self.problem.groups > 1)
        return joins + transposed


def _subconv(blocks: tuple[Block, ...]) -> SubConv:
    axes = [block.axis for block in blocks]
    undilated = all(axis.input_dilation == 1 for axis in axes)
    zeros = [max(axis.padding_lo - axis.window + 1, 0) if undilated else 0 for axis in axes]
    padding_lo = [axis.padding_lo - n for axis, n in zip(axes, zeros, strict=True)]
    return SubConv(
        blocks,
        tuple([len(block.phases) for block in blocks]),
        tuple(zeros),
        tuple([axis.stride for axis in axes]),
        (tuple(padding_lo), tuple([axis.padding_hi for axis in axes])),
        tuple([axis.kernel_dilation for axis in axes]),
        tuple([axis.input_dilation for axis in axes]),
    )


def plan(spec: ConvSpec, method: str = "auto", op: str = "plan") -> ConvPlan:
    """Plans a convolution.

    Args:
        spec (ConvSpec): The convolution.
        method (str): ``"auto"``, or one of `METHODS` to force it.
        op (str): The name that errors are reported under.

    Returns:
        ConvPlan: With ``"auto"`` MLX's own convolution if no axis has an input dilation, else the
        cheapest polyphase method.

    Raises:
        ValueError: If `method` is unknown or cannot compute `spec`.
    """
    if method != "auto":
        if method not in METHODS:
            refuse(op, f"method must be one of {', '.join(('auto', *METHODS))}", repr(method))
        forced = METHODS[method](spec)
        if isinstance(forced, Rejection):
            refuse(op, f"method must suit the arguments: {forced.reason}", repr(method))
        return forced
    direct = _lower_native(spec)
    if not spec.is_input_dilated and isinstance(direct, ConvPlan):
        return direct
    lowered = [METHODS[name](spec) for name in METHODS if name != "native"]
    plans = [candidate for candidate in lowered if isinstance(candidate, ConvPlan)]
    best = min(plans, key=lambda candidate: candidate.cost.seconds)
    if best.is_zero:
        return best
    return _explained(best, lowered, direct)


def _explained(
    best: ConvPlan, lowered: list[ConvPlan | Rejection], direct: ConvPlan | Rejection
) -> ConvPlan:
    rejected = [
        other if isinstance(other, Rejection) else Rejection(other.method, _dearer(other, best))
        for other in lowered
        if other is not best
    ]
    if isinstance(direct, ConvPlan):
        direct = Rejection("native", "input_dilation > 1 multiplies inserted zeros")
    return ConvPlan(best.problem, best.method, best.axes, best.flip, (*rejected, direct))


def _dearer(other: ConvPlan, best: ConvPlan) -> str:
    a, b = other.cost, best.cost
    return (
        f"estimated {a.seconds / b.seconds:.2f} times the cost: {a.n_convs} convs against "
        f"{b.n_convs}, {a.macs} MACs against {b.macs}, {a.bytes_moved} bytes moved against "
        f"{b.bytes_moved}"
    )


def _lower_per_phase(spec: ConvSpec) -> ConvPlan | Rejection:
    axes = tuple(per_phase_axis(axis) for axis in spec.axes)
    return ConvPlan(spec, "per_phase", axes, flip=False)


def _lower_stacked(spec: ConvSpec) -> ConvPlan | Rejection:
    axes = []
    for axis in spec.axes:
        lowered = stacked_axis(axis)
        if isinstance(lowered, Rejection):
            return lowered
        axes.append(lowered)
    return ConvPlan(spec, "stacked", tuple(axes), flip=False)


def _lower_native(spec: ConvSpec) -> ConvPlan | Rejection:
    if spec.groups > 1 and spec.ndim == 3:
        return Rejection("native", "MLX has no groups in 3D")
    if spec.is_empty:
        return Rejection("native", "MLX fails on arrays without elements")
    for axis in spec.axes:
        cropped = min(axis.padding_lo, axis.padding_hi)
        if cropped < 0 and axis.input_dilation > 1:
            return Rejection("native", "MLX crops before it dilates where padding is negative")
        if cropped <= -axis.size:
            return Rejection("native", "MLX miscounts where negative padding crops a whole axis")
    if _overruns(spec):
        return Rejection(
            "native", "MLX's CPU kernel writes past an output shorter than its padding"
        )
    axes = tuple(native_axis(axis) for axis in spec.axes)
    return ConvPlan(spec, "native", axes, flip=spec.flip)


def _overruns(spec: ConvSpec) -> bool:
    """Whether MLX's CPU kernel would write out of bounds, here or in the gradient of the input.

    `slow_conv_2D` and `_3D` (mlx/backend/cpu/conv.cpp, up to 0.32.4 at least) take the first
    `ceil(padding_lo / stride)` outputs of an axis as its border without asking whether it has as
    many. They run where a dimension is dilated or the channels are grouped. The gradient's padding
    is `window - 1 - padding_lo`, its output the input.
    """
    slow = spec.groups > 1 or any(axis.kernel_dilation > 1 for axis in spec.axes)
    if spec.ndim == 1 or not slow or spec.is_input_dilated:
        return False
    return any(
        axis.padding_lo > axis.stride * axis.output_size
        or axis.window - 1 - axis.padding_lo > axis.size
        for axis in spec.axes
    )


METHODS: dict[str, Callable[[ConvSpec], ConvPlan | Rejection]] = {
    "per_phase": _lower_per_phase,
    "stacked": _lower_stacked,
    "native": _lower_native,
}
