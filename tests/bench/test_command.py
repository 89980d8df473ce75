"""`polyconv bench`: what it times, of one call, of cases as data and of a train step."""

import json
from pathlib import Path

import mlx.core as mx
import pytest

from polyconv.__main__ import main
from polyconv.bench import timing

ROOT = Path(__file__).parents[2]


# On a GPU MLX keeps what is freed, and that is not timed anew.
CACHED = () if mx.default_device() == mx.gpu else ("packed, 2 GB cache",)


def test_bench_times_each_method_and_says_how_far_they_differ(capsys):
    timings = timing.bench("conv_transpose1d", (1, 9, 4), (3, 4, 4), rounds=2, stride=2, padding=1)
    names = [each.name for each in timings]
    methods = ["auto", "per_phase", "stacked", "taps", "packed", "matmul", *CACHED]
    assert names == ["mx", "mx as 2D", *methods]
    assert all(each.error is None or each.error < 1e-5 for each in timings)
    assert [each.name for each in timings if each.error is None] == ["matmul", *CACHED]
    shapes = ["--input", "1,4,4,4", "--weight", "6,2,2,2"]
    command = ["bench", "conv_transpose2d", *shapes, "--stride", "2", "--groups", "2"]
    assert main([*command, "--rounds", "2"]) == 0
    rows = capsys.readouterr().out.splitlines()
    assert [row.split()[0] for row in rows[1:]] == [
        "mx",
        "auto",
        "per_phase",
        "stacked",
        "taps",
        "packed",
        *["packed," for _ in CACHED],
    ]
    assert main([*command, "--rounds", "0"]) == 2
    assert main([*command[:-1], "3"]) == 2


def test_bench_of_cases_as_data(tmp_path, capsys):
    pytest.importorskip("tomllib", reason="needs Python 3.11")
    file, out = tmp_path / "cases.toml", tmp_path / "rows.json"
    file.write_text(
        '[[case]]\nname = "a layer"\nop = "conv_transpose2d"\ninput = [1, 3, 4, 2]\n'
        "weight = [3, 3, 2, 2]\nstride = [2, 1]\noutput_padding = [1, 0]\n"
    )
    command = ["bench", "--cases", str(file), "--rounds", "2", "--out", str(out)]
    assert main([*command, "--rivals", "torch,onnxruntime,jax"]) == 0
    assert capsys.readouterr().out.startswith("a layer: mx ")
    (row,) = json.loads(out.read_text())["rows"]
    assert {"mx", "auto", "packed", "matmul"} <= set(row["timings"])
    errors = {name: each["error"] for name, each in row["timings"].items()}
    assert {errors.pop(name) for name in ("matmul", *CACHED)} == {None}
    assert max(errors.values()) < 1e-5, errors
    assert main([*command, "--rivals", "abacus"]) == 2


def test_bench_of_cases_of_a_table_and_of_new_lengths(tmp_path, capsys):
    table, out = tmp_path / "layers.csv", tmp_path / "rows.json"
    head, *rows = (ROOT / "tests" / "data" / "real_layers.csv").read_text().splitlines()
    small = rows[0].replace(",1,1,750,512,256,", ",1,1,5,4,2,")
    table.write_text("\n".join([head, small, small]))
    command = ["bench", "--rounds", "2", "--out", str(out)]
    assert main([*command, "--cases", str(table), "--methods", "", "--no-native"]) == 0
    (row,) = json.loads(out.read_text())["rows"]
    assert sorted(row["timings"]) == ["matmul", "packed", *CACHED]
    assert (row["input"], row["weight"]) == ([1, 5, 4], [2, 16, 4])
    assert main([*command, "--cases", str(table), "--case", "no such"]) == 2
    call = ["conv_transpose1d", "--input", "1,3,2", "--weight", "2,4,2", "--stride", "2"]
    capsys.readouterr()
    assert main([*command, *call, "--new-lengths"]) == 0
    assert capsys.readouterr().out.startswith("packed: ")
    assert list(json.loads(out.read_text())["new_lengths"]) == ["packed"]


@pytest.mark.parametrize(
    ("text", "got"),
    [
        (b"model,dims\nm,1\n", "in row 1"),
        (b"model\n" + b"x" * 200_000, "field larger than field limit"),
        (b"\x91", "must be a text file; got"),
    ],
)
def test_a_table_that_is_none_is_refused_by_its_row(text, got, tmp_path, capsys):
    table = tmp_path / "layers.csv"
    table.write_bytes(text)
    assert main(["bench", "--cases", str(table)]) == 2
    told = capsys.readouterr().err
    assert got in told
    assert "layers.csv must" in told
    assert len(told.splitlines()) == 1


def test_bench_of_a_train_step(capsys):
    command = ["bench", "conv_transpose1d", "--input", "1,9,4", "--weight", "3,4,4", "--train"]
    assert main([*command, "--stride", "2", "--rounds", "2", "--rivals", "torch,jax"]) == 0
    names = [row.split()[0] for row in capsys.readouterr().out.splitlines()[1:]]
    assert names[:4] == ["auto", "forward", "mx", "matmul"]


@pytest.mark.parametrize(
    "command",
    [
        ["--calibrate", "no/such/folder/rates.json"],
        ["--calibrate", "rates.json", "--layers", "0"],
        ["--cases", "README.md"],
        ["--cases", "no_such.csv"],
    ],
)
def test_bench_refuses_in_one_line_and_at_once(command, capsys):
    assert main(["bench", *command]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
