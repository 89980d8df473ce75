"""Which undilated convolutions replace a convolution, and why these?

A plan of rank N is the product of the plans of its axes (`axisplan.py`); what is left to choose
here is the method. Standard library only: a plan holds integers, never arrays.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product
from math import prod

from polyconv.arguments import refuse
from polyconv.axisplan import (
    AxisPlan,
    Block,
    Rejection,
    native_axis,
    per_phase_axis,
    stacked_axis,
)
from polyconv.cost import Cost
from polyconv.spec import INT32_MAX, ITEMSIZE, ConvSpec


@dataclass(frozen=True, slots=True)
class SubConv:
    """One convolution to issue: one block per axis, and `mx.conv_general`'s arguments for it."""

    blocks: tuple[Block, ...]
    n_phases: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[tuple[int, ...], tuple[int, ...]]
    kernel_dilation: tuple[int, ...]
    input_dilation: tuple[int, ...]


@dataclass(frozen=True)
class ConvPlan:
    """What to run for `problem`: for each product of one block per axis, one convolution.

    `flip` is what these convolutions are called with; the weights are flipped beforehand where it
    differs from the problem's. `rejected` says why `auto` did not take the other methods, where it
    had a choice.
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

    @cached_property
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
            bytes_moved=ITEMSIZE[spec.dtype] * (windows + weights + outputs * self._n_copies),
        )

    @property
    def _n_copies(self) -> int:
        """How often weaving copies the output: per concatenation, and for one transposition."""
        joins = sum(axis.is_joined for axis in self.axes)
        stacks = [axis.stacked and len(axis.phases) > 1 for axis in self.axes]
        # In 1D the phases lie between frames and channels already, where they belong.
        transposed = any(stacks[:-1]) or (stacks[-1] and self.problem.groups > 1)
        return joins + transposed


def _subconv(blocks: tuple[Block, ...]) -> SubConv:
    axes = [block.axis for block in blocks]
    return SubConv(
        blocks,
        tuple([len(block.phases) for block in blocks]),
        tuple([axis.stride for axis in axes]),
        (tuple([axis.padding_lo for axis in axes]), tuple([axis.padding_hi for axis in axes])),
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
            refuse(op, "method must suit the arguments", f"{method!r}: {forced.reason}")
        return forced
    direct = _lower_native(spec)
    if not spec.is_input_dilated and isinstance(direct, ConvPlan):
        return direct
    lowered = [METHODS[name](spec) for name in METHODS if name != "native"]
    plans = [candidate for candidate in lowered if isinstance(candidate, ConvPlan)]
    if not plans:
        reasons = {other.reason for other in lowered if isinstance(other, Rejection)}
        refuse(op, "some method other than native must apply", "; ".join(sorted(reasons)))
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
        direct = Rejection("native", "MLX's fast kernels need input_dilation 1")
    return replace(best, rejected=(*rejected, direct))


def _dearer(other: ConvPlan, best: ConvPlan) -> str:
    a, b = other.cost, best.cost
    return (
        f"estimated {a.seconds / b.seconds:.2f} times the cost: {a.n_convs} convs against "
        f"{b.n_convs}, {a.macs} MACs against {b.macs}, {a.bytes_moved} bytes moved against "
        f"{b.bytes_moved}"
    )


def _lower_per_phase(spec: ConvSpec) -> ConvPlan | Rejection:
    return _countable(spec, "per_phase", [per_phase_axis(axis) for axis in spec.axes])


def _lower_stacked(spec: ConvSpec) -> ConvPlan | Rejection:
    axes = []
    for axis in spec.axes:
        lowered = stacked_axis(axis)
        if isinstance(lowered, Rejection):
            return lowered
        axes.append(lowered)
    return _countable(spec, "stacked", axes)


def _countable(spec: ConvSpec, method: str, axes: Sequence[AxisPlan]) -> ConvPlan | Rejection:
    most = max(axis.computed_size for axis in axes)
    if most > INT32_MAX:
        reason = f"its whole frames are {most} outputs on an axis, and MLX counts in int32"
        return Rejection(method, reason)
    return ConvPlan(spec, method, tuple(axes), flip=False)


def _lower_native(spec: ConvSpec) -> ConvPlan | Rejection:
    if spec.groups > 1 and spec.ndim == 3:
        return Rejection("native", "MLX has no groups in 3D")
    if spec.is_empty:
        return Rejection("native", "MLX fails on arrays without elements")
    axes = tuple(native_axis(axis) for axis in spec.axes)
    for axis in [lowered.blocks[0].axis for lowered in axes]:
        cropped = min(axis.padding_lo, axis.padding_hi)
        if cropped < 0 and axis.input_dilation > 1:
            return Rejection("native", "MLX crops before it dilates where padding is negative")
        if cropped <= -axis.size:
            return Rejection("native", "MLX miscounts where negative padding crops a whole axis")
    return ConvPlan(spec, "native", axes, flip=spec.flip)


METHODS: dict[str, Callable[[ConvSpec], ConvPlan | Rejection]] = {
    "per_phase": _lower_per_phase,
    "stacked": _lower_stacked,
    "native": _lower_native,
}
