"""How much work is a plan, on each kind of device? Standard library only."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Literal, TypeAlias

from polyconv.planning.axis_plan import AxisPlan
from polyconv.planning.forms import Issued
from polyconv.planning.rates import Cost
from polyconv.problem.phases import phase_dilation
from polyconv.problem.spec import ITEMSIZE, ConvSpec

# How a plan by products multiplies: the whole padded input at once, what each tap reads, or, with
# one input channel a group, scaled inputs that are summed. Empty for a plan of convolutions.
Products: TypeAlias = Literal["", "flat", "gathered", "scaled"]


def n_frames(spec: ConvSpec, axes: Sequence[AxisPlan]) -> int:
    """Frames of all axes and items: how often each phase is computed."""
    return spec.batch * prod(axis.n_frames for axis in axes)


def n_weights(spec: ConvSpec, axes: Sequence[AxisPlan]) -> int:
    """Weights of all subconvs, the zeros of shared windows included."""
    taps = prod(axis.block_taps for axis in axes)
    return spec.out_channels * (spec.in_channels // spec.groups) * taps


def n_copies(spec: ConvSpec, axes: Sequence[AxisPlan]) -> int:
    """How often weaving copies the output: once per concatenation, and once to transpose it."""
    joins = sum(axis.is_joined for axis in axes)
    stacks = [axis.stacked and len(axis.phases) > 1 for axis in axes]
    # In 1D the phases lie between frames and channels already, where they belong.
    transposed = any(stacks[:-1]) or (stacks[-1] and spec.groups > 1)
    return joins + transposed


def by_convolutions(spec: ConvSpec, axes: Sequence[AxisPlan]) -> Cost:
    """MLX's convolutions on a CPU, which copy the windows they read, or loop over samples."""
    frames, weights = n_frames(spec, axes), n_weights(spec, axes)
    n_taps, n_convs = prod(a.window_taps for a in axes), prod(a.n_blocks for a in axes)
    outputs = frames * spec.out_channels * prod(axis.n_phases for axis in axes)
    moved = frames * spec.in_channels * n_taps + outputs * n_copies(spec, axes)
    loops = _loops(spec, axes)
    inner = n_taps * spec.in_channels // (n_convs * spec.groups)
    macs = frames * weights
    return Cost(
        macs=macs,
        n_convs=n_convs,
        bytes_moved=ITEMSIZE[spec.dtype] * (moved + n_packed(weights, axes)),
        panel_macs=0 if loops else _in_panels(macs, spec, axes, frames, inner),
        n_products=n_convs * _ops(spec.groups),
        macs_in_loops=_macs_in_loops(macs, spec, axes) if loops else 0,
        samples_read=0 if loops else frames * spec.in_channels * n_taps,
    )


# cuDNN's gradient of an input was so much slower where each number is a longer sum than this
# (docs/benchmarks/cuda.json: DAC up 1 and 2, DCGAN 1).
_SLOWER, _LONGEST_SUM = 16, 1024


def on_cuda(spec: ConvSpec, axes: Sequence[AxisPlan]) -> Cost:
    """cuDNN's convolutions, which unfold nothing. What is issued counts, and what is copied.

    MLX's own transposed convolution is one call of cuDNN's gradient of a convolution. That passes
    over inserted zeros, but is the slower kernel, at times ten times slower.
    """
    frames, weights = n_frames(spec, axes), n_weights(spec, axes)
    n_taps, n_convs = prod(a.window_taps for a in axes), prod(a.n_blocks for a in axes)
    macs = frames * weights
    if axes[0].native:
        depthwise = spec.groups > 1 and spec.groups == spec.in_channels
        if not depthwise:
            macs = _in_panels(macs, spec, axes, frames, spec.in_channels // spec.groups)
        steps = prod(axis.axis.input_dilation for axis in axes)
        macs //= steps
        if not spec.flip:
            return Cost(macs, 1, 0, panel_macs=macs)
        sums = spec.in_channels // spec.groups * n_taps / steps
        return Cost(macs, 1, 0, backward_macs=macs * (_SLOWER if sums > _LONGEST_SUM else 1))
    outputs = frames * spec.out_channels * prod(axis.n_phases for axis in axes)
    copies = n_copies(spec, axes)
    moved = outputs * copies + n_packed(weights, axes)
    return Cost(
        macs=macs,
        n_convs=n_convs,
        bytes_moved=2 * ITEMSIZE[spec.dtype] * moved,  # read and written
        panel_macs=_in_panels(macs, spec, axes, frames, n_taps * spec.in_channels // spec.groups),
        n_products=n_convs + copies,
    )


def on_metal(spec: ConvSpec, axes: Sequence[AxisPlan], first: Issued) -> Cost:
    """Metal's kernels, as predicted for the first of the convolutions, which all are alike."""
    frames, weights = n_frames(spec, axes), n_weights(spec, axes)
    outputs = frames * spec.out_channels * prod(axis.n_phases for axis in axes)
    n_convs = prod(axis.n_blocks for axis in axes)
    bytes_moved = ITEMSIZE[spec.dtype] * (weights + outputs * n_copies(spec, axes))
    return Cost(
        macs=frames * weights * first.cost.macs // first.plain_macs,
        n_convs=n_convs * first.n_convs,
        bytes_moved=bytes_moved + n_convs * first.cost.bytes_moved,
    )


def _macs_in_loops(macs: int, spec: ConvSpec, axes: Sequence[AxisPlan]) -> int:
    """MLX's loops skip inserted zeros, but look at each tap of each output to find them."""
    dilation = prod(axis.axis.input_dilation for axis in axes)
    looks = spec.n_outputs * prod(axis.axis.kernel_size for axis in axes)
    return macs // dilation + looks if dilation > 1 and axes[0].native else macs


def by_products(spec: ConvSpec, axes: Sequence[AxisPlan], products: Products) -> Cost:
    """A matrix product per tap, or a scaled copy where a group has one input channel."""
    scaled, flat = products == "scaled", products == "flat"
    weights = n_weights(spec, axes)
    outputs = n_frames(spec, axes) * spec.out_channels * prod(axis.n_phases for axis in axes)
    read, summed = _rows(spec, axes, flat, per_phase=False), _rows(spec, axes, flat, per_phase=True)
    n_taps, n_blocks = prod(a.window_taps for a in axes), prod(a.n_blocks for a in axes)
    moved = n_packed(weights, axes)
    moved += outputs * (sum(a.is_joined for a in axes) if scaled else n_copies(spec, axes))
    if n_taps > n_blocks:  # padding, by a copy
        moved += n_rows(spec, axes) * spec.in_channels
    if products == "gathered":
        moved += read * spec.in_channels
        if spec.groups > 1:  # in short runs, and the output is brought back from group by group
            moved += read * spec.in_channels + outputs
    inner = spec.in_channels // spec.groups
    macs = summed * spec.out_channels * inner
    if scaled:
        moved += summed * spec.out_channels
    return Cost(
        macs=macs,
        n_convs=n_blocks,
        bytes_moved=max(ITEMSIZE[spec.dtype], 4) * moved,
        panel_macs=0 if scaled else _in_panels(macs, spec, axes, read // max(n_taps, 1), inner),
        n_products=(n_taps + n_blocks) * (1 if scaled else _ops(spec.groups)),
        samples_read=0 if scaled else read * spec.in_channels,
    )


def _ops(groups: int) -> int:
    """Ops that a product of all groups is worth. It is one op, which takes the groups in turn."""
    return 1 + (groups - 1) // 10


# BLAS works in panels of so many rows, columns and terms. A smaller product costs as much.
_ROWS, _COLUMNS, _TERMS = 4, 16, 16


def _in_panels(macs: int, spec: ConvSpec, axes: Sequence[AxisPlan], rows: int, terms: int) -> int:
    """Multiply-accumulates of products of so many rows and terms, filled up to whole panels."""
    phases = prod(len(axis.phases) / max(axis.n_blocks, 1) for axis in axes)
    columns = phases * spec.out_channels / spec.groups
    sizes = ((rows, _ROWS), (columns, _COLUMNS), (terms, _TERMS))
    return int(macs * prod(max(1, least / max(size, 1)) for size, least in sizes))


def n_packed(weights: int, axes: Sequence[AxisPlan]) -> int:
    """How many weights are copied to cut them into taps."""
    if axes[0].native:
        return 0
    return weights * (2 if any(axis.is_kernel_padded for axis in axes) else 1)


def n_rows(spec: ConvSpec, axes: Sequence[AxisPlan]) -> int:
    """Rows of a flat product: all frames, with their margins.

    On its first axis a lone item has no margin; in a batch each item has one (`tap_products.py`).
    """
    rows = spec.batch
    for i, axis in enumerate(axes):
        most = max([taps for _, taps in axis.block_sizes], default=0)
        margin = (most - 1) * phase_dilation(axis.axis) if i or spec.batch > 1 else 0
        rows *= axis.n_frames + margin
    return rows


def _rows(spec: ConvSpec, axes: Sequence[AxisPlan], flat: bool, per_phase: bool) -> int:
    """Frames computed, summed over all taps, or with `per_phase` over all taps of all phases."""
    rows = n_rows(spec, axes) if flat else n_frames(spec, axes)
    return rows * prod(axis.block_taps if per_phase else axis.window_taps for axis in axes)


def _loops(spec: ConvSpec, axes: Sequence[AxisPlan]) -> bool:
    """Whether MLX computes it by loops over single samples (mlx/backend/cpu/conv.cpp)."""
    if axes[0].native:
        dilated = any(a.axis.input_dilation > 1 or a.axis.kernel_dilation > 1 for a in axes)
        return dilated or (spec.groups > 1 and (spec.ndim > 1 or spec.flip))
    dilated = any(phase_dilation(axis.axis) > 1 for axis in axes)
    return dilated or (spec.groups > 1 and spec.ndim > 1)
