"""The gradients of a plan: a product per tap, and nothing unfolded.

Letters in shape comments: N batch, M frames, R phases of a block, G groups, O and C output and
input channels, T taps.
"""

from __future__ import annotations

from dataclasses import replace
from math import prod

import mlx.core as mx

from polyconv.execution.arrays import cut, pad, pad_all, summed_in
from polyconv.execution.cutting import pack, pack_taps
from polyconv.execution.recipe import Recipe
from polyconv.execution.tap_products import (
    Lines,
    as_matrices,
    between_phases,
    frames_shape,
    input_shape,
    lines_of,
    reader,
    sum_of_products,
)
from polyconv.execution.weaving import assembly, weave
from polyconv.planning.methods import reads_in_lines
from polyconv.planning.plan import ConvPlan, SubConv


def spread(plan: ConvPlan, w: mx.array, y: mx.array) -> mx.array:
    """The gradient of a plan with respect to its input.

    These are the products of `taps` backwards, with its packed weights as they are. For each tap
    the frames of the cotangent, phases side by side, `(N * prod(M), R * O)`, are multiplied by
    `(R * O, C)`, and shifted the other way.

    Args:
        plan (ConvPlan): A plan whose problem `reads_in_lines`.
        w (array): The weight, ``(O, *K, C)``.
        y (array): The cotangent of the output, ``plan.problem.output_shape``.

    Returns:
        array: Of the input's shape, float32 for halves.
    """
    spec = plan.problem
    dtype = summed_in(getattr(mx, spec.dtype))
    if plan.is_zero:
        return mx.zeros(input_shape(spec), dtype)
    lines, packed = lines_of(plan), pack_taps(plan, w.astype(dtype))
    rows = spec.batch * prod(lines.inner)
    last = max(each[-1] for each in lines.shifts)
    reads, taps = [], []
    for dy, each, shifts in zip(_in_lines(plan, lines, y.astype(dtype)), packed, lines.shifts):
        dy = pad(dy, 0, last, max(0, rows - lines.rows))
        reads += [cut(dy, 0, last - shift, last - shift + rows, 1) for shift in shifts]
        taps += [cut(each, 0, t, t + 1, 1).reshape(each.shape[2:]) for t in range(len(shifts))]
    dx = sum_of_products(reads, taps).reshape(spec.batch, *lines.inner, spec.in_channels)
    lo, hi = lines.padding
    return pad_all(dx, [(0, 0), *[(-a, -b) for a, b in zip(lo, hi, strict=True)], (0, 0)])


def _in_lines(plan: ConvPlan, lines: Lines, y: mx.array) -> list[mx.array]:
    """The cotangent of each subconv in the rows of `Lines`, with zeros where no frame is."""
    found = []
    for dy in _woven(plan, y):
        widths = [(0, n - m) for n, m in zip(lines.sizes, dy.shape[:-1], strict=True)]
        found.append(pad_all(dy, [*widths, (0, 0)]).reshape(lines.rows, -1))
    return found


def _woven(plan: ConvPlan, y: mx.array) -> list[mx.array]:
    """The cotangent of each subconv, `(N, *M, G * prod(R) * O / G)`."""
    outputs = [mx.zeros(sub.spec.output_shape, y.dtype) for sub in plan.subconvs]
    assemble = assembly(plan, linear=True)
    found: list[mx.array]
    _, found = mx.vjp(lambda *ys: assemble(ys), outputs, [y])
    return found


def correlate(plan: ConvPlan, x: mx.array, y: mx.array) -> mx.array:
    """The gradient of a plan with respect to its weight.

    Each tap of each subconv is one product: the samples that it reads, `(N * prod(M), C)`, with the
    cotangents of the phases, `(N * prod(M), R * O)`. Nothing is unfolded. Weaving and packing are
    linear, so their gradients are their transposes.

    Args:
        plan (ConvPlan): A polyphase plan for the shapes of the convolution.
        x (array): The input, ``(N, *S, C)``.
        y (array): The cotangent of the output, ``plan.problem.output_shape``.

    Returns:
        array: Of the weight's shape, ``(O, *K, C / groups)``, float32 for halves.
    """
    spec = plan.problem
    dtype = summed_in(getattr(mx, spec.dtype))
    kernel = [axis.kernel_size for axis in spec.axes]
    zeros = mx.zeros((spec.out_channels, *kernel, spec.in_channels // spec.groups), dtype)
    if plan.is_zero:
        return zeros
    x, y = x.astype(dtype), y.astype(dtype)
    if spec.in_channels == spec.groups:
        return _scaled(plan, x, y, zeros)
    if reads_in_lines(spec):
        taps = _flat_products(plan, x, y)
    else:
        woven = zip(_woven(plan, y), reader(plan, as_matrices)(x), strict=True)
        taps = [_products(dy, reads, spec.groups) for dy, reads in woven]
    if len(taps) == 1 and _is_folded(plan):
        return _unfold(taps[0], plan)
    shapes = [(sub.spec.out_channels, *_kernel(sub), -1) for sub in plan.subconvs]
    stacked = [mx.stack(each, 2).reshape(s) for each, s in zip(taps, shapes, strict=True)]
    return mx.vjp(lambda w: pack(plan, w), [zeros], stacked)[1][0]


def _kernel(sub: SubConv) -> tuple[int, ...]:
    return tuple([axis.kernel_size for axis in sub.spec.axes])


def _flat_products(plan: ConvPlan, x: mx.array, y: mx.array) -> list[list[mx.array]]:
    """As `_products`, for all subconvs. Rows of the input are read where they lie."""
    lines = lines_of(plan)
    flat = pad_all(x, lines.widths).reshape(-1, plan.problem.in_channels)
    return [
        [
            (dy.T @ cut(flat, 0, shift, shift + lines.rows, 1)).reshape(1, -1, flat.shape[1])
            for shift in shifts
        ]
        for dy, shifts in zip(_in_lines(plan, lines, y), lines.shifts, strict=True)
    ]


def _products(y: mx.array, reads: list[mx.array], groups: int) -> list[mx.array]:
    """The gradient of each tap of one subconv: `(G, prod(R) * O / G, C)`."""
    y = y.reshape(-1, groups, y.shape[-1] // groups).transpose(1, 2, 0)  # G, R * O, N * M
    return [y @ read for read in reads]


def _scaled(plan: ConvPlan, x: mx.array, y: mx.array, zeros: mx.array) -> mx.array:
    """As `correlate`, for groups of one input channel: sums of the scaled cotangent."""
    groups, subs = plan.problem.groups, plan.subconvs
    shapes = [frames_shape(sub) for sub in subs]
    woven = weave(plan, [Recipe(shape) for shape in shapes])
    _, frames = mx.vjp(lambda *ys: woven(ys), [mx.zeros(shape, y.dtype) for shape in shapes], [y])
    summed = (0, *range(1, 1 + 2 * plan.problem.ndim, 2))  # N and M. What is left is *R, G, O / G
    found = []
    for dy, reads in zip(frames, reader(plan, between_phases)(x), strict=True):
        taps = [(dy * read).sum(summed) for read in reads]
        found.append(mx.stack([mx.moveaxis(tap, -2, 0).reshape(groups, -1, 1) for tap in taps]))
    by_taps = replace(plan, products="scaled")
    return mx.vjp(lambda w: pack_taps(by_taps, w), [zeros], found)[1][0]


def _is_folded(plan: ConvPlan) -> bool:
    """Whether every axis of the only subconv is cut by reshaping alone, or not at all."""
    return all(
        block.fold is not None
        or (len(block.phases) == 1 and block.phases[0].taps == range(axis.axis.kernel_size))
        for block, axis in zip(plan.subconvs[0].blocks, plan.axes, strict=True)
    )


def _unfold(taps: list[mx.array], plan: ConvPlan) -> mx.array:
    """Puts the gradients of taps, `(G, prod(R) * O / G, C)`, where the taps were cut from.

    These are the steps of `cutting`, backwards. In 1D each number is copied once.
    """
    spec, (sub,), flip = plan.problem, plan.subconvs, plan.problem.flip
    ndim, groups, channels = spec.ndim, spec.groups, taps[0].shape[-1]
    pieces = [tap.reshape(groups, *sub.n_phases, -1, channels) for tap in taps]
    pieces = [mx.moveaxis(piece, 1 + ndim, 1) for piece in pieces]  # G, O / G, *R, C
    if flip:  # the last tap comes first, the phases rise
        pieces.reverse()
    else:
        backwards = (..., *[slice(None, None, -1)] * ndim, slice(None))
        pieces = [piece[backwards] for piece in pieces]
    if ndim == 1:
        w = mx.stack(pieces, 2)
    else:
        w = mx.stack(pieces).reshape(*_kernel(sub), *pieces[0].shape)
        pairs = [i for a in range(ndim) for i in (a, 2 + ndim + a)]
        w = w.transpose(ndim, ndim + 1, *pairs, -1)  # G, O / G, T1, R1, T2, R2, ..., C
    folds = [block.fold or (0, 0, 1) for block in sub.blocks]
    for a, (fold, n) in enumerate(zip(folds, sub.n_phases, strict=True)):
        w = pad(w, 3 + 2 * a, *((fold[2] - n, 0) if flip else (0, fold[2] - n)))
    sizes = [n * fold[2] for n, fold in zip(_kernel(sub), folds, strict=True)]
    w = w.reshape(spec.out_channels, *sizes, channels)
    pads = [(-hi, -lo) if flip else (-lo, -hi) for lo, hi, _ in folds]
    return pad_all(w, [(0, 0), *pads, (0, 0)])
