"""What polyconv says of this machine, and of calls by the rules of an older or newer MLX."""

import json
import math
import sys
from pathlib import Path

import mlx.core as mx
import pytest

import polyconv
from polyconv import inspection
from polyconv.__main__ import main
from polyconv.inspection import explain
from polyconv.inspection.command_line import reason_of
from polyconv.metal.kernels import NEWEST


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({}, "no field or value 'w'"),
        ("nonsense", "Expecting value"),
        ({"x": [1, 4, 2], "w": [2, 3, 2], "dtype": "int8", "groups": 1}, "no field or value"),
    ],
)
def test_a_bad_row_of_a_batch_is_named(row, reason, tmp_path, capsys):
    file = tmp_path / "rows.jsonl"
    file.write_text("\n" + (row if isinstance(row, str) else json.dumps(row)) + "\n")
    assert main(["explain", "--batch", str(file)]) == 2
    assert f"rows.jsonl, line 2, must be a recorded call; got {reason}" in capsys.readouterr().err


def raised(file, code, **known):
    with pytest.raises(ValueError) as caught:
        exec(compile(code, str(file), "exec"), known)
    return caught.value


def test_an_error_that_polyconv_did_not_mean_is_told_with_its_place(tmp_path):
    inside = Path(polyconv.__file__).parent / "bench" / "scores.py"
    error = raised(inside, "x = -1\nmath.log(x)", math=math)
    assert reason_of(error) == f"{error} (ValueError in scores.py, line 2)"
    error = raised(tmp_path / "model.py", "math.log(-1)", math=math)
    assert reason_of(error) == str(error)
    meant = raised(tmp_path / "model.py", "plan('m9')", plan=inspection.metal_named)
    assert reason_of(meant) == str(meant)
    assert str(meant).startswith("[")


def test_sizes_below_zero_are_refused(capsys):
    with pytest.raises(ValueError, match="sizes of weight must be at least 0"):
        polyconv.explain("conv_transpose1d", (1, 4, 4), (-4, 4, 4), stride=2)


def test_a_newer_mlx_than_the_rules_is_noticed(monkeypatch):
    monkeypatch.setattr(explain.device, "version", lambda: (0, 99, 0))
    told = str(polyconv.explain("conv_transpose1d", (1, 8, 4), (4, 4, 4), stride=2))
    assert "newer than the newest rules known to polyconv" in told
    assert "newer than the newest rules" in polyconv.doctor()
    monkeypatch.setattr(explain.device, "version", lambda: NEWEST.version)
    told = str(polyconv.explain("conv_transpose1d", (1, 8, 4), (4, 4, 4), stride=2))
    assert "newer" not in told


def test_an_older_mlx_is_explained_by_its_own_rules(monkeypatch):
    monkeypatch.setattr(explain.device, "version", lambda: (0, 31, 2))
    told = polyconv.explain(
        "conv_transpose1d", (1, 5158, 1), (1, 4096, 1), stride=1024, device="m4-max"
    )
    assert told.rule_set == "mlx 0.31.2"
    assert "exceeds the largest" in told.lines[0].error


def test_the_doctor_says_what_is_here(capsys):
    assert main(["doctor"]) == 0
    text = capsys.readouterr().out
    assert f"MLX {mx.__version__}" in text
    assert "kernel rules in force: mlx 0." in text
    assert ("BLAS: " in text) == sys.platform.startswith("linux")


def test_the_doctor_says_on_cuda_what_to_try(monkeypatch):
    monkeypatch.setattr(explain.device, "present", lambda: None)
    monkeypatch.setattr(mx, "default_device", lambda: mx.gpu)
    monkeypatch.setattr(explain, "_backend", lambda: "CUDA")
    monkeypatch.delenv("MLX_USE_CUDA_GRAPHS", raising=False)
    monkeypatch.setattr(explain, "_cache", list)
    assert "GPU: CUDA\n  try MLX_USE_CUDA_GRAPHS=0" in polyconv.doctor()
    monkeypatch.setenv("MLX_USE_CUDA_GRAPHS", "0")
    assert "try MLX_USE" not in polyconv.doctor()
