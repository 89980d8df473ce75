"""Hands the subconvs of a plan to MLX, each in its form."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import mlx.core as mx

from polyconv.execution import unpatched
from polyconv.execution.arrays import contiguous, crop_channels, cut, pad_channels, summed_in
from polyconv.execution.recipe import Recipe, Step
from polyconv.planning.forms import AS_IT_STANDS
from polyconv.planning.plan import ConvPlan, SubConv
from polyconv.problem.spec import ConvSpec

Padding: TypeAlias = "tuple[tuple[int, ...], tuple[int, ...]]"

# Takes the prepared input and the taps of one subconv, as `cutter` makes them.
_Convolve: TypeAlias = "Callable[[mx.array, Sequence[mx.array]], mx.array]"
# How an input is prepared: its padding, the channels added, and whether it is laid row by row.
_Around: TypeAlias = "tuple[Padding, int, bool]"


def convolutions(
    plan: ConvPlan, pad_explicitly: bool
) -> Callable[[mx.array, Sequence[mx.array]], list[mx.array]]:
    """A function of the input and all taps.

    It returns the outputs of all subconvs, `(N, *M, G * prod(R) * O / G)`.
    """
    dtype = getattr(mx, plan.problem.dtype)
    prepared: dict[_Around, Step] = {}
    calls: list[tuple[_Around, int, _Convolve]] = []
    for sub in plan.subconvs:
        if sub.is_zero:
            zeros = _zeros(sub.spec.output_shape, dtype)
            calls.append((_AS_GIVEN, n_arrays(sub), zeros))
            continue
        around, convolve = _convolution(sub, pad_explicitly)
        calls.append((around, n_arrays(sub), convolve))
    for around, _, _ in calls:
        prepared[around] = _preparation(plan.problem, around)
    if len(calls) == 1:
        ((around, _, only),) = calls
        prepare = prepared[around]
        return lambda x, taps: [only(prepare(x), taps)]

    def convolve_all(x: mx.array, taps: Sequence[mx.array]) -> list[mx.array]:
        inputs = {around: prepare(x) for around, prepare in prepared.items()}
        outputs, first = [], 0
        for around, n, convolve in calls:
            outputs.append(convolve(inputs[around], taps[first : first + n]))
            first += n
        return outputs

    return convolve_all


def n_arrays(sub: SubConv) -> int:
    """How many arrays hold the taps of a subconv: one, or one for each tap in depth."""
    return sub.spec.axes[0].kernel_size if sub.issued.form.lift == "frames" else 1


_AS_GIVEN: _Around = (((), ()), 0, False)


def _zeros(shape: tuple[int, ...], dtype: mx.Dtype) -> _Convolve:
    return lambda x, taps: mx.zeros(shape, dtype)


def _convolution(sub: SubConv, pad_explicitly: bool) -> tuple[_Around, _Convolve]:
    spec, issued, form = sub.spec, sub.issued, sub.issued.form
    options = issued.options
    if pad_explicitly and not spec.is_input_dilated:
        around = (padding_of(spec), form.extra_in, False)
        none = (0,) * issued.spec.ndim
        options = (options[0], (none, none), *options[2:])
    elif form == AS_IT_STANDS:
        around = _AS_GIVEN
    else:
        lo, hi = [side or (0,) * spec.ndim for side in (form.pad_lo, form.pad_hi)]
        if form.whole:
            lo, hi = [
                tuple([min(n, 0) + more for n, more in zip(given, side, strict=True)])
                for given, side in zip(padding_of(spec), (lo, hi), strict=True)
            ]
        if form.lift == "frames":
            depth = spec.axes[0]
            lo, hi = (depth.padding_lo, *lo[1:]), (depth.padding_hi, *hi[1:])
        around = ((lo, hi), form.extra_in, form.whole)
    return around, _cropped(_LIFTS[form.lift](sub, options), spec.groups, form.extra_out)


def _preparation(spec: ConvSpec, around: _Around) -> Step:
    (lo, hi), extra_channels, whole = around
    sizes = [axis.size for axis in spec.axes]
    recipe = Recipe((spec.batch, *sizes, spec.in_channels))
    if extra_channels:
        shape = (*recipe.shape[:-1], spec.in_channels + spec.groups * extra_channels)
        recipe.then(lambda x: pad_channels(x, spec.groups, extra_channels), shape)
    recipe.pad([(0, 0), *zip(lo, hi, strict=True), (0, 0)] if lo else [])
    return (recipe.then(contiguous) if whole else recipe).made()


def _cropped(convolve: _Convolve, groups: int, extra: int) -> _Convolve:
    if not extra:
        return convolve
    return lambda x, taps: crop_channels(convolve(x, taps), groups, extra)


def _as_it_stands(sub: SubConv, options: Sequence[object]) -> _Convolve:
    return lambda x, taps: unpatched.conv_general(x, taps[0], *options)


def _with_axis(at: int) -> Callable[[SubConv, Sequence[object]], _Convolve]:
    """With one more axis of size 1, which the taps have already."""

    def lifted(sub: SubConv, options: Sequence[object]) -> _Convolve:
        def convolve(x: mx.array, taps: Sequence[mx.array]) -> mx.array:
            y = unpatched.conv_general(mx.expand_dims(x, at), taps[0], *options)
            return y.squeeze(at)

        return convolve

    return lifted


def _as_points(sub: SubConv, options: Sequence[object]) -> _Convolve:
    """3D with a single tap, as a convolution in 1D of all points."""
    shape = sub.spec.output_shape

    def convolve(x: mx.array, taps: Sequence[mx.array]) -> mx.array:
        return unpatched.conv_general(x.flatten(1, -2), taps[0], *options).reshape(shape)

    return convolve


def _as_frames(sub: SubConv, options: Sequence[object]) -> _Convolve:
    """3D as a sum of 2D ones, one per tap in depth. The frames that a tap reads are its batch.

    Halves are summed in float32, so that they are rounded once.
    """
    depth, lie = sub.spec.axes[0], contiguous if sub.issued.form.whole else lambda x: x
    reach = (depth.output_size - 1) * depth.stride + 1

    def convolve(x: mx.array, taps: Sequence[mx.array]) -> mx.array:
        n, _, *size, channels = x.shape
        dtype = x.dtype
        x = x.astype(summed_in(dtype))
        total: mx.array | None = None
        for tap, w in enumerate(taps):
            start = tap * depth.kernel_dilation
            frames = cut(x, 1, start, start + reach, depth.stride).reshape(-1, *size, channels)
            y = unpatched.conv_general(lie(frames), w, *options)
            total = y if total is None else total + y
        assert total is not None
        return total.reshape(n, depth.output_size, *total.shape[1:]).astype(dtype)

    return convolve


_LIFTS = {
    "none": _as_it_stands,
    "plane": _with_axis(-2),  # (N, L, 1, C) with (O, K, 1, C)
    "marked": _with_axis(1),  # (N, 1, *S, C) with (O, 1, *K, C)
    "points": _as_points,
    "frames": _as_frames,
}


def padding_of(spec: ConvSpec) -> Padding:
    axes = spec.axes
    return tuple([a.padding_lo for a in axes]), tuple([a.padding_hi for a in axes])
