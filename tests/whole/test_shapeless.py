"""What is traced for all shapes is right for every length, or an error, never wrong in silence."""

from __future__ import annotations

import random
from collections import Counter
from contextlib import nullcontext
from dataclasses import replace

import mlx.core as mx
import numpy as np
import pytest

import polyconv
from polyconv.execution.arrays import of_this_shape
from tests.support.cases import Case, draw_case, integers
from tests.support.reference import conv_general as reference_conv


def drawn(rng: random.Random) -> Case:
    """As in the sweep, and half of them plain: with an input dilation nothing but MLX's op is."""
    case = draw_case(rng.choice)
    if rng.random() < 0.5 or not case.has_output:
        return case
    ndim = len(case.x_shape) - 2
    stride, padding, dilation = ([rng.choice((1, 2, 3)) for _ in range(ndim)] for _ in range(3))
    kwargs = {"stride": stride, "padding": padding, "dilation": dilation}
    general = {
        "stride": stride,
        "lo": padding,
        "hi": padding,
        "kernel_dilation": dilation,
        "input_dilation": [1] * ndim,
        "groups": case.general["groups"],
        "flip": False,
    }
    kwargs["groups"] = general["groups"]
    return replace(case, op=f"conv{ndim}d", kwargs=kwargs, general=general)


def others_of(case: Case, rng: random.Random) -> list[Case]:
    """The same call of inputs with other lengths, and another batch."""
    found = []
    for _ in range(4):
        batch, *sizes, channels = case.x_shape
        sizes = [rng.randint(1, 12) for _ in sizes]
        found.append(replace(case, x_shape=(rng.choice((1, 2, batch)), *sizes, channels)))
    return [each for each in found if each.has_output]


def shapeless(count: int, seed: int, export: str) -> Counter[str]:
    """How many results of how many traces were right, and how many refused."""
    rng = random.Random(seed)
    counts: Counter[str] = Counter()
    while counts["traces"] < count:
        case = drawn(rng)
        others = others_of(case, rng)
        method = rng.choice(("auto", "native", "per_phase", "stacked", "taps"))
        exporting = rng.random() < 0.7 or bool(export)
        if not case.has_output or not others:
            continue
        dtype = getattr(mx, case.dtype)
        weight = case.data()[1]
        w = mx.array(weight).astype(dtype)
        counts["traces"] += 1
        call = lambda x, case=case, w=w, method=method: case.call(x, w, method)  # noqa: E731
        device = rng.choice((None, None, "m4-max", "cuda"))
        with (
            polyconv.exporting() if exporting else nullcontext(),
            polyconv.planning_for(device) if device else nullcontext(),
        ):
            x = mx.zeros(case.x_shape, dtype)
            try:
                if export:
                    mx.export_function(export, call, x, shapeless=True)
                    imported = mx.import_function(export)
                    traced = lambda x, imported=imported: imported(x)[0]  # noqa: E731
                else:
                    traced = mx.compile(call, shapeless=True)
                    mx.eval(traced(x))
            except ValueError:
                counts["refused"] += 1
                continue
            for other in others:
                numbers = other.data()[0]
                try:
                    y = traced(mx.array(numbers).astype(dtype))
                    mx.eval(y)
                except ValueError:
                    counts["refused"] += 1
                    continue
                expected = reference_conv(numbers, weight, **case.general)
                same = np.array_equal(np.array(y.astype(mx.float32)), expected)
                assert same, f"{method} traced at {case.x_shape} is wrong at {other}"
                counts["right"] += 1
    return counts


def test_500_shapeless_traces_are_right_or_refused(tmp_path):
    assert shapeless(300, 1, "")["right"] >= 40
    assert shapeless(200, 2, str(tmp_path / "f.mlxfn"))["right"] >= 18


@pytest.mark.slow
def test_many_shapeless_traces_are_right_or_refused(tmp_path):
    assert shapeless(4000, 3, "")["right"] >= 500
    assert shapeless(1000, 4, str(tmp_path / "f.mlxfn"))["right"] >= 100


@pytest.mark.parametrize("exporting", [True, False])
def test_samples_that_no_window_reads_are_not_cut_off_at_other_lengths(exporting):
    w = integers(2, 4, 1)
    method = "auto" if exporting else "native"
    for length, unread in ((65, False), (64, True)):
        call = lambda x: polyconv.conv1d(x, w, stride=3, padding=1, method=method)  # noqa: E731
        traced = mx.compile(call, shapeless=True)
        with polyconv.exporting() if exporting else nullcontext():
            if unread:
                with pytest.raises(ValueError, match="cannot infer output shapes"):
                    traced(integers(1, length, 1))
                continue
            for other in (length, 33, 34, 35):
                x = integers(1, other, 1)
                right = reference_conv(np.array(x), np.array(w), [3], [1], [1], [1], [1])
                assert np.array_equal(np.array(traced(x)), right)


def refused_or_right(call, at, others):
    traced = mx.compile(call, shapeless=True)
    try:
        mx.eval(traced(mx.zeros(at)))
    except ValueError:
        return
    for shape in others:
        x = integers(*shape)
        assert mx.array_equal(traced(x), call(x)), shape


@pytest.mark.parametrize("down", [2, 3])
@pytest.mark.parametrize("length", [63, 64, 65])
def test_padding_that_follows_from_the_length(length, down):
    others = [(1, n, 1) for n in range(60, 68)]
    taps = integers(5)
    with polyconv.exporting():
        call = lambda x: polyconv.upfirdn(taps, x, 1, down, axis=1)  # noqa: E731
        refused_or_right(call, (1, length, 1), others)
        call = lambda x: polyconv.resample_poly(x, 1, down, axis=1, window=taps)  # noqa: E731
        refused_or_right(call, (1, length, 1), others)


@pytest.mark.parametrize("exporting", [True, False])
def test_zeros_of_nothing_are_not_the_output_of_something(exporting):
    filter_of_all, w = integers(1, 3, 1), integers(4, 3, 2)
    with polyconv.exporting() if exporting else nullcontext():
        call = lambda x: polyconv.conv_general(x, filter_of_all, groups=2)  # noqa: E731
        refused_or_right(call, (0, 9, 2), [(1, 9, 2)])
        call = lambda x: polyconv.conv_transpose1d(x, w, 2)  # noqa: E731
        refused_or_right(call, (0, 9, 2), [(1, 9, 2)])


@pytest.mark.parametrize(
    "shape", [(1, 1, 1), (1, 5, 2), (3, 5, 2), (2, 1, 1), (0, 5, 2), (0, 1, 1)]
)
def test_of_this_shape_is_the_array_for_values_gradients_and_maps(shape):
    x = integers(*shape)
    assert mx.array_equal(of_this_shape(x), x)
    with pytest.raises(ValueError, match="cannot infer output shapes"):
        mx.compile(of_this_shape, shapeless=True)(x)
    if x.size:
        weights = integers(*shape, seed=1)
        assert mx.array_equal(mx.grad(lambda x: (of_this_shape(x) * weights).sum())(x), weights)
        assert mx.array_equal(mx.vmap(of_this_shape, 1, 1)(x), x)


def test_a_step_that_gives_nothing_yet_is_refused_for_other_lengths():
    w = mx.ones((4, 1, 2))
    state = polyconv.stream_init("conv1d", w, stride=4)
    step = mx.compile(lambda x: polyconv.stream_step(state, x, w)[0], shapeless=True)
    with pytest.raises(ValueError, match="cannot infer"):
        mx.eval(step(mx.ones((1, 0, 2))), step(mx.ones((1, 20, 2))))
