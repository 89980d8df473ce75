"""How much work is a plan on a CPU? Standard library only."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from polyconv.axisplan import AxisPlan
from polyconv.cost import Cost
from polyconv.phases import phase_dilation
from polyconv.spec import ITEMSIZE, ConvSpec


def n_frames(spec: ConvSpec, axes: Sequence[AxisPlan]) -> int:
    """Frames of all axes and items: how often each phase is computed."""
    return spec.batch * prod(axis.n_frames for axis in axes)


def n_weights(spec: ConvSpec, axes: Sequence[AxisPlan]) -> int:
    """Weights of all subconvs, the zeros of shared windows included."""
    taps = prod(axis.block_taps for axis in axes)
    return spec.out_channels * (spec.in_channels // spec.groups) * taps


def n_copies(spec: ConvSpec, axes: Sequence[AxisPlan]) -> int:
    """How often weaving copies the output: per concatenation, and for one transposition."""
    joins = sum(axis.is_joined for axis in axes)
    stacks = [axis.stacked and len(axis.phases) > 1 for axis in axes]
    # In 1D the phases lie between frames and channels already, where they belong.
    transposed = any(stacks[:-1]) or (stacks[-1] and spec.groups > 1)
    return joins + transposed


def by_convolutions(spec: ConvSpec, axes: Sequence[AxisPlan]) -> Cost:
    """MLX's convolutions: they copy the windows that they read, or loop over single samples."""
    frames, weights = n_frames(spec, axes), n_weights(spec, axes)
    windows = frames * spec.in_channels * prod(axis.window_taps for axis in axes)
    outputs = frames * spec.out_channels * prod(axis.n_phases for axis in axes)
    moved = windows + weights + outputs * n_copies(spec, axes)
    n_convs = prod(axis.n_blocks for axis in axes)
    return Cost(
        macs=frames * weights,
        n_convs=n_convs,
        bytes_moved=ITEMSIZE[spec.dtype] * moved,
        n_products=n_convs * spec.groups,
        macs_in_loops=frames * weights if _loops(spec, axes) else 0,
    )


def by_products(spec: ConvSpec, axes: Sequence[AxisPlan]) -> Cost:
    """A matrix product per tap, or a scaled copy where a group has one input channel."""
    frames, weights = n_frames(spec, axes), n_weights(spec, axes)
    outputs = frames * spec.out_channels * prod(axis.n_phases for axis in axes)
    n_taps = prod(axis.window_taps for axis in axes)
    sums = frames * spec.out_channels * prod(axis.block_taps for axis in axes)
    inputs = spec.batch * spec.in_channels * prod(axis.axis.size for axis in axes)
    n_blocks = prod(axis.n_blocks for axis in axes)
    scaled = spec.in_channels == spec.groups
    # Sums are read and written at the speed of the cache, some three times that of other copies.
    moved = weights + sums // (2 if scaled else 3)
    if n_taps > n_blocks:  # more than one tap somewhere, and so padding, by a copy
        moved += n_blocks * inputs
    if not scaled:
        moved += outputs * n_copies(spec, axes)
        if spec.groups > 1 or any(axis.axis.stride > 1 for axis in axes):
            moved += frames * spec.in_channels * n_taps
    wide = max(ITEMSIZE[spec.dtype], 4)
    n_products = n_taps if scaled else n_taps * spec.groups
    return Cost(frames * weights, n_blocks, wide * moved, n_products)


def _loops(spec: ConvSpec, axes: Sequence[AxisPlan]) -> bool:
    """Whether MLX computes it by loops over single samples (mlx/backend/cpu/conv.cpp)."""
    if axes[0].native:
        dilated = any(a.axis.input_dilation > 1 or a.axis.kernel_dilation > 1 for a in axes)
        return dilated or (spec.groups > 1 and (spec.ndim > 1 or spec.flip))
    dilated = any(phase_dilation(axis.axis) > 1 for axis in axes)
    return dilated or (spec.groups > 1 and spec.ndim > 1)
