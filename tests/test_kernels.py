"""The model of MLX's Metal dispatch against every recorded call."""

import gzip
import json
from collections import Counter
from pathlib import Path

import pytest

from polyconv.kernels import DEVICES, DeviceLimits, predict
from polyconv.spec import Axis, ConvSpec

M4_MAX = DEVICES["m4-max"]
GOLDEN = Path(__file__).parent / "data" / "metal_golden.jsonl.gz"
ROWS = [json.loads(line) for line in gzip.decompress(GOLDEN.read_bytes()).splitlines()]


def spec_of(row):
    options = ("stride", "input_dilation", "kernel_dilation", "padding_lo", "padding_hi")
    columns = [row["x"][1:-1], row["w"][1:-1], *(row[name] for name in options)]
    axes = tuple(Axis(*numbers) for numbers in zip(*columns, strict=True))
    sizes = (row["x"][0], row["x"][-1], row["w"][0])
    return ConvSpec(*sizes, axes, row["groups"], row["flip"], row["dtype"])


def test_every_recorded_call_is_predicted():
    wrong = Counter()
    for row in ROWS:
        choice = predict(spec_of(row), M4_MAX)
        if (choice.path, choice.unfold_bytes) != (row["path"], row["unfold_bytes"]):
            wrong[choice.path, row["path"]] += 1
    assert len(ROWS) == 2310
    assert not wrong


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
    assert native.rule_set == "mlx 0.32.2"
    stacked = predict(conv((1, 128, 512), (2048, 2, 512), padding=(1, 1)), M4_MAX)
    assert (stacked.path, stacked.unfold_bytes) == ("implicit_gemm_2d", 0)
    assert stacked.source == "conv.cpp: dispatch_conv_2D_gpu"


@pytest.mark.parametrize("limit", [10**6, 10**9, 10**12])
def test_the_unfold_buffer_is_tiled_to_the_largest_buffer(limit):
    repro = conv((1, 5158, 1), (1, 4096, 1), 1024, (4095, 4095), flip=True)
    unfolded = predict(repro, DeviceLimits(limit)).unfold_bytes
    row = 4096 * 4
    assert unfolded == min(5_284_864 * row, limit // row * row)
