"""The model of MLX's Metal dispatch against every recorded call."""

from collections import Counter
from itertools import product
from math import prod

import pytest

from polyconv.metal.calls import DeviceLimits
from polyconv.metal.kernels import RECORDED, RULE_SETS, predict, rules_for
from polyconv.planning.devices import DEVICES
from polyconv.problem.spec import ITEMSIZE, Axis, ConvSpec
from tests.support.recorded import REAL, ROWS, spec_of

M4_MAX = DEVICES["m4-max"]


def test_every_recorded_call_is_predicted():
    wrong = Counter()
    for row in [*ROWS, *REAL]:
        choice = predict(spec_of(row), M4_MAX, RECORDED)
        if (choice.path, choice.unfold_bytes) != (row["path"], row["unfold_bytes"]):
            wrong[choice.path, row["path"]] += 1
    assert (len(ROWS), len(REAL)) == (2310, 336)
    assert not wrong


def recorded_bytes(row):
    """What was allocated beside the output, but for the scalar zero that padding is made of."""
    found = {role: n for role, n in row["bytes"].items() if role not in ("output", "scalar")}
    spec = spec_of(row)
    output = ITEMSIZE[spec.dtype] * prod(spec.output_shape)
    if row["bytes"]["output"] > output:
        found["output_oversize"] = row["bytes"]["output"] - output
    return found


def predicted_bytes(row, contiguous):
    choice = predict(spec_of(row), M4_MAX, RECORDED, contiguous=contiguous)
    found = Counter({"unfold": choice.unfold_bytes})
    for role, n in choice.temporaries:
        found[role] += n
    return {role: n for role, n in found.items() if n}


def test_every_recorded_allocation_is_predicted():
    """Which views MLX must copy depends on axes of size 1; the sizes of the copies do not."""
    for row in [*ROWS, *REAL]:
        cropped = min(*row["padding_lo"], *row["padding_hi"]) < 0
        in_order = set(row["layouts"]) <= {"row", "slice_batch"} and not cropped
        layouts = [(True, True)] if in_order else list(product((True, False), repeat=2))
        assert recorded_bytes(row) in [predicted_bytes(row, each) for each in layouts], row["id"]


def test_every_recorded_hazard_is_predicted_and_no_other():
    hazards = [row["id"] for row in ROWS if row["hazard"]]
    assert [row["id"] for row in ROWS if predict(spec_of(row), M4_MAX, RECORDED).hazard] == hazards
    assert len(hazards) > 10


def test_newer_rules_change_the_path_of_few_recorded_calls_and_unfold_no_more():
    changed = Counter()
    for row in [*ROWS, *REAL]:
        choice = predict(spec_of(row), M4_MAX)
        if choice.path != row["path"]:
            changed[row["path"], choice.path] += 1
            assert choice.unfold_bytes <= row["unfold_bytes"]
    assert changed == {
        ("explicit_gemm_group_nd", "implicit_gemm_2d"): 11,
        ("implicit_gemm_2d", "depthwise_2d"): 7,
        ("explicit_gemm_nd", "phase_gemms_3d"): 6,
        ("explicit_gemm_nd", "implicit_gemm_2d_general"): 1,
    }


def test_every_path_is_among_the_recorded():
    assert len({row["path"] for row in ROWS}) == 11


def conv(x, w, input_dilation=1, padding=(0, 0), groups=1, flip=False):
    axes = tuple(
        Axis(n, k, input_dilation=input_dilation, padding_lo=padding[0], padding_hi=padding[1])
        for n, k in zip(x[1:-1], w[1:-1], strict=True)
    )
    return ConvSpec(x[0], x[-1], w[0], axes, groups, flip)


def test_a_choice_says_why_and_where():
    native = predict(conv((1, 128, 512), (256, 16, 512), 8, (11, 11), flip=True), M4_MAX)
    assert native.path == "explicit_gemm_nd"
    assert native.because == "input_dilation above 1"
    assert native.source == "conv.cpp: conv_1D_gpu"
    assert native.unfold_bytes == 1024 * 16 * 512 * 4
    assert native.rule_set == "mlx 0.32.4"
    stacked = predict(conv((1, 128, 512), (2048, 2, 512), padding=(1, 1)), M4_MAX)
    assert (stacked.path, stacked.unfold_bytes) == ("implicit_gemm_2d", 0)
    assert stacked.source == "conv.cpp: dispatch_conv_2D_gpu"


@pytest.mark.parametrize("limit", [10**6, 10**9, 10**12])
def test_the_unfold_buffer_is_tiled_to_the_largest_buffer(limit):
    repro = conv((1, 5158, 1), (1, 4096, 1), 1024, (4095, 4095), flip=True)
    unfolded = predict(repro, DeviceLimits(limit, limit)).unfold_bytes
    row = 4096 * 4
    assert unfolded == min(5_284_864 * row, limit // row * row)


OLDEST, FASTER_DEPTHWISE, TILED, *_ = RULE_SETS


def test_an_older_mlx_asks_for_the_whole_unfold_buffer_and_fails_above_the_largest():
    repro = conv((1, 5158, 1), (1, 4096, 1), 1024, (4095, 4095), flip=True)
    whole = 5_284_864 * 4096 * 4
    for rules in (OLDEST, FASTER_DEPTHWISE):
        choice = predict(repro, M4_MAX, rules)
        assert (choice.unfold_bytes, choice.n_tiles) == (whole, 1)
        assert "exceeds the largest" in choice.error
    choice = predict(repro, M4_MAX, TILED)
    assert (choice.n_tiles, choice.error) == (2, "")


DOUBLED = conv((2, 4, 4, 4, 16), (8, 2, 2, 2, 16), 2, (1, 1), flip=True)


def test_a_product_per_phase_has_buffers_of_the_size_of_the_output():
    choice = predict(DOUBLED, M4_MAX)
    assert dict(choice.temporaries) == {"phase_products": 2 * 8**3 * 8 * 4}
    assert (choice.unfold_bytes, choice.hazard, choice.error) == (0, "", "")


@pytest.mark.parametrize(
    ("spec", "paths"),
    [
        # 3D by frames came with 0.32.1 (mlx #3785),
        (conv((1, 8, 8, 8, 16), (16, 2, 2, 2, 16)), ["implicit_gemm_3d"] * 2 + ["small_kd_3d"] * 4),
        # as did padded input channels (#3904);
        (
            conv((1, 32, 32, 20), (16, 3, 3, 20)),
            ["implicit_gemm_2d_general"] * 2 + ["pad_in_channels_2d"] * 4,
        ),
        # until 0.32.0 depthwise 2D needed outputs in eighths (#3446),
        (
            conv((1, 9, 9, 16), (16, 2, 2, 1), groups=16),
            ["depthwise_2d"] * 6,
        ),
        (
            conv((1, 8, 8, 16), (16, 2, 2, 1), groups=16),
            ["implicit_gemm_2d"] + ["depthwise_2d"] * 5,
        ),
        # and groups with input dilation took the kernel that knows none (#3800).
        (
            conv((1, 32, 32, 16), (16, 2, 2, 8), input_dilation=2, groups=2),
            ["implicit_gemm_2d_general"] + ["explicit_gemm_group_nd"] * 5,
        ),
        # A product per phase came with 0.32.3 (#4343), for an exactly doubled 3D output alone.
        (DOUBLED, ["explicit_gemm_nd"] * 4 + ["phase_gemms_3d"] * 2),
        (conv((1, 4, 4, 4, 16), (8, 2, 2, 2, 16), 2, (1, 2), flip=True), ["explicit_gemm_nd"] * 6),
        (conv((1, 4, 4, 4, 16), (8, 2, 2, 2, 16), 2, (1, 1)), ["explicit_gemm_nd"] * 6),
        # 0.32.4 has kernels for 8 channels, which 1D and groups reach,
        (
            conv((1, 50, 16), (16, 3, 8), groups=2),
            ["explicit_gemm_group_nd"] * 5 + ["implicit_gemm_2d"],
        ),
        (
            conv((1, 32, 32, 16), (16, 3, 3, 8), groups=2),
            ["explicit_gemm_group_nd"] * 5 + ["implicit_gemm_2d"],
        ),
        # a dense call in 1D goes on to the rules of 2D,
        (conv((1, 502, 8), (16, 3, 8)), ["explicit_gemm_nd"] * 5 + ["implicit_gemm_2d_general"]),
        (conv((1, 510, 8), (16, 9, 8)), ["explicit_gemm_nd"] * 5 + ["pad_in_channels_2d"]),
        (conv((1, 50, 8), (16, 3, 8)), ["explicit_gemm_nd"] * 6),
        (conv((1, 32, 32, 8), (16, 2, 2, 8)), ["implicit_gemm_2d_general"] * 6),
        # and depthwise 2D asks for channels in 8s, no longer in 16s.
        (
            conv((1, 9, 9, 24), (24, 2, 2, 1), groups=24),
            ["implicit_gemm_2d"] * 5 + ["depthwise_2d"],
        ),
    ],
)
def test_what_changed_between_versions(spec, paths):
    assert [predict(spec, M4_MAX, rules).path for rules in RULE_SETS] == paths


def test_winograd_works_in_steps_that_fit_the_working_set():
    spec = conv((64, 64, 64, 256), (256, 3, 3, 256), padding=(1, 1))
    small = DeviceLimits(2**32, 2**31)
    whole, stepped = predict(spec, M4_MAX), predict(spec, small)
    assert whole.path == stepped.path == "winograd_2d"
    assert dict(stepped.temporaries)["winograd"] < dict(whole.temporaries)["winograd"]
    assert predict(spec, small, TILED).temporaries == whole.temporaries
    assert predict(spec, DeviceLimits(2**30, 2**29)).path == "implicit_gemm_2d"


def test_the_rules_of_a_version_are_the_newest_that_are_not_newer():
    assert rules_for((0, 30, 0)) == rules_for((0, 31, 2)) == OLDEST
    assert rules_for((0, 32, 0)) == FASTER_DEPTHWISE
    assert rules_for((0, 33, 1)) == RULE_SETS[-1]


def test_devices_have_buffers_of_three_quarters_of_the_working_set():
    """As every recorded pair has, in pages of 16 KiB; one that is no Mac's within a page."""
    for name, limits in DEVICES.items():
        page = 16384
        whole = limits.working_set_bytes * 3 // 4 // page * page
        assert limits.max_buffer_bytes == whole + page * (name == "paravirtual-7gb")
