"""The time model for Apple GPUs: it is what was fitted, and what can be worked out by hand."""

import json
from dataclasses import asdict, replace
from math import isclose, isfinite, prod, sqrt
from pathlib import Path

import pytest

from polyconv.metal import work
from polyconv.metal.gpus import CHIPS, chip_of, gpu_of
from polyconv.metal.kernels import RECORDED, predict
from polyconv.metal.seconds import (
    FITTED,
    N_TIMINGS,
    NAMES,
    TESTED,
    Kernel,
    call_seconds,
    factor_of,
    kernel_seconds,
    predicted,
    used_by,
)
from polyconv.planning.devices import DEVICES
from polyconv.problem.signatures import problem_of
from polyconv.problem.spec import Axis, ConvSpec
from tests.support.recorded import REAL, ROWS, spec_of

FOUND = json.loads(
    (Path(__file__).parents[2] / "docs" / "benchmarks" / "metal_fit.json").read_text()
)
M4_MAX = CHIPS["m4 max"]
# Of whom no peak is published.
UNKNOWN = {"a18-pro-8gb", "paravirtual-7gb"}


def test_the_parameters_are_those_of_the_fit():
    assert asdict(FITTED) == FOUND["parameters"]
    assert FOUND["rows"] == N_TIMINGS


def test_every_device_with_a_published_peak_is_known():
    assert {name for name in DEVICES if gpu_of(name).is_assumed} == UNKNOWN


def test_a_gpu_is_found_by_any_of_its_names():
    for name in ("Apple M2 Pro", "m2-pro-16gb", "m2-pro", "M2 Pro"):
        assert chip_of(name) == "m2 pro"
        assert gpu_of(name) is CHIPS["m2 pro"]
    assert gpu_of("m4-max") is CHIPS["m4 max"]


def test_an_unknown_gpu_is_likened_to_one_of_its_class():
    """An A18 Pro to a base M4, an M6 Max to an M4 Max that has accelerators."""
    phone, later = gpu_of("Apple A18 Pro", "p"), gpu_of("Apple M6 Max", "s")
    assert (phone.cores, phone.has_accelerators, phone.is_assumed) == (10, False, True)
    assert (later.cores, later.has_accelerators, later.is_assumed) == (40, True, True)


def seconds(spec, gpu=M4_MAX):
    choice = predict(spec, DEVICES["m4-max"], RECORDED)
    return call_seconds(work.convolution(spec, choice, gpu), gpu)


def test_a_copy_by_hand():
    """64 MB read and written at 0.915 of 546 GB/s, and a launch."""
    kernel = work.copy(2 * 64e6, 4)
    expected = 2.6e-6 + 128e6 / (546e9 * FITTED.copy_32)
    assert isclose(kernel_seconds(kernel, M4_MAX), expected)
    assert 0.25e-3 < expected < 0.27e-3


def test_a_small_convolution_by_hand():
    """32 by 32 outputs of 64 channels, from 32, by 3 by 3 taps: 32 tiles of 32 by 64."""
    spec = ConvSpec(1, 32, 64, (Axis(34, 3), Axis(34, 3)))
    (kernel,) = work.convolution(spec, predict(spec, DEVICES["m4-max"]), M4_MAX)
    macs = 1024 * 64 * 9 * 32
    n_bytes = 4 * (34 * 34 * 32 + 64 * 9 * 32 + 1024 * 64)
    assert kernel == Kernel("implicit_2d", n_bytes, macs, macs * 3 / 64, 32)
    computed = macs + FITTED.implicit_load * macs * 3 / 64 + FITTED.tile * 32
    computed /= 9.2e12 * FITTED.implicit_2d * 32 / (32 + FITTED.conv_fill * 40)
    moved = n_bytes / (546e9 * FITTED.conv_bytes)
    expected = 2.6e-6 + sqrt(computed**2 + moved**2)
    assert isclose(kernel_seconds(kernel, M4_MAX), expected, rel_tol=1e-12)


def test_a_transposed_convolution_by_hand():
    """The general kernel passes over zeros: 3 by 3 taps at stride 2 are 4 phases with 9 in all."""
    axis = Axis(16, 3, input_dilation=2, padding_lo=2, padding_hi=3)
    spec = ConvSpec(1, 32, 32, (axis, axis), flip=True)
    choice = predict(spec, DEVICES["m4-max"], RECORDED)
    assert choice.path == "implicit_gemm_2d_general"
    (kernel,) = work.convolution(spec, choice, M4_MAX)
    rows = 17 * 17  # of each phase, in 10 tiles of 32
    assert spec.output_sizes == (34, 34)
    assert kernel.macs == 10 * 32 * 32 * 32 * 9 >= rows * 32 * 32 * 9
    assert kernel.n_tiles == 4 * 10


def test_unfolding_counts_what_it_writes():
    spec = ConvSpec(1, 512, 256, (Axis(128, 16, 1, 8, 1, 11, 11),), flip=True)
    choice = predict(spec, DEVICES["m4-max"], RECORDED)
    unfold, multiply = work.convolution(spec, choice, M4_MAX)
    assert unfold.n_bytes == choice.unfold_bytes + 4 * 128 * 512
    assert (unfold.family, multiply.family) == ("unfold_wide", "gemm")
    assert multiply.macs == 1024 * 256 * 16 * 512


def test_halves_are_multiplied_by_accelerators_where_there_are_some():
    m5 = CHIPS["m5 max"]
    families = [
        work.product(512, 512, 512, gpu, itemsize=itemsize).family
        for gpu in (M4_MAX, m5)
        for itemsize in (4, 2)
    ]
    assert families == ["gemm", "gemm", "gemm", "nax_gemm"]


@pytest.mark.parametrize("name", CHIPS)
def test_every_recorded_call_has_a_time(name):
    """From a launch to the seconds that an unfolded input of a hundred gigabytes takes."""
    known = {}
    for row in [*ROWS, *REAL]:
        spec = spec_of(row)
        known[spec] = seconds(spec, CHIPS[name])
    assert all(isfinite(each) and FITTED.launch < each < 3600 for each in known.values())
    assert len(known) > 2000


@pytest.mark.parametrize("family", ["gemm", "implicit_2d", "general_2d", "implicit_3d", "concat"])
def test_more_work_takes_longer(family):
    """A call of more rows of the same has more of everything, and is no shorter."""
    alike = [Kernel(family, n * 1e6, n * 1e8, n * 1e7, n * 100.0) for n in (0.1, 0.5, 1, 2, 5, 100)]
    for gpu in CHIPS.values():
        times = [kernel_seconds(kernel, gpu) for kernel in alike]
        assert times == sorted(times)
        assert times[0] > FITTED.launch


def test_more_outputs_of_a_convolution_take_longer():
    before = 0.0
    for size in (8, 16, 32, 64, 128, 256):
        axis = Axis(size, 3, padding_lo=1, padding_hi=1)
        now = seconds(ConvSpec(1, 64, 64, (axis, axis)))
        assert now > before
        before = now


def test_each_parameter_matters_to_its_families_alone():
    """A larger share or fill, load or tile changes the time of who is said to use it."""
    families = ("gemm", "nax_gemm", "implicit_2d", "general_2d", "implicit_3d", "depthwise")
    families += ("copy_32", "copy_16", "concat", "unfold_wide", "unfold_narrow")
    met = set()
    for family in families:
        kernel = Kernel(family, 1e7, 1e9, 1e8, 500.0)
        for name in NAMES:
            more = replace(FITTED, **{name: 1.1 * getattr(FITTED, name)})
            changes = kernel_seconds(kernel, M4_MAX, more) != kernel_seconds(kernel, M4_MAX)
            assert changes == (name in used_by(family)), (family, name)
            met |= {name} if changes else set()
    assert met == set(NAMES)


def test_products_of_one_row_are_bound_by_their_bytes():
    assert work.product(1, 512, 256, M4_MAX).family == "copy_32"
    assert work.product(64, 512, 256, M4_MAX).macs == prod((64, 512, 256))


def test_what_is_tested_is_what_was_counted():
    assert {kind: list(each) for kind, each in TESTED.items()} == FOUND["tested"]


def test_bounds_of_a_call_by_hand():
    """Half of the time by a well tested kernel, half by one with a lone timing."""
    copy, general = (
        Kernel("copy_32", 1e8),
        Kernel("general_2d", 1e6, n_tiles=1.0, kind="general 2D, transposed"),
    )
    alone = [predicted([each], M4_MAX) for each in (copy, general)]
    assert [each.n_timings for each in alone] == [99, 1]
    assert [factor_of(kind) for kind in ("copy", "general 2D, transposed", "winograd")] == [
        1.2,
        2.5,
        2.5,
    ]
    both = predicted([copy, general], M4_MAX)
    assert isclose(both.seconds, sum(each.seconds for each in alone))
    assert isclose(both.least, alone[0].seconds / 1.2 + alone[1].seconds / 2.5)
    assert isclose(both.most, alone[0].seconds * 1.2 + alone[1].seconds * 2.5)
    assert (both.n_timings, both.n_launches) == (99, 2)  # the other takes less than a tenth


@pytest.mark.parametrize(
    ("x", "w", "options", "kind"),
    [
        (
            (1, 64, 64, 64),
            (64, 3, 3, 64),
            {"input_dilation": 2, "flip": True},
            "general 2D, transposed",
        ),
        ((1, 64, 64, 64), (64, 3, 3, 64), {}, "implicit 2D"),
        ((1, 64, 64, 3), (64, 3, 3, 3), {}, "implicit 2D, C up to 4 or O up to 16"),
        ((1, 64, 64), (64, 3, 64), {"input_dilation": 2}, "explicit"),
        ((1, 64, 64), (64, 3, 1), {"groups": 64}, "depthwise 1D"),
        ((1, 64, 64, 64), (64, 3, 3, 1), {"groups": 64}, "depthwise 2D"),
        ((1, 8, 8, 8, 32), (32, 3, 3, 3, 32), {"padding": 1}, "implicit 3D"),
    ],
)
def test_each_kernel_is_told_by_what_it_was_tested_as(x, w, options, kind):
    spec = problem_of("conv_general", x, w, "float32", options)
    kernels = work.convolution(spec, predict(spec, DEVICES["m4-max"]), M4_MAX)
    assert kernels[-1].tested_as == kind
