"""How is a weight cut into the taps of the subconvs of a plan?

The taps are made in the form that MLX is given: with channels of zeros or an axis added, or as one
matrix for each tap.
Letters in shape comments: O and C output and input channels, G groups, R phases of a block, T taps.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from math import prod
from typing import TypeAlias

import mlx.core as mx

from polyconv.execution.arrays import contiguous, cut, pad, summed_in
from polyconv.execution.recipe import Recipe, Step
from polyconv.planning.axis_plan import Block
from polyconv.planning.plan import ConvPlan, SubConv
from polyconv.problem.spec import ConvSpec

Cutter: TypeAlias = "Callable[[mx.array], list[mx.array]]"


def cutter(plan: ConvPlan, transposed: bool = False) -> Cutter:
    """A function that cuts `(O, *K, C)` into what a plan's convolutions or products take.

    For products halves become float32, so that sums are rounded once. `transposed` says that the
    output channels of the weight lie together in memory, and not the input channels. Then they lie
    together in the taps, too: products take either, and a copy that exchanges the two is many
    times slower.
    """
    if plan.is_zero:
        return lambda w: []
    dtype = getattr(mx, plan.problem.dtype)
    if not plan.products:
        pieces = [_for_convolution(plan, sub) for sub in plan.subconvs]
        return lambda w: [each for piece in pieces for each in piece(w.astype(dtype))]
    dtype = getattr(mx, plan.computing_dtype)
    cuts = [_for_products(plan, sub, transposed) for sub in plan.subconvs]
    if len(cuts) == 1:
        (only,) = cuts
        return lambda w: only(w.astype(dtype))
    return lambda w: [tap for each in cuts for tap in each(w.astype(dtype))]


def pack(plan: ConvPlan, w: mx.array) -> list[mx.array]:
    """Cuts `(O, *K, C)` into the taps of each subconv: `(G * prod(R) * O / G, *T, C)`."""
    return [_taps_of(plan.problem, sub).made()(w) for sub in plan.subconvs]


def pack_taps(plan: ConvPlan, w: mx.array) -> list[mx.array]:
    """Cuts `(O, *K, C)` for products: per subconv `(prod(T), G, prod(R) * O / G, C)`."""
    return [_in_rows(plan.problem, sub).made()(w) for sub in plan.subconvs]


def _for_convolution(plan: ConvPlan, sub: SubConv) -> Cutter:
    """What `convolve` gives to MLX: one array, or one for each tap in depth."""
    form, groups = sub.issued.form, plan.problem.groups
    spec = plan.problem
    recipe = Recipe(_shape_of(spec)) if plan.is_native else _taps_of(spec, sub)
    if form.extra_in:
        recipe.then(
            lambda w: pad(w, w.ndim - 1, 0, form.extra_in),
            (*recipe.shape[:-1], recipe.shape[-1] + form.extra_in),
        )
    if form.extra_out:
        _with_more_outputs(recipe, groups, form.extra_out)
    if form.lift == "plane":
        out, taps, channels = recipe.shape
        recipe.reshape(out, taps, 1, channels)
    if form.lift == "points":
        recipe.reshape(recipe.shape[0], 1, recipe.shape[-1])
    if form.lift == "marked":
        _with_axis_in_front(recipe, form.turned)
    if form.lift == "frames":
        return _by_depth(recipe.made(), sub)
    if form.whole and plan.is_native and not form.turned:
        recipe.then(contiguous)
    made = recipe.made()
    return lambda w: [made(w)]


def _by_depth(made: Step, sub: SubConv) -> Cutter:
    """One array for each tap in depth."""
    dtype = summed_in(getattr(mx, sub.spec.dtype))
    n_taps = sub.spec.axes[0].kernel_size

    def by_depth(w: mx.array) -> list[mx.array]:
        wide = made(w).astype(dtype)
        return [contiguous(cut(wide, 1, t, t + 1, 1).squeeze(1)) for t in range(n_taps)]

    return by_depth


def _with_axis_in_front(recipe: Recipe, turned: bool) -> None:
    """To `(O, 1, *K, C)`. If it is to be turned, it is a view of `(C, 1, *K, O)`."""
    out, *taps, channels = recipe.shape
    if not turned:
        recipe.reshape(out, 1, *taps, channels)
        return
    recipe.then(lambda w: contiguous(w.swapaxes(0, -1)), (channels, *taps, out))
    recipe.reshape(channels, 1, *taps, out)
    recipe.then(lambda w: w.swapaxes(0, -1), (out, 1, *taps, channels))


def _with_more_outputs(recipe: Recipe, groups: int, extra: int) -> None:
    """Adds output channels of zeros to each group."""
    out, *rest = recipe.shape
    recipe.reshape(groups, out // groups, *rest)
    recipe.pad([(0, 0), (0, extra), *[(0, 0)] * len(rest)])
    recipe.reshape(out + groups * extra, *rest)


def _taps_of(spec: ConvSpec, sub: SubConv) -> Recipe:
    """`(G * prod(R) * O / G, *T, C)`."""
    if max(sub.n_phases) == 1:
        recipe = Recipe(_shape_of(spec))
        for i, block in enumerate(sub.blocks):
            at = _slice_of(block.phases[0].taps, spec.axes[i].kernel_size, spec.flip)
            recipe.cut(1 + i, at.start, at.stop, at.step)
        return recipe.then(contiguous)
    recipe, ndim = _cut_up(spec, sub), spec.ndim
    taps, channels = recipe.shape[2 : 2 + 2 * ndim : 2], recipe.shape[-1]
    # (G, O / G, T1, R1, T2, R2, ..., C) -> (G, R1, R2, ..., O / G, T1, T2, ..., C)
    order = [0, *range(3, 3 + 2 * ndim, 2), 1, *range(2, 2 + 2 * ndim, 2), 2 + 2 * ndim]
    # What is reshaped may be a view.
    return recipe.transpose(*order).reshape(-1, *taps, channels).then(contiguous)


def _in_rows(spec: ConvSpec, sub: SubConv, as_stored: bool = False) -> Recipe:
    """`(prod(T), G, prod(R) * O / G, C)`."""
    recipe, ndim = _cut_up(spec, sub, as_stored), spec.ndim
    groups, per_group, channels = recipe.shape[0], recipe.shape[1], recipe.shape[-1]
    taps, phases = range(2, 2 + 2 * ndim, 2), range(3, 3 + 2 * ndim, 2)
    recipe.transpose(*taps, 0, *phases, 1, 2 + 2 * ndim).then(contiguous)
    return recipe.reshape(-1, groups, prod(sub.n_phases) * per_group, channels)


def _in_columns(spec: ConvSpec, sub: SubConv, as_stored: bool) -> Recipe:
    """`(prod(T), G, C, prod(R) * O / G)`, of a weight whose output channels lie together."""
    recipe, ndim = _cut_up(spec, sub, as_stored), spec.ndim
    groups, per_group, channels = recipe.shape[0], recipe.shape[1], recipe.shape[-1]
    taps, phases = range(2, 2 + 2 * ndim, 2), range(3, 3 + 2 * ndim, 2)
    recipe.transpose(*taps, 0, 2 + 2 * ndim, *phases, 1).then(contiguous)
    return recipe.reshape(-1, groups, channels, prod(sub.n_phases) * per_group)


def _for_products(plan: ConvPlan, sub: SubConv, transposed: bool) -> Cutter:
    """One array for each tap: `(C, prod(R) * O)`, with groups `(G, C, prod(R) * O / G)`.

    Scaled inputs are multiplied by `(1, 1, R1, 1, R2, ..., G, O / G)`.
    """
    spec = plan.problem
    if plan.products == "scaled":
        return _for_scaling(spec, sub)
    recipe = (_in_columns if transposed else _in_rows)(spec, sub, as_stored=True)
    n_taps, groups, rows, columns = recipe.shape
    if groups > 1:
        turned = recipe.made() if transposed else recipe.then(lambda w: w.swapaxes(-1, -2)).made()
        split: Cutter = lambda w: [each.squeeze(0) for each in mx.split(turned(w), n_taps)]  # noqa: E731
    elif transposed:
        split = _split(recipe.reshape(n_taps * rows, columns).made(), n_taps, 0)
    else:
        recipe.reshape(n_taps * rows, columns).then(lambda w: w.T)
        split = _split(recipe.made(), n_taps, 1)
    return _in_order(split, spec, sub)


def _for_scaling(spec: ConvSpec, sub: SubConv) -> Cutter:
    """As `_for_products`, for taps that scale: cut from `(T, G, prod(R) * O / G, 1)`."""
    recipe, ndim = _in_rows(spec, sub), spec.ndim
    n_taps, groups = recipe.shape[:2]
    recipe.reshape(n_taps, groups, *sub.n_phases, -1)
    # T, *R, G, O / G
    recipe.transpose(0, *range(2, 2 + ndim), 1, 2 + ndim)
    between = [size for r in sub.n_phases for size in (1, r)]
    recipe.reshape(n_taps, *between, *recipe.shape[-2:])
    return _split(recipe.made(), n_taps, 0)


def _in_order(split: Cutter, spec: ConvSpec, sub: SubConv) -> Cutter:
    """Orders taps that were cut as they are stored. To order a list costs nothing."""
    stored = [
        range(block.axis.kernel_size)[:: -1 if _is_reversed(block, spec.flip) else 1]
        for block in sub.blocks
    ]
    sizes = [block.axis.kernel_size for block in sub.blocks]
    order = [sum(t * prod(sizes[i + 1 :]) for i, t in enumerate(taps)) for taps in product(*stored)]
    if order == sorted(order):
        return split
    if order == sorted(order, reverse=True):
        return lambda w: split(w)[::-1]

    def cut_in_order(w: mx.array) -> list[mx.array]:
        taps = split(w)
        return [taps[i] for i in order]

    return cut_in_order


def _is_reversed(block: Block, flip: bool) -> bool:
    """Whether the fold of a kernel as it is stored holds the last tap first."""
    return flip and block.fold is not None


def _split(step: Step, n: int, axis: int) -> Cutter:
    return lambda w: mx.split(step(w), n, axis) if n > 1 else [step(w)]


def _shape_of(spec: ConvSpec) -> tuple[int, ...]:
    """Of the weight, `(O, *K, C)`."""
    kernel = [axis.kernel_size for axis in spec.axes]
    return (spec.out_channels, *kernel, spec.in_channels // spec.groups)


def _cut_up(spec: ConvSpec, sub: SubConv, as_stored: bool = False) -> Recipe:
    """`(G, O / G, T1, R1, T2, R2, ..., C)`.

    With `as_stored` the taps of an axis that `_is_reversed` are left in that order.
    """
    recipe, flip, groups = Recipe(_shape_of(spec)), spec.flip, spec.groups
    recipe.pad([(0, 0), *[_fold_pads(block, flip) for block in sub.blocks], (0, 0)])
    out, *kernel, channels = recipe.shape
    sizes: list[tuple[int, ...]] = [
        (n,) if block.fold is None else (n // block.fold.step, block.fold.step)
        for n, block in zip(kernel, sub.blocks, strict=True)
    ]
    # All at once, and then all slices, which become one.
    recipe.reshape(groups, out // groups, *[n for pair in sizes for n in pair], channels)
    for i, block in enumerate(sub.blocks):
        if block.fold is not None:
            at = 2 + i + sum(each.fold is not None for each in sub.blocks[:i])
            _order_fold(recipe, at, block, flip, as_stored)
    for i, block in enumerate(sub.blocks):
        if block.fold is None:
            _stack_taps(recipe, 2 + 2 * i, block, flip)
    return recipe


def _fold_pads(block: Block, flip: bool) -> tuple[int, int]:
    if block.fold is None:
        return 0, 0
    pad_lo, pad_hi, _ = block.fold
    return (pad_hi, pad_lo) if flip else (pad_lo, pad_hi)


def _order_fold(recipe: Recipe, axis: int, block: Block, flip: bool, as_stored: bool) -> None:
    """Brings the two axes (T, R) of a folded kernel into the order of the block, without a copy.

    Flipped, the last tap comes first.
    """
    assert block.fold is not None
    step, n = block.fold.step, len(block.phases)
    if flip:
        if not as_stored:
            recipe.cut(axis, None, None, -1)
        recipe.cut(axis + 1, step - n, step)
    else:
        recipe.cut(axis + 1, n - 1, None, -1)


def _stack_taps(recipe: Recipe, axis: int, block: Block, flip: bool) -> None:
    """The same, but each phase is cut out by itself and padded to the window that all share."""
    kernel_size, window = recipe.shape[axis], block.axis.kernel_size
    before = (slice(None),) * axis
    rows: list[Step] = []
    for phase, lead in zip(block.phases, block.leads, strict=True):
        shape = (*recipe.shape[:axis], len(phase.taps), *recipe.shape[axis + 1 :])
        around = [(0, 0)] * len(shape)
        around[axis] = (lead, window - lead - len(phase.taps))
        padded = Recipe(shape).pad(around).made()
        index = (*before, _slice_of(phase.taps, kernel_size, flip))
        rows.append(lambda w, index=index, padded=padded: padded(w[index]))  # type: ignore[misc]
    shape = (*recipe.shape[:axis], window, len(rows), *recipe.shape[axis + 1 :])
    if len(rows) == 1:
        recipe.then(lambda w: mx.expand_dims(rows[0](w), axis + 1), shape)
    else:
        recipe.then(lambda w: mx.stack([row(w) for row in rows], axis + 1), shape)


def _slice_of(taps: range, kernel_size: int, flip: bool) -> slice:
    """Taps of the kernel in correlation order, as a slice of the kernel as it is stored."""
    if not flip:
        return slice(taps.start, taps.stop, taps.step)
    first, last = kernel_size - 1 - taps[0], kernel_size - 1 - taps[-1]
    if first == last:  # MLX up to 0.32.3 cannot differentiate or map a reversed single item
        return slice(first, first + 1, 1)
    return slice(first, last - 1 if last else None, -taps.step)
