"""What is a plan: which undilated convolutions replace a convolution?

A plan of rank N is the product of the plans of its axes (`axis_plan.py`). `methods.py` makes plans,
`choose.py` chooses among them. Standard library only: a plan holds integers, never arrays.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import product
from math import prod

from polyconv.planning.axis_plan import (
    AxisPlan,
    Block,
    Rejection,
)
from polyconv.planning.cached_property import cached_property
from polyconv.planning.cost import (
    Products,
    by_convolutions,
    by_products,
    n_copies,
    on_cuda,
    on_metal,
)
from polyconv.planning.devices import CPU, CostModel, Device
from polyconv.planning.forms import Issued, as_it_stands, issue
from polyconv.planning.rates import Cost
from polyconv.problem.spec import ITEMSIZE, ConvSpec


@dataclass(frozen=True)
class SubConv:
    """One convolution: one block per axis, and its number of phases.

    With `is_native` it is MLX's own op. With `is_zero`, which only a part of a plan may have, it
    reads padding and no sample.
    """

    blocks: tuple[Block, ...]
    n_phases: tuple[int, ...]
    spec: ConvSpec
    device: Device
    is_native: bool
    is_zero: bool
    turned: bool = False

    @cached_property
    def issued(self) -> Issued:
        """How MLX is given it."""
        if self.is_native:
            return as_it_stands(self.spec, self.device, self.turned)
        return issue(self.spec, self.device)


@dataclass(frozen=True)
class ConvPlan:
    """What to run for `problem`: one convolution for each combination of one block per axis.

    The convolutions are called with `flip`. Where it differs from the problem's, the weights are
    flipped beforehand. `device` is what the plan is made for. With `products` each convolution is
    one matrix product per tap instead. `rejected` says why `auto` did not take the other methods,
    where it had a choice, and `tuned` by which times it chose, where it did by tuning. With
    `turned` the weight may be kept as `Form.turned` says, or lies so already.
    """

    problem: ConvSpec
    method: str
    axes: tuple[AxisPlan, ...]
    flip: bool
    device: Device = CPU
    products: Products = ""
    rejected: tuple[Rejection, ...] = ()
    tuned: str = ""
    turned: bool = False

    @property
    def label(self) -> str:
        """The method. With products also the windows of each axis, and how the input is read."""
        if not self.products:
            return self.method
        cuts = ["own" if axis.grouped else "shared" for axis in self.axes]
        return " ".join([self.method, *cuts, self.products])

    @property
    def is_native(self) -> bool:
        """Whether MLX's own op computes the problem as it stands."""
        return self.axes[0].native

    @property
    def is_for_any_size(self) -> bool:
        """Whether MLX is given the very problem, in terms that hold for inputs of any size."""
        unread = any(axis.axis != whole for axis, whole in zip(self.axes, self.problem.axes))
        cropped = any(min(a.padding_lo, a.padding_hi) < 0 for a in self.problem.axes)
        return self.is_native and not unread and not cropped

    @cached_property
    def is_zero(self) -> bool:
        """Whether no convolution is needed: there is no output, or every output is zero."""
        return self.problem.is_empty or not all(axis.phases for axis in self.axes)

    @cached_property
    def subconvs(self) -> tuple[SubConv, ...]:
        """One for each combination of one block per axis. The last axis runs fastest."""
        return tuple(self._subconv(blocks) for blocks in product(*[a.blocks for a in self.axes]))

    @cached_property
    def kinds(self) -> tuple[tuple[SubConv, int], ...]:
        """A subconv of each number of phases and taps, and how many `subconvs` have these."""
        found = []
        for each in product(*[axis.kinds for axis in self.axes]):
            blocks, counts = zip(*each, strict=True)
            found.append((self._subconv(blocks), prod(counts)))
        return tuple(found)

    @cached_property
    def first(self) -> SubConv:
        """The first subconv. On Metal all others have its channels and frames."""
        return self._subconv(tuple(axis.first_block for axis in self.axes))

    @cached_property
    def largest(self) -> SubConv:
        """One of the subconvs that have the most taps."""
        return self._subconv(tuple(axis.largest_block for axis in self.axes))

    @cached_property
    def packing_key(self) -> object:
        """Plans that cut a weight alike have the same. The length of the input is not in it."""
        cuts = tuple(tuple(block.cut for block in axis.blocks) for axis in self.axes)
        problem = (self.problem.groups, self.problem.flip, self.computing_dtype)
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
        return COST_MODELS[self.device.backend.cost_model](self)

    @property
    def computing_dtype(self) -> str:
        """The problem's. But products are in float32, so that a sum of several is rounded once."""
        dtype = self.problem.dtype
        if not self.products or ITEMSIZE[dtype] >= 4:
            return dtype
        lone = all(taps <= 1 for axis in self.axes for _, taps in axis.block_sizes)
        rounds_once = self.device.backend.rounds_halves_once and self.products != "scaled"
        return dtype if lone and rounds_once else "float32"

    @property
    def n_taps(self) -> int:
        """Taps of all subconvs. With `products` each is one product."""
        return prod(axis.window_taps for axis in self.axes)

    @property
    def n_copies(self) -> int:
        """How often weaving copies the output."""
        return n_copies(self.problem, self.axes)

    def with_turned_weight(self) -> ConvPlan:
        """The plan for a weight that is packed or lies exchanged: another one if it is marked."""
        if not (self.is_native and self.device.backend.shares_cudnn_plans):
            return self
        found = replace(self, turned=True)
        return found if found.first.issued.form.lift == "marked" else self

    def _subconv(self, blocks: tuple[Block, ...]) -> SubConv:
        whole, n_phases = self.problem, tuple([len(block.phases) for block in blocks])
        axes = tuple([block.axis for block in blocks])
        outputs = whole.out_channels * prod(n_phases)
        sizes = (whole.batch, whole.in_channels, outputs)
        spec = ConvSpec(*sizes, axes, whole.groups, self.flip, whole.dtype)
        is_zero = any(min(a.padding_lo, a.padding_hi) <= -a.size for a in axes)
        native = self.is_native
        return SubConv(blocks, n_phases, spec, self.device, native, is_zero, self.turned)


# The work of a plan's convolutions, by `Backend.cost_model`.
COST_MODELS: dict[CostModel, Callable[[ConvPlan], Cost]] = {
    "cpu": lambda plan: by_convolutions(plan.problem, plan.axes),
    "cuda": lambda plan: on_cuda(plan.problem, plan.axes),
    "metal": lambda plan: on_metal(plan.problem, plan.axes, plan.first.issued),
}
