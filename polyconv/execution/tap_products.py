"""Sums of matrix products, one per tap: the `taps` method.

Nothing is unfolded: each product reads the input where it lies, shifted.
Letters in shape comments: N batch, D padded input, M frames, R phases of a block, G groups, O and C
output and input channels, T taps.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import product
from math import prod
from typing import NamedTuple

import mlx.core as mx

from polyconv.execution.arrays import Inputs, cut, pad_all
from polyconv.execution.convolve import Padding, padding_of
from polyconv.execution.weaving import frames_of
from polyconv.planning.plan import ConvPlan, SubConv
from polyconv.problem.spec import ConvSpec


def multiply(plan: ConvPlan, inputs: Inputs, packed: list[mx.array]) -> list[mx.array]:
    """The outputs of all subconvs, `(N, M1, R1, M2, R2, ..., G, O / G)`, by products.

    Args:
        plan (ConvPlan): A plan for products.
        inputs (Inputs): The input.
        packed (list(array)): The weights by `packing.pack_taps`.
    """
    if plan.products == "scaled":
        return [_scaled(inputs, w, sub) for w, sub in zip(packed, plan.subconvs, strict=True)]
    outputs = (_flat if plan.products == "flat" else _gathered)(inputs, packed, plan)
    return [frames_of(y, sub, plan) for y, sub in zip(outputs, plan.subconvs, strict=True)]


class Lines(NamedTuple):
    """The padded input of a plan as one matrix `(N * prod(D), C)`, and where taps read it.

    Tap t of a subconv reads `rows` rows from row `shifts[t]` on, one for each frame. All subconvs
    share the padded input. A row behind the last frame of a line belongs to no frame. For the last
    taps the matrix needs rows behind its end: none in one line, one line more in one picture, one
    item more in a batch. `sizes` are those of a subconv's frames with such rows, `(N, *D)`.
    """

    padding: Padding
    widths: list[tuple[int, int]]
    sizes: tuple[int, ...]
    inner: tuple[int, ...]
    rows: int
    shifts: list[list[int]]


def lines_of(plan: ConvPlan) -> Lines:
    """For a plan whose frames advance by one sample."""
    subs, spec = plan.subconvs, plan.problem
    lo, hi = _outermost([padding_of(sub.spec) for sub in subs])
    inner = tuple([axis.size + a + b for axis, a, b in zip(spec.axes, lo, hi, strict=True)])
    steps = [prod(inner[i + 1 :]) for i in range(spec.ndim)]
    shifts = [_shifts(sub.spec, lo, steps) for sub in subs]
    last = max([each[-1] for each in shifts])
    n_lines, widths = inner[0], [(0, 0), *zip(lo, hi, strict=True), (0, 0)]
    if spec.batch == 1:
        n_lines = subs[0].spec.output_sizes[0]
        missing = (n_lines - inner[0]) * steps[0] + last
        widths[1] = (lo[0], hi[0] + max(0, -(-missing // steps[0])))
    elif last:
        widths[0] = (0, -(-last // prod(inner)))
    sizes = (spec.batch, n_lines, *inner[1:])
    return Lines((lo, hi), widths, sizes, inner, prod(sizes), shifts)


def _flat(inputs: Inputs, packed: list[mx.array], plan: ConvPlan) -> list[mx.array]:
    """Products of the padded input as one matrix, rows shifted from tap to tap.

    What is computed for rows that belong to no frame is cropped.
    """
    lines, frames = lines_of(plan), plan.subconvs[0].spec.output_sizes
    flat = pad_all(inputs.x, lines.widths).reshape(-1, plan.problem.in_channels)
    outputs = []
    for w, shifts in zip(packed, lines.shifts, strict=True):
        reads = [cut(flat, 0, shift, shift + lines.rows, 1) for shift in shifts]
        y = sum_of_products(reads, w.squeeze(1).swapaxes(-1, -2)).reshape(*lines.sizes, -1)
        for i, size in enumerate(frames):
            y = cut(y, 1 + i, 0, size, 1)
        outputs.append(y)
    return outputs


def _outermost(paddings: list[Padding]) -> Padding:
    lo, hi = [tuple(map(max, zip(*each, strict=True))) for each in zip(*paddings, strict=True)]
    return lo, hi


def _shifts(spec: ConvSpec, lo: tuple[int, ...], steps: list[int]) -> list[int]:
    """How many rows behind the first of an input padded by `lo` each tap reads, in rising order."""
    return [
        sum(
            (lo[i] - axis.padding_lo + tap * axis.kernel_dilation) * steps[i]
            for i, (tap, axis) in enumerate(zip(taps, spec.axes, strict=True))
        )
        for taps in taps_of(spec)
    ]


def sum_of_products(lefts: Iterable[mx.array], rights: Iterable[mx.array]) -> mx.array:
    """`sum_t lefts[t] @ rights[t]`, each product added to the sum before it."""
    total: mx.array | None = None
    for left, right in zip(lefts, rights):
        total = left @ right if total is None else mx.addmm(total, left, right)
    assert total is not None
    return total


def _gathered(inputs: Inputs, packed: list[mx.array], plan: ConvPlan) -> list[mx.array]:
    """Products of what each tap reads, copied, group by group."""
    outputs = []
    for w, sub in zip(packed, plan.subconvs, strict=True):
        spec = sub.spec
        x = inputs.padded(*padding_of(spec))
        reads = [read_by(x, spec, indices) for indices in taps_of(spec)]
        if spec.groups == 1:
            reads = [read.squeeze(0) for read in reads]
            y = sum_of_products(reads, w.squeeze(1).swapaxes(-1, -2))
        else:
            y = sum_of_products(reads, w.swapaxes(-1, -2)).swapaxes(0, 1)
        outputs.append(y.reshape(spec.batch, *spec.output_sizes, -1))
    return outputs


def _scaled(inputs: Inputs, w: mx.array, sub: SubConv) -> mx.array:
    """Sums of scaled inputs, where a group has one input channel: no product is a matrix product.

    In the order of the output: `(N, M1, R1, M2, R2, ..., G, O / G)`; `w` is
    `(T, G, prod(R) * O / G, 1)`.
    """
    spec = sub.spec
    x = inputs.padded(*padding_of(spec))
    ndim = spec.ndim
    w = w.reshape(*w.shape[:2], *sub.n_phases, -1)
    w = mx.moveaxis(w, 1, 1 + ndim)  # T, *R, G, O / G
    between = [size for r in sub.n_phases for size in (1, r)]
    total: mx.array | None = None
    for indices, taps in zip(taps_of(spec), w, strict=True):
        read = sliced(x, spec, indices)
        frames = [size for m in read.shape[1:-1] for size in (m, 1)]
        read = read.reshape(spec.batch, *frames, spec.groups, 1)
        taps = taps.reshape(1, *between, *taps.shape[-2:])
        total = read * taps if total is None else total + read * taps
    assert total is not None
    return total


def taps_of(spec: ConvSpec) -> list[tuple[int, ...]]:
    return list(product(*[range(axis.kernel_size) for axis in spec.axes]))


def sliced(x: mx.array, spec: ConvSpec, indices: tuple[int, ...]) -> mx.array:
    """The samples of the padded input that a tap reads, `(N, *M, C)`."""
    for i, (axis, tap) in enumerate(zip(spec.axes, indices, strict=True)):
        start = tap * axis.kernel_dilation
        x = cut(x, 1 + i, start, start + (axis.output_size - 1) * axis.stride + 1, axis.stride)
    return x


def read_by(x: mx.array, spec: ConvSpec, indices: tuple[int, ...]) -> mx.array:
    """The same as a matrix per group, `(G, N * prod(M), C / G)`."""
    rows = sliced(x, spec, indices)
    return rows.reshape(-1, spec.groups, spec.in_channels // spec.groups).swapaxes(0, 1)
