"""How long does a plan take on an Apple GPU, by the time model? Standard library only.

`auto` does not ask: the model rests on timings that others published, few of them of what plans do.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from math import prod

from polyconv.metal import work
from polyconv.metal.seconds import FITTED, Gpu, Kernel, Parameters, call_seconds
from polyconv.planning.cost import n_frames
from polyconv.planning.plan import ConvPlan, SubConv
from polyconv.problem.spec import ITEMSIZE


def plan_seconds(
    plan: ConvPlan, gpu: Gpu, *, packed: bool = False, parameters: Parameters = FITTED
) -> float:
    """The time of a planned call within a graph, without the evaluation's own.

    Args:
        plan (ConvPlan): The plan, made for a Mac.
        gpu (Gpu): The device, such as ``GPUS["m4-max"]``.
        packed (bool, optional): Whether the weights are packed already. Default: ``False``.
        parameters (Parameters, optional): The model's. Default: those that were fitted.
    """
    return call_seconds(kernels_of(plan, gpu, packed=packed), gpu, parameters)


def kernels_of(plan: ConvPlan, gpu: Gpu, *, packed: bool = False) -> tuple[Kernel, ...]:
    """What a planned call runs: packing, copies of the input, the arithmetic, and weaving."""
    if plan.is_zero:
        return ()
    by = _by_products if plan.products else _by_convolutions
    kernels = [*by(plan, gpu), *_weaving(plan)]
    if not (packed or plan.is_native):
        itemsize = max(ITEMSIZE[plan.problem.dtype], 4 if plan.products else 0)
        weights = sum(sub.spec.n_weights for sub in plan.subconvs)
        cuts = replace(work.copy(2 * itemsize * weights, itemsize), n_launches=len(plan.subconvs))
        kernels.append(cuts)
    return tuple(kernels)


def _by_convolutions(plan: ConvPlan, gpu: Gpu) -> Iterator[Kernel]:
    """Kernels of one family together: MLX lets run at once what does not depend on each other."""
    alike: dict[str, list[Kernel]] = {}
    for sub in plan.subconvs:
        for kernel in _convolution(sub, gpu):
            alike.setdefault(kernel.family, []).append(kernel)
    for kernels in alike.values():
        yield Kernel(
            kernels[0].family,
            sum(kernel.n_bytes for kernel in kernels),
            sum(kernel.macs for kernel in kernels),
            sum(kernel.loads for kernel in kernels),
            sum(kernel.n_tiles for kernel in kernels),
            sum(kernel.n_launches for kernel in kernels),
        )


def _convolution(sub: SubConv, gpu: Gpu) -> Iterator[Kernel]:
    """One in its form: what the form copies, and the kernels of each that it issues."""
    issued = sub.issued
    if issued.kernel is None:
        raise ValueError("[plan_seconds] plan must be made for a Mac; got one for another device")
    copied = issued.cost.bytes_moved - issued.n_convs * issued.kernel.temporary_bytes
    if copied:
        yield work.copy(2 * copied, ITEMSIZE[issued.spec.dtype])
    for _ in range(issued.n_convs):
        yield from work.convolution(issued.spec, issued.kernel, gpu)


def _by_products(plan: ConvPlan, gpu: Gpu) -> Iterator[Kernel]:
    """A product per tap, which adds to what others gave, in float32. Margins are not counted."""
    spec, itemsize = plan.problem, 4
    rows = n_frames(spec, plan.axes)
    pads = any(a.padding_lo or a.padding_hi for sub in plan.subconvs for a in sub.spec.axes)
    if pads or ITEMSIZE[spec.dtype] < itemsize:
        yield work.copy(2 * itemsize * spec.n_inputs, itemsize)
    for sub in plan.subconvs:
        taps = prod(axis.kernel_size for axis in sub.spec.axes)
        made = itemsize * rows * sub.spec.out_channels
        if plan.products == "scaled":  # multiplied, then added
            yield replace(work.copy(taps * 5 * made, itemsize), n_launches=2 * taps)
            continue
        if plan.products == "gathered":
            read = 2 * itemsize * taps * rows * spec.in_channels
            yield replace(work.copy(read, itemsize), n_launches=taps)
        groups = spec.groups
        sizes = (rows, sub.spec.out_channels // groups, spec.in_channels // groups)
        once = work.product(*sizes, gpu, batch=groups, itemsize=itemsize)
        yield once
        adding = replace(once, n_bytes=once.n_bytes + made)
        yield from (adding for _ in range(taps - 1))


def _weaving(plan: ConvPlan) -> Iterator[Kernel]:
    """A copy of all outputs per concatenation, or one that transposes where none joins them."""
    itemsize = max(ITEMSIZE[plan.problem.dtype], 4 if plan.products else 0)
    spec = plan.problem
    computed = spec.batch * spec.out_channels * prod(axis.computed_size for axis in plan.axes)
    moved = work.copy(2 * itemsize * computed, itemsize, "concat")
    for i, axis in enumerate(plan.axes):
        if axis.is_joined:
            pieces = prod(each.n_blocks for each in plan.axes[: i + 1])
            yield replace(moved, n_launches=pieces)
    *before, last = plan.first.n_phases
    is_joined = any(axis.is_joined for axis in plan.axes)
    if not is_joined and (max(before, default=1) > 1 or (last > 1 and spec.groups > 1)):
        yield moved
