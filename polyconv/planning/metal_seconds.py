"""Which kernels does a plan run on an Apple GPU, and how long do they take by the time model?

Standard library only.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from math import prod

from polyconv.metal import work
from polyconv.metal.gpus import Gpu
from polyconv.metal.seconds import FITTED, Kernel, Parameters, call_seconds
from polyconv.planning.cost import n_frames, n_packed, n_rows, n_weights
from polyconv.planning.plan import ConvPlan
from polyconv.problem.arguments import refuse
from polyconv.problem.spec import ITEMSIZE


def plan_seconds(
    plan: ConvPlan, gpu: Gpu, *, packed: bool = False, parameters: Parameters = FITTED
) -> float:
    """The time of a planned call within a graph, without the evaluation's own.

    Args:
        plan (ConvPlan): The plan, made for a Mac.
        gpu (Gpu): The device, such as ``CHIPS["m4 max"]``.
        packed (bool, optional): Whether the weights are packed already. Default: ``False``.
        parameters (Parameters, optional): The model's. Default: those that were fitted.

    Raises:
        ValueError: If the plan is for another device.
    """
    return call_seconds(kernels_of(plan, gpu, packed=packed), gpu, parameters)


def kernels_of(plan: ConvPlan, gpu: Gpu, *, packed: bool = False) -> tuple[Kernel, ...]:
    """What a planned call runs: packing, copies of the input, the arithmetic, and weaving."""
    if plan.is_zero:
        return ()
    if not plan.device.backend.predicts_kernels:
        refuse("plan_seconds", "plan must be made for a Mac", f"one for {plan.device.name}")
    by = _by_products if plan.products else _by_convolutions
    return (*by(plan, gpu), *around(plan, packed))


def around(plan: ConvPlan, packed: bool) -> Iterator[Kernel]:
    """What a plan runs besides the arithmetic: weaving, and the packing of its weights."""
    yield from _weaving(plan)
    if not (packed or plan.is_native):
        itemsize = _itemsize(plan)
        weights = n_packed(n_weights(plan.problem, plan.axes), plan.axes)
        n_cuts = prod(axis.n_blocks for axis in plan.axes)
        yield replace(work.copy(2 * itemsize * weights, itemsize), n_launches=n_cuts)


def _itemsize(plan: ConvPlan) -> int:
    return ITEMSIZE[plan.computing_dtype]


def _by_convolutions(plan: ConvPlan, gpu: Gpu) -> Iterator[Kernel]:
    """Kernels of one family together: MLX lets run at once what does not depend on each other."""
    alike: dict[str, list[tuple[Kernel, int]]] = {}
    for sub, n in plan.kinds:
        for kernel in sub.issued.kernels_on(gpu):
            alike.setdefault(kernel.family, []).append((kernel, n))
    for kernels in alike.values():
        yield Kernel(
            kernels[0][0].family,
            sum(n * kernel.n_bytes for kernel, n in kernels),
            sum(n * kernel.macs for kernel, n in kernels),
            sum(n * kernel.loads for kernel, n in kernels),
            sum(n * kernel.n_tiles for kernel, n in kernels),
            sum(n * kernel.n_launches for kernel, n in kernels),
            kernels[0][0].kind,
        )


def _by_products(plan: ConvPlan, gpu: Gpu) -> Iterator[Kernel]:
    """A product per tap, which adds to what others gave. Flat ones have the rows of margins too."""
    spec, itemsize = plan.problem, _itemsize(plan)
    frames = n_frames(spec, plan.axes)
    rows = n_rows(spec, plan.axes) if plan.products == "flat" else frames
    pads = any(a.padding_lo or a.padding_hi for sub, _ in plan.kinds for a in sub.spec.axes)
    if pads or ITEMSIZE[spec.dtype] < itemsize:
        yield work.copy(2 * itemsize * spec.n_inputs, itemsize)
    for sub, n in plan.kinds:
        taps = prod(axis.kernel_size for axis in sub.spec.axes)
        made = itemsize * rows * sub.spec.out_channels
        if plan.products == "scaled":  # multiplied, then added
            yield replace(work.copy(n * taps * 5 * made, itemsize), n_launches=2 * n * taps)
            continue
        if plan.products == "gathered":
            read = 2 * itemsize * n * taps * rows * spec.in_channels
            yield replace(work.copy(read, itemsize), n_launches=n * taps)
        groups = spec.groups
        sizes = (rows, sub.spec.out_channels // groups, spec.in_channels // groups)
        once = work.product(*sizes, gpu, batch=groups, itemsize=itemsize, transposed=True)
        yield replace(once, n_times=n)
        if taps > 1:
            yield replace(once, n_bytes=once.n_bytes + made, n_times=n * (taps - 1))


def _weaving(plan: ConvPlan) -> Iterator[Kernel]:
    """A copy of all outputs per concatenation, or one that transposes where none joins them."""
    itemsize = _itemsize(plan)
    spec = plan.problem
    computed = spec.batch * spec.out_channels * prod(axis.computed_size for axis in plan.axes)
    moved = work.copy(2 * itemsize * computed, itemsize, "concat")
    for i, axis in enumerate(plan.axes):
        if axis.is_joined:
            pieces = prod(each.n_blocks for each in plan.axes[: i + 1])
            yield replace(moved, n_launches=pieces)
    *before, last = plan.first.n_phases
    is_joined = any(axis.is_joined for axis in plan.axes)
    is_transposed = max(before, default=1) > 1 or (last > 1 and spec.groups > 1)
    if not is_joined and (is_transposed or _is_cropped(plan)):
        yield moved
    if itemsize > ITEMSIZE[spec.dtype]:
        yield work.copy((itemsize + ITEMSIZE[spec.dtype]) * spec.n_outputs, itemsize)


def _is_cropped(plan: ConvPlan) -> bool:
    """Whether rows that belong to no frame lie between those that do."""
    if plan.products != "flat":
        return False
    return n_rows(plan.problem, plan.axes) > n_frames(plan.problem, plan.axes)
