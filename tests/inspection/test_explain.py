"""What explain says: as text, as a dict, and on the command line."""

import gzip
import json
import subprocess
import sys
from pathlib import Path

import mlx.core as mx
import pytest

import polyconv
from polyconv.__main__ import main
from polyconv.execution import device
from polyconv.execution.run import run
from polyconv.metal.kernels import NEWEST, RECORDED
from polyconv.planning.choose import plan
from polyconv.planning.devices import CPU, DEVICES, Metal
from polyconv.planning.methods import METHODS
from tests.support.cases import NAMED
from tests.support.problems import general_spec
from tests.support.recorded import GOLDEN, ROWS
from tests.support.trace import traced

METAL = Metal("m4-max", DEVICES["m4-max"])
REPRO = ("conv_transpose1d", (1, 5158, 1), (1, 4096, 1))


@pytest.fixture(autouse=True)
def newest_rules(monkeypatch):
    """Explained by the newest rules, whichever MLX runs."""
    monkeypatch.setattr(device, "version", lambda: NEWEST.version)


def test_the_repro_of_the_mlx_issue():
    told = polyconv.explain(*REPRO, stride=1024, device="m4-max")
    native, lifted, per_phase, stacked, taps = told.lines
    assert taps.kernels == (("matmul", 4),)
    assert told.chosen == "stacked"
    assert told.output_shape == (1, 5_284_864, 1)
    row = 4096 * 4  # bytes; as many rows as the largest buffer of an M4 Max holds
    assert native.unfold_bytes == DEVICES["m4-max"].max_buffer_bytes // row * row > 86e9
    assert native.kernels == (("explicit_gemm_nd", 1),)
    assert per_phase.n_convs == 1024
    assert (stacked.n_convs, stacked.unfold_bytes) == (1, 0)
    assert native.macs_on_zeros / native.macs > 0.999
    assert lifted.method == "native as 2D"
    assert lifted.kernels == (("implicit_gemm_2d_general", 1),)
    assert "0.31.2 and 0.32.0 raise an error, 0.32.1 and later fill one buffer" in str(told)
    assert "-> stacked" in str(told)
    assert "nothing is measured" in str(told)


@pytest.mark.parametrize("name", NAMED)
def test_every_named_case_is_explained(name):
    case = NAMED[name]
    told = polyconv.explain(case.op, case.x_shape, case.w_shape, **case.kwargs)
    methods = [line.method for line in told.lines]
    assert [method for method in methods if method != "native as 2D"] == sorted(METHODS)
    assert told.chosen in METHODS
    for line in told.lines:
        assert (line.reason == "") == (line.method == told.chosen)
        assert (line.n_convs == 0) == (line.kernels == ())
        assert line.macs >= line.macs_on_zeros
    assert json.loads(json.dumps(told.to_dict()))["chosen"] == told.chosen


@pytest.mark.parametrize("device", [CPU, METAL], ids=["cpu", "m4-max"])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", NAMED)
def test_kernels_are_predicted_for_the_convolutions_that_are_issued(name, method, device):
    """`Issued` says what `execute` hands to MLX, call by call."""
    try:
        lowered = plan(general_spec(NAMED[name]), method, device=device)
    except ValueError:
        return  # refused, as tests/execution/test_run.py lists
    with traced() as calls:
        run(lowered, *map(mx.array, NAMED[name].data()), pad_explicitly=False)
    issued = [sub.issued for sub in lowered.subconvs]
    expected = [each.spec for each in issued for _ in range(each.n_convs)]
    assert calls == ([] if lowered.products else expected)


def test_channels_that_do_not_fit_a_fast_kernel_are_padded_and_it_shows():
    """Stacked 5 channels by 4 phases are 20, which MLX's 1D kernel does not take."""
    shapes = ((1, 64, 16), (5, 8, 16))
    told = polyconv.explain("conv_transpose1d", *shapes, stride=4, padding=2, device="m4-max")
    lines = {line.method: line for line in told.lines}
    stacked = lines["stacked"]
    assert stacked.kernels == (("implicit_gemm_2d", 1),)
    assert stacked.forms == ("12 output channels of zeros added per group",)
    assert stacked.unfold_bytes == 0
    assert stacked.macs == 65 * 2 * 32 * 16
    assert told.chosen == "stacked"
    assert lines["per_phase"].reason == "predicted to take 3.33 times as long as stacked"


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("conv1d", (1, 4, 2), (3, 4, 2)), "[explain] op must be one of conv_transpose1d, "),
        ((*REPRO,), "[explain] device must be one of a18-pro-8gb, "),
    ],
)
def test_bad_questions_are_one_sentence(arguments, text):
    with pytest.raises(ValueError) as error:
        polyconv.explain(*arguments, device="m9")
    assert str(error.value).startswith(text)


def test_bad_calls_get_the_op_s_own_error():
    with pytest.raises(ValueError, match=r"\[conv_transpose1d\] stride must be at least 1; got 0"):
        polyconv.explain(*REPRO, stride=0)
    with pytest.raises(ValueError, match=r"options must be among stride, .*; got strides"):
        polyconv.explain(*REPRO, strides=2)
    with pytest.raises(ValueError, match="dtype must be one of float16, bfloat16, float32"):
        polyconv.explain(*REPRO, dtype="float64")


ARGUMENTS = ["explain", "conv_transpose1d", "--input", "1,5158,1", "--weight", "1,4096,1"]


def test_command_line(capsys):
    assert main([*ARGUMENTS, "--stride", "1024"]) == 0
    assert capsys.readouterr().out == f"{polyconv.explain(*REPRO, stride=1024)}\n"
    assert main([*ARGUMENTS, "--stride", "1024", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    expected = json.loads(json.dumps(polyconv.explain(*REPRO, stride=1024).to_dict()))
    assert told == expected


def test_options_of_conv_general(capsys):
    shapes = ["--input", "1,9,8,4", "--weight", "2,3,3,2", "--groups", "2", "--flip"]
    padding = ["--padding-lo", "2,1", "--padding-hi", "1,0", "--input-dilation", "3"]
    assert main(["explain", "conv_general", *shapes, *padding, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["output_shape"] == [1, 26, 21, 2]


@pytest.mark.parametrize(
    "arguments",
    [
        ["explain"],
        ["explain", "conv_transpose1d", "--input", "1,x"],
        ["explain", "conv_transpose9d"],
        ["explain", "conv_transpose1d", "--input", "1,4,2", "--weight", "3,4,5"],
        ["explain", "--batch", "nowhere.jsonl"],
        ["explain", "conv_transpose1d", "--device", "m9"],
        [],
    ],
)
def test_usage_errors_are_one_line_and_exit_code_2(arguments, capsys):
    try:
        code = main(arguments)
    except SystemExit as stop:
        code = stop.code
    told = capsys.readouterr()
    assert code == 2
    assert told.out == ""
    assert len(told.err.strip().splitlines()) == 1


def test_a_batch_of_recorded_calls(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(device, "version", lambda: RECORDED.version)
    rows = tmp_path / "rows.jsonl"
    rows.write_bytes(gzip.decompress(GOLDEN.read_bytes()))
    assert main(["explain", "--batch", str(rows), "--device", "m4-max"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert lines == [{"path": r["path"], "unfold_bytes": r["unfold_bytes"]} for r in ROWS]


def test_a_recorded_transposed_call(tmp_path, capsys, monkeypatch):
    row = {"op": "conv_transpose", "x": [1, 8, 8, 8, 16], "w": [8, 2, 2, 2, 16], "groups": 1}
    row |= {"stride": [2] * 3, "padding": [0] * 3, "dilation": [1] * 3, "output_padding": [0] * 3}
    file = tmp_path / "row.jsonl"
    file.write_text(json.dumps({**row, "dtype": "float16"}))
    assert main(["explain", "--batch", str(file), "--device", "m4-max"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told == {"path": "phase_gemms_3d", "unfold_bytes": 0}
    monkeypatch.setattr(device, "version", lambda: RECORDED.version)
    assert main(["explain", "--batch", str(file), "--device", "m4-max"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told == {"path": "explicit_gemm_nd", "unfold_bytes": 16**3 * 8 * 16 * 2}


def test_as_a_module():
    command = [sys.executable, "-m", "polyconv", *ARGUMENTS, "--stride", "1024"]
    root = Path(__file__).parents[2]
    ran = subprocess.run(command, cwd=root, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    assert "-> stacked" in ran.stdout


def test_the_gain_over_mlx_is_told_with_its_bounds():
    """By the times in the table: the quotient of both, and of their bounds crosswise."""
    call = {"stride": 8, "padding": 4}
    told = polyconv.explain("conv_transpose1d", (1, 128, 512), (256, 16, 512), device="m2", **call)
    times = {line.method: line.time for line in told.lines}
    native, taken = times["native"], times[told.chosen]
    ratio = native.seconds / taken.seconds
    assert ratio > 2
    least, most = native.least / taken.most, native.most / taken.least
    assert least > 1
    told = f"Gain over MLX's own op: {ratio:.2g} times, by the bounds of both {least:.2g} to "
    assert f"\n\n{told}{most:.2g} times.\n" in str(
        polyconv.explain("conv_transpose1d", (1, 128, 512), (256, 16, 512), device="M2", **call)
    )


def test_a_gain_that_is_not_sure_says_so_and_a_large_one_has_no_exponent():
    short = str(polyconv.explain("conv_transpose1d", (1, 4, 8), (8, 3, 8), device="m2", stride=2))
    assert "Gain over MLX's own op: 0.81 times" in short
    assert "times, which is not sure." in short
    long = str(polyconv.explain("conv_transpose1d", (1, 5158, 1), (1, 4096, 1), stride=1024))
    assert ",000 times, by the bounds of both" in long
