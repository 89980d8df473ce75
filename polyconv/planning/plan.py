"""Which undilated convolutions replace a convolution, and why these?

A plan of rank N is the product of the plans of its axes (`axis_plan.py`); what is left to choose
here is the method. Standard library only: a plan holds integers, never arrays.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import product
from math import lcm, prod

from polyconv.planning.axis_plan import (
    AxisPlan,
    Block,
    Rejection,
    grouped_axis,
    native_axis,
    per_phase_axis,
    stacked_axis,
    zero_axis,
)
from polyconv.planning.cached_property import cached_property
from polyconv.planning.cost import (
    by_convolutions,
    by_products,
    n_copies,
    n_frames,
    n_weights,
    on_cuda,
)
from polyconv.planning.devices import CPU, Device, Host, Metal
from polyconv.planning.forms import Issued, as_it_stands, issue
from polyconv.planning.rates import Cost, si
from polyconv.problem.arguments import refuse, shown
from polyconv.problem.phases import phase_stride
from polyconv.problem.spec import INT32_MAX, ITEMSIZE, ConvSpec

# How much more than the ideal multiply-accumulates `auto` spends on Metal where it need not.
MOST_MACS = 1.15


@dataclass(frozen=True, slots=True)
class SubConv:
    """One convolution: one block per axis, its number of phases, and how MLX is given it.

    With `is_zero`, which only a part of a plan may have, it reads padding and no sample.
    """

    blocks: tuple[Block, ...]
    n_phases: tuple[int, ...]
    spec: ConvSpec
    issued: Issued
    is_zero: bool


@dataclass(frozen=True)
class ConvPlan:
    """What to run for `problem`: for each product of one block per axis, one convolution.

    `flip` is what these convolutions are called with; the weights are flipped beforehand where it
    differs from the problem's. `device` is what the plan is made for. With `products` each is not a
    convolution of MLX's but a matrix product per tap: of the whole padded input (``"flat"``), of
    what each tap reads (``"gathered"``), or, with one input channel a group, sums of ``"scaled"``
    inputs. `rejected` says why `auto` did not take the other methods, where it had a choice.
    """

    problem: ConvSpec
    method: str
    axes: tuple[AxisPlan, ...]
    flip: bool
    device: Device = CPU
    products: str = ""
    rejected: tuple[Rejection, ...] = ()

    @property
    def label(self) -> str:
        """The method, and of `taps` which of its forms: by axis, and how the input is read."""
        if not self.products:
            return self.method
        cuts = ["own" if axis.grouped else "shared" for axis in self.axes]
        return " ".join([self.method, *cuts, self.products])

    @property
    def metal(self) -> Metal | None:
        """The device, if it is one of Apple's GPUs."""
        return self.device if isinstance(self.device, Metal) else None

    @property
    def is_native(self) -> bool:
        """Whether it is the problem as it stands, for MLX's own op."""
        return self.axes[0].native

    @property
    def is_for_any_size(self) -> bool:
        """Whether MLX is given the very problem, in terms that hold for inputs of any size."""
        unread = any(axis.axis != whole for axis, whole in zip(self.axes, self.problem.axes))
        cropped = any(min(a.padding_lo, a.padding_hi) < 0 for a in self.problem.axes)
        return self.is_native and not unread and not cropped

    @cached_property
    def is_zero(self) -> bool:
        """Whether no convolution is needed, as every output is zero, or there is none."""
        return self.problem.is_empty or not all(axis.phases for axis in self.axes)

    @cached_property
    def subconvs(self) -> tuple[SubConv, ...]:
        """All products of one block per axis, the last axis running fastest."""
        return tuple(self._subconv(blocks) for blocks in product(*[a.blocks for a in self.axes]))

    @cached_property
    def first(self) -> SubConv:
        """The first subconv, which is like all others in channels and frames."""
        return self._subconv(tuple(axis.first_block for axis in self.axes))

    @cached_property
    def largest(self) -> SubConv:
        """One of the subconvs that have the most taps."""
        return self._subconv(tuple(axis.largest_block for axis in self.axes))

    @cached_property
    def packing_key(self) -> object:
        """Equal for plans that cut a weight alike; the length of the input is not in it."""
        cuts = tuple(tuple(block.cut for block in axis.blocks) for axis in self.axes)
        problem = (self.problem.groups, self.problem.flip, self.problem.dtype)
        forms: tuple[object, ...] = (self.products == "scaled",)
        if not self.products:
            forms = tuple([sub.issued.form.of_weight for sub in self.subconvs])
        return (cuts, self.is_native, bool(self.products), forms, *problem)

    @cached_property
    def cost(self) -> Cost:
        if self.is_zero:
            return Cost(0, 0, 0)
        if self.products:
            return by_products(self.problem, self.axes, self.products)
        if self.device.name == "cuda":
            return on_cuda(self.problem, self.axes)
        if self.metal is None:
            return by_convolutions(self.problem, self.axes)
        return self._cost_on_metal()

    @property
    def seconds(self) -> float:
        """What it is estimated to cost; of use in comparisons on the same device only."""
        return self.cost.seconds(self.device.rates)

    @cached_property
    def is_in_order(self) -> bool:
        """Whether a lone convolution in 1D leaves phases between frames and channels already."""
        axis = self.axes[0]
        return len(self.axes) == self.problem.groups == 1 and not axis.is_joined

    @property
    def n_taps(self) -> int:
        """Taps of all subconvs: with `products` one each."""
        return prod(axis.window_taps for axis in self.axes)

    @property
    def n_copies(self) -> int:
        """How often weaving copies the output."""
        return n_copies(self.problem, self.axes)

    def _cost_on_metal(self) -> Cost:
        spec, issued = self.problem, self.first.issued
        frames, weights = n_frames(spec, self.axes), n_weights(spec, self.axes)
        outputs = frames * spec.out_channels * prod(axis.n_phases for axis in self.axes)
        n_convs = prod(axis.n_blocks for axis in self.axes)
        bytes_moved = ITEMSIZE[spec.dtype] * (weights + outputs * self.n_copies)
        return Cost(
            macs=frames * weights * issued.cost.macs // issued.plain_macs,
            n_convs=n_convs * issued.n_convs,
            bytes_moved=bytes_moved + n_convs * issued.cost.bytes_moved,
        )

    def _subconv(self, blocks: tuple[Block, ...]) -> SubConv:
        n_phases = tuple([len(block.phases) for block in blocks])
        spec = replace(
            self.problem,
            out_channels=self.problem.out_channels * prod(n_phases),
            axes=tuple([block.axis for block in blocks]),
            flip=self.flip,
        )
        lower = as_it_stands if self.is_native else issue
        is_zero = any(min(a.padding_lo, a.padding_hi) <= -a.size for a in spec.axes)
        return SubConv(blocks, n_phases, spec, lower(spec, self.device), is_zero)


def plan(spec: ConvSpec, method: str = "auto", op: str = "plan", device: Device = CPU) -> ConvPlan:
    """Plans a convolution.

    Args:
        spec (ConvSpec): The convolution.
        method (str): ``"auto"``, or one of `METHODS` to force it.
        op (str): The name that errors are reported under.
        device (Metal or Host, optional): What to plan for. Default: a CPU.

    Returns:
        ConvPlan: With ``"auto"`` the cheapest. MLX's own convolution may be it where no axis has an
        input dilation, on CUDA if nothing is flipped either; on Metal it is taken there if its
        kernel is safe and need not be flipped, and else the cheapest of those methods that need at
        most `MOST_MACS` times the ideal arithmetic, if any does. Ideal are the
        multiply-accumulates of all phases with their own taps and the channels as they are.

    Raises:
        ValueError: If `method` is unknown or cannot compute `spec`.
    """
    if method != "auto":
        if method not in METHODS:
            refuse(op, f"method must be one of {', '.join(('auto', *METHODS))}", shown(method))
        forced = METHODS[method](spec, device)
        if spec.dtype == "float64" and method != "taps" and not _has_float64(spec):
            forced = Rejection(method, "MLX has no convolution of float64 here")
        if isinstance(forced, Rejection):
            refuse(op, "method must suit the arguments", f"{method!r}: {forced.reason}")
        return forced
    if _is_by_taps_alone(spec, device):
        return _in_float64(spec, device)
    if spec.dtype == "float64" and not _has_float64(spec):  # on a GPU, where MLX has it nowhere
        refuse(op, "dtype must be float16, bfloat16 or float32 (as for MLX)", spec.dtype)
    direct = _lower_native(spec, device)
    if isinstance(direct, ConvPlan) and _stays_native(direct):
        return direct
    lowered = [METHODS[name](spec, device) for name in METHODS if name != "native"]
    plans = [each for each in lowered if isinstance(each, ConvPlan) and _suits(each)]
    if isinstance(direct, ConvPlan) and _competes(direct):
        plans.insert(0, direct)
    if not plans:
        reasons = {other.reason for other in lowered if isinstance(other, Rejection)}
        refuse(op, "some method other than native must apply", "; ".join(sorted(reasons)))
    nothing = next((each for each in plans if each.is_zero), None)
    if nothing is not None:
        return nothing
    if isinstance(device, Metal):
        most = MOST_MACS * ideal(spec)
        plans = [each for each in plans if each.cost.macs <= most] or plans
    best = min(plans, key=lambda candidate: candidate.seconds)
    return best if best is direct else _explained(best, lowered, direct)


def alternatives(spec: ConvSpec, device: Device = CPU) -> list[ConvPlan]:
    """All that `auto` compares on a device that is no Apple GPU, each form of `taps` by itself."""
    lowered = by_taps(spec, device)
    if not _is_by_taps_alone(spec, device):
        lowered += [_lower_per_phase(spec, device), _lower_stacked(spec, device)]
    plans = [each for each in lowered if isinstance(each, ConvPlan)]
    direct = _lower_native(spec, device)
    if isinstance(direct, ConvPlan) and _competes(direct):
        plans.append(direct)
    return plans


def _is_by_taps_alone(spec: ConvSpec, device: Device) -> bool:
    """Whether it is for products only: MLX's CPU convolutions compute float64 in float32."""
    return spec.dtype == "float64" and device.name == "cpu"


def _in_float64(spec: ConvSpec, device: Device) -> ConvPlan:
    reason = "MLX's convolutions of float64 are as accurate as those of float32"
    found = _lower_taps(spec, device)
    assert isinstance(found, ConvPlan)  # phases over windows of their own can always be taken
    others = [Rejection(name, reason) for name in METHODS if name != found.method]
    return replace(found, rejected=tuple(others))


def _has_float64(spec: ConvSpec) -> bool:
    """Whether MLX computes it by a matrix product; its loops on the CPU know no float64."""
    is_dilated = any(max(axis.input_dilation, axis.kernel_dilation) > 1 for axis in spec.axes)
    return not is_dilated and (spec.groups == 1 or (spec.ndim == 1 and not spec.flip))


def ideal(spec: ConvSpec) -> int:
    """The multiply-accumulates of all phases with their own taps, without any aligned channels."""
    lowered = _lower_per_phase(spec, CPU)
    return lowered.cost.macs if isinstance(lowered, ConvPlan) else 0


def _stays_native(direct: ConvPlan) -> bool:
    """Whether MLX's own convolution is taken: where nothing is dilated, as polyconv adds nothing.

    On a CPU it is one of several, compared by cost. On Metal not if it would unfold, read outside
    its input, or flip the kernel, which keeps it from its fastest kernels.
    """
    if direct.problem.is_input_dilated:
        return False
    if direct.metal is None:
        return False
    return not direct.problem.flip and direct.first.issued.is_safe


def _competes(direct: ConvPlan) -> bool:
    """Whether `auto` may take MLX's own convolution for its cost.

    On a CPU not where it would multiply inserted zeros, on CUDA not where it may be wrong.
    """
    if _is_by_taps_alone(direct.problem, direct.device):
        return False
    if direct.device.name == "cuda":
        return not _shares_plans_on_cuda(direct.problem)
    return direct.metal is None and not direct.problem.is_input_dilated


def _suits(candidate: ConvPlan) -> bool:
    """Whether `auto` may take it: products are for the CPU, on a GPU no kernel taken unfolds."""
    return candidate.device.name == "cpu" or not candidate.products


def _explained(
    best: ConvPlan, lowered: list[ConvPlan | Rejection], direct: ConvPlan | Rejection
) -> ConvPlan:
    rejected = [
        other if isinstance(other, Rejection) else Rejection(other.method, _dearer(other, best))
        for other in lowered
        if other is not best
    ]
    if isinstance(direct, ConvPlan):
        direct = Rejection("native", _not_native(direct, best))
    return replace(best, rejected=(*rejected, direct))


def _not_native(direct: ConvPlan, best: ConvPlan) -> str:
    if direct.device.name == "cuda" and _shares_plans_on_cuda(direct.problem):
        return "MLX on CUDA may compute it by cuDNN's plan for another input_dilation"
    if direct.metal is None and direct.cost.macs_in_loops:
        return "MLX computes it on the CPU by loops over single samples"
    if direct.metal is None:
        return _dearer(direct, best)
    if direct.problem.is_input_dilated:
        return "MLX's fast kernels need input_dilation 1, no zeros between the samples"
    if not direct.first.issued.is_safe:
        return "its kernel unfolds or reads outside its input"
    return "MLX calls it with flip=True, which its fastest kernels do not take"


def _dearer(other: ConvPlan, best: ConvPlan) -> str:
    a, b = other.cost, best.cost
    if not _suits(other):
        return "it spares the copies of MLX's CPU convolutions, which no kernel makes on a GPU"
    if a == b:
        return f"does the same as {best.method}"
    if other.seconds < best.seconds:
        return f"{a.macs / b.macs:.2f} times the multiply-accumulates"
    if best.seconds:
        estimated = f"estimated {other.seconds / best.seconds:.3g} times the cost"
    else:  # by rates that are 0, as a calibration may find them
        estimated = f"estimated to take {other.seconds:.3g} s against 0"
    return (
        f"{estimated}: {a.n_convs} convolutions against {b.n_convs}, "
        f"{si(a.macs).strip()} MACs against {si(b.macs).strip()}, "
        f"{si(a.bytes_moved)}B moved against {si(b.bytes_moved)}B"
    )


def _nothing(spec: ConvSpec, method: str, device: Device) -> ConvPlan:
    """The plan of a problem that is empty, of which no phase is looked for."""
    return _plan_of(spec, method, [zero_axis(axis) for axis in spec.axes], device)


def _lower_per_phase(spec: ConvSpec, device: Device) -> ConvPlan | Rejection:
    if spec.is_empty:
        return _nothing(spec, "per_phase", device)
    return _plan_of(spec, "per_phase", [per_phase_axis(axis) for axis in spec.axes], device)


def _lower_stacked(spec: ConvSpec, device: Device) -> ConvPlan | Rejection:
    if spec.is_empty:
        return _nothing(spec, "stacked", device)
    axes = []
    for axis in spec.axes:
        lowered = stacked_axis(axis)
        if isinstance(lowered, Rejection):
            return lowered
        axes.append(lowered)
    return _plan_of(spec, "stacked", axes, device)


def _plan_of(
    spec: ConvSpec, method: str, axes: Sequence[AxisPlan], device: Device, products: str = ""
) -> ConvPlan:
    return ConvPlan(spec, method, tuple(axes), flip=False, device=device, products=products)


def _lower_taps(spec: ConvSpec, device: Device) -> ConvPlan | Rejection:
    lowered = by_taps(spec, device)
    plans = [each for each in lowered if isinstance(each, ConvPlan)]
    if not plans:
        return next(each for each in lowered if isinstance(each, Rejection))
    return min(plans, key=lambda each: each.seconds) if len(plans) > 1 else plans[0]


def by_taps(spec: ConvSpec, device: Device) -> list[ConvPlan | Rejection]:
    """Each way to multiply tap by tap.

    On each axis all phases over one window, or phases of as many taps over their own. What the taps
    read is a slice of the padded input where frames advance by one sample, and can always be
    gathered; which is less work depends on the margins.
    """
    if spec.is_empty:
        return [_nothing(spec, "taps", device)]
    cuts: list[list[AxisPlan]] = []
    for axis in spec.axes:
        own, shared = grouped_axis(axis), stacked_axis(axis)
        if isinstance(shared, Rejection) or own.n_blocks == 1:
            cuts.append([own])
        else:
            cuts.append([shared, own])
    if spec.in_channels == spec.groups:
        ways = ["scaled"]
    elif not reads_in_lines(spec):
        ways = ["gathered"]
    else:
        ways = ["flat"] if spec.ndim == 1 and spec.batch == 1 else ["flat", "gathered"]
    return [_plan_of(spec, "taps", axes, device, way) for axes in product(*cuts) for way in ways]


def reads_in_lines(spec: ConvSpec) -> bool:
    """Whether each tap reads a slice of the padded input: one group, frames a sample apart."""
    return spec.groups == 1 and all(phase_stride(axis) == 1 for axis in spec.axes)


@lru_cache(256)
def plan_for_gradients(spec: ConvSpec, device: Host) -> ConvPlan:
    """What both gradients are products of: all phases over one window, or phase by phase.

    One window unless that multiplies too many zeros: its taps lie in the kernel as they come, while
    those of several blocks are put together by some four copies of the kernel more.
    """
    own, shared = _lower_per_phase(spec, device), _lower_stacked(spec, device)
    assert isinstance(own, ConvPlan)  # phase by phase anything can be computed
    if isinstance(shared, Rejection):
        return own
    rates = device.rates
    kernel = prod(axis.kernel_size for axis in spec.axes) * spec.in_channels // spec.groups
    copies = 4 * 4 * spec.out_channels * kernel * rates.per_byte_moved
    zeros = (shared.cost.macs - own.cost.macs) * max(rates.per_mac, rates.per_panel_mac)
    return shared if zeros <= copies else own


def _lower_native(spec: ConvSpec, device: Device) -> ConvPlan | Rejection:
    if spec.groups > 1 and spec.ndim == 3:
        return Rejection("native", "MLX has no groups in 3D")
    if spec.is_empty:
        return Rejection("native", "MLX fails on arrays without elements")
    if device.name == "cuda" and _is_misread_on_cuda(spec):
        return Rejection("native", "MLX on CUDA may overlook a stride or dilation of it")
    axes = tuple(native_axis(axis) for axis in spec.axes)
    for axis in [lowered.blocks[0].axis for lowered in axes]:
        cropped = min(axis.padding_lo, axis.padding_hi)
        if cropped < 0 and axis.input_dilation > 1:
            return Rejection("native", "MLX crops before it dilates where padding is negative")
        if cropped <= -axis.size:
            return Rejection("native", "MLX miscounts where negative padding crops a whole axis")
        common = (
            lcm(axis.input_dilation, axis.stride),
            lcm(axis.input_dilation, axis.kernel_dilation),
        )
        if axis.input_dilation > 1 and max(common) > INT32_MAX:
            return Rejection("native", "MLX counts common multiples of its steps in int32")
    return ConvPlan(spec, "native", axes, flip=spec.flip, device=device)


def _shares_plans_on_cuda(spec: ConvSpec) -> bool:
    """Whether it may be computed by cuDNN's plan for another stride: all transposed ones.

    MLX 0.32.4 keeps cuDNN's plans by shapes, stride, padding, kernel dilation, groups and flip, and
    not by input dilation (mlx/backend/cuda/conv.cpp). Of two calls that differ in it alone the
    later one runs the plan of the earlier one, whoever made it. A transposed convolution of stride
    1 is such a call as well: it is flipped as the others are. Others neither dilate nor flip.
    """
    return spec.is_input_dilated or spec.flip


def _is_misread_on_cuda(spec: ConvSpec) -> bool:
    """Whether cuDNN may be asked for another convolution that happens to have as many outputs.

    A flipped kernel is given to cuDNN's gradient of a convolution, without its stride, and another
    to its convolution, without the input dilation; MLX 0.32.4 trusts cuDNN to refuse sizes that do
    not agree (mlx/backend/cuda/conv.cpp, `get_conv_settings`).
    """
    if spec.flip:
        return any(axis.stride > 1 for axis in spec.axes)
    return spec.is_input_dilated


METHODS: dict[str, Callable[[ConvSpec, Device], ConvPlan | Rejection]] = {
    "per_phase": _lower_per_phase,
    "stacked": _lower_stacked,
    "taps": _lower_taps,
    "native": _lower_native,
}
