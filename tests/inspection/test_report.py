"""What polyconv says of a model, of this machine, and of times."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

import polyconv
from polyconv.__main__ import main
from polyconv.bench import scores, timing
from polyconv.inspection import explain
from polyconv.metal.kernels import NEWEST
from polyconv.models.recording import example, recorded
from polyconv.planning.plan import METHODS
from tests.support.cases import NAMED

ROOT = Path(__file__).parents[2]


class Vocoder(nn.Module):
    """Three transposed convolutions, each called in another way, and one that is called twice."""

    def __init__(self):
        super().__init__()
        self.ups = [nn.ConvTranspose1d(8, 8, 16, 8, 4), polyconv.PolyConvTranspose1d(8, 4, 4, 2)]
        self.weight = mx.zeros((4, 4, 4))
        self.plain = nn.Conv1d(4, 4, 3)

    def __call__(self, x):
        for up in self.ups:
            x = up(x)
        for _ in range(2):
            x = mx.conv_transpose1d(x, self.weight, 2, padding=1)
        return self.plain(x)


def test_the_transposed_convolutions_of_a_model_are_found_where_they_are():
    told = polyconv.explain_model(Vocoder(), (1, 50, 8))
    found = {(each.where, each.lib): n for each, n, _ in told}
    assert found == {("ups.0", "mx"): 1, ("ups.1", "polyconv"): 1, ("model", "mx"): 1}
    assert len(told) == 4  # the two calls of the model itself differ in length
    peaks = [n * explanation.lines[0].peak_bytes for _, n, explanation in told]
    assert peaks == sorted(peaks, reverse=True)
    assert told[0][2].output_shape[0] == 1


def test_equal_calls_are_counted_and_conv_general_is_seen():
    def model(x):
        for _ in range(3):
            mx.conv_general(x, mx.zeros((2, 3, 4)), input_dilation=2, padding=1)
        mx.conv_general(x, mx.zeros((2, 3, 4)), padding=1)
        return polyconv.conv_general(x, mx.zeros((2, 3, 4)))

    ((found, n_calls, _),) = polyconv.explain_model(model, (1, 9, 4))
    assert (found.op, found.lib, n_calls) == ("conv_general", "mx", 3)
    assert found.where.startswith("test_report.py:")


def test_tracing_leaves_mx_as_it_was_even_after_an_error():
    before = {name: getattr(mx, name) for name in ("conv_transpose1d", "conv_general")}
    with recorded(None):
        assert mx.conv_general is not before["conv_general"]
    with pytest.raises(ZeroDivisionError), recorded(None):
        raise ZeroDivisionError
    assert {name: getattr(mx, name) for name in before} == before


def test_explain_model_on_the_command_line(capsys, monkeypatch, tmp_path):
    (tmp_path / "a_model.py").write_text(
        "from mlx.nn import ConvTranspose1d, Sequential\n"
        "def make():\n    return Sequential(ConvTranspose1d(4, 4, 4, 2))\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    arguments = ["explain", "--model", "a_model:make", "--input", "1,10,4", "--device", "m1-16gb"]
    assert main(arguments) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[:3] == ["where", "op", "of"]
    assert lines[1].split()[0] == "layers.0"
    assert lines[2].split()[:2] == ["all", "1"]
    only = [cell for cell in lines[1].split()[3:] if cell not in METHODS]
    assert lines[2].split()[2:] == only
    assert "layers.0: mx.conv_transpose1d x (1, 10, 4) float32 -> (1, 22, 4)" in lines
    assert main([*arguments, "--json"]) == 0
    (call,) = json.loads(capsys.readouterr().out)
    assert (call["where"], call["calls"], call["device"]) == ("layers.0", 1, "m1-16gb")


def test_a_model_without_any_says_so(capsys, monkeypatch, tmp_path):
    (tmp_path / "b_model.py").write_text("import mlx.nn as nn\ndef make():\n    return nn.ReLU()\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert main(["explain", "--model", "b_model:make", "--input", "1,10,4"]) == 0
    assert (
        capsys.readouterr().out == "No transposed convolution was called through mx or polyconv.\n"
    )


def test_a_native_layer_counts_once_and_a_failing_model_fails_in_a_line(
    capsys, monkeypatch, tmp_path
):
    x, w = mx.zeros((1, 9, 4)), mx.zeros((2, 3, 4))
    native = lambda x: polyconv.conv_transpose1d(x, w, 2, method="native")  # noqa: E731
    ((found, n_calls, _),) = polyconv.explain_model(native, x.shape)
    assert (found.lib, n_calls) == ("polyconv", 1)
    (tmp_path / "c_model.py").write_text("def make():\n    return lambda x: 1 / 0\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert main(["explain", "--model", "c_model:make", "--input", "1,10,4"]) == 2
    told = capsys.readouterr().err
    assert told == "polyconv explain: the model raised ZeroDivisionError: division by zero\n"


def test_the_mac_that_runs_is_asked_about_its_gpu(monkeypatch):
    """Whatever the default device is; without Metal nobody is asked."""
    asked = []
    info = {
        "max_buffer_length": 1000,
        "max_recommended_working_set_size": 2000,
        "architecture": "applegpu_g16s",
        "device_name": "Apple M9",
    }
    monkeypatch.setattr(mx.metal, "is_available", lambda: True)
    monkeypatch.setattr(mx, "device_info", lambda where: asked.append(where) or info)
    explain.device.present.cache_clear()
    try:
        metal = explain.device.present()
    finally:
        explain.device.present.cache_clear()
    assert asked == [mx.gpu]
    assert (metal.name, metal.limits.max_buffer_bytes, metal.limits.architecture) == (
        "Apple M9",
        1000,
        "s",
    )
    explain.device.present.cache_clear()


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
    assert f"rows.jsonl, line 2: {reason}" in capsys.readouterr().err


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


@pytest.mark.parametrize("rational", [False, True])
def test_upfirdn_computes_the_same(rational):
    pytest.importorskip("scipy")
    if rational:
        options = {"stride": 3, "input_dilation": 2, "padding": ((4,), (5,)), "flip": True}
        op = "conv_general"
    else:
        op, options = "conv_transpose1d", {"stride": 3, "padding": 2, "output_padding": 4}
    timings = timing.bench(op, (2, 9, 1), (1, 7, 1), rounds=1, rivals=["upfirdn"], **options)
    (error,) = [each.error for each in timings if each.name == "upfirdn"]
    assert error < 1e-6
    none = timing.bench("conv_transpose1d", (2, 9, 2), (1, 7, 2), rounds=1, rivals=["upfirdn"])
    assert "upfirdn" not in [each.name for each in none]


def row_of(name, macs=1e9, **times):
    """As `bench_cases` writes it: times of rounds by competitor, `_` for a space."""
    errors = {"packed": 2e-7, "torch": 1e-7}
    timings = {
        who.replace("_", " "): {
            "ms": sorted(rounds)[len(rounds) // 2],
            "rounds": rounds,
            "peak_bytes": 300,
            "error": errors.get(who),
        }
        for who, rounds in times.items()
    }
    return {"name": name, "macs": macs, "output_bytes": 100, "timings": timings}


def test_scores_are_geometric_means_and_worst_rows():
    rows = [
        row_of("a", packed=[1, 2, 4], torch=[8, 4, 8], jax=[9, 9, 9], matmul=[1, 1, 2], mx=[90]),
        row_of("b", packed=[2, 2, 2], torch_channels_last=[1, 1, 1], matmul=[1, 1, 1]),
        row_of("small", macs=1e6, packed=[1], matmul=[0.1]),
    ]
    found = scores.scores(rows)
    assert found["rivals"] == pytest.approx((1.0, 0.5, "b", 2))  # 2 in the rounds of a: 8, 2, 2
    assert found["matmul"] == pytest.approx((2.0, 2.0, "a", 2))
    assert found["native"][1:] == (45.0, "a", 1)
    assert found["memory"][:2] == pytest.approx((3.0, 3.0))
    assert found["errors"][:2] == pytest.approx((2.0, 2.0))
    assert scores.summary(rows)[0].endswith("geometric mean 1 over 2 rows, worst 0.5 (b)")


@pytest.mark.parametrize("name", ["hifigan", "depthwise", "2d mixed strides", "3d 4x4x4 s2 p1"])
def test_rivals_compute_the_same(name):
    """As far as they are installed."""
    case = NAMED[name]
    rivals = ("torch", "onnxruntime", "jax")
    timings = timing.bench(
        case.op, case.x_shape, case.w_shape, rounds=1, rivals=rivals, **case.kwargs
    )
    assert all(each.error is None or each.error < 1e-5 for each in timings), timings


def test_the_tests_for_a_mac_run_through():
    """On the CPU, which says nothing about Metal but that they can be run."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/on_metal"]
    environment = {**os.environ, "POLYCONV_DRY_RUN": "1", "PYTHONPATH": str(ROOT)}
    ran = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout
    assert "paste from here" in ran.stdout
    assert "DRY RUN ON THE CPU" in ran.stdout


class Speaking(nn.Module):
    """Begins with an embedding, as what speaks from tokens does."""

    def __init__(self):
        super().__init__()
        self.embedding, self.up = nn.Embedding(1000, 4), nn.ConvTranspose1d(4, 2, 4, 2)

    def __call__(self, tokens):
        return self.up(self.embedding(tokens))


def test_a_model_that_begins_with_an_embedding_is_given_ints():
    tokens = mx.arange(9).reshape(1, 9)
    for given in (tokens, np.array(tokens)):
        ((found, n_calls, _),) = polyconv.explain_model(Speaking(), given)
        assert (found.where, n_calls, found.problem.axes[0].size) == ("up", 1, 9)
    two = lambda x, tokens: Speaking()(tokens) + x.sum()  # noqa: E731
    assert len(polyconv.explain_model(two, (2, 3), tokens)) == 1
    with pytest.raises(ValueError, match="an input must be an array that MLX takes"):
        polyconv.explain_model(Speaking(), np.array(["a"]))


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (((2, 3), "int32", (5, 9)), [[5, 6, 7], [8, 5, 6]]),
        (((4,), "int8", (-128, 128)), [-128, -127, -126, -125]),
        (((3,), "uint32", (2**32 - 2, 2**32)), [2**32 - 2, 2**32 - 1, 2**32 - 2]),
        (((3,), "int64", (-(2**63), 2**63)), [-(2**63), 1 - 2**63, 2 - 2**63]),
        (((2,), "int32", None), [0, 0]),
        (((2,), "float16", None), [0, 0]),
    ],
)
def test_ints_of_a_range(given, expected):
    made = example(*given)
    assert made.dtype == getattr(mx, given[1])
    assert made.tolist() == expected


@pytest.mark.parametrize(
    ("dtype", "bounds", "told"),
    [
        ("int8", (0, 129), "a range of int8 must be within -128..128 and not empty; got 0..129"),
        ("int32", (4, 4), "not empty; got 4..4"),
        ("float32", (0, 4), "the dtype of a range must be one of int8, "),
        ("complex64", None, "the dtype of an input must be one of float16, "),
    ],
)
def test_ranges_that_a_dtype_does_not_hold_are_refused(dtype, bounds, told):
    with pytest.raises(ValueError, match=re.escape(told)):
        example((2, 2), dtype, bounds)


def test_ints_on_the_command_line(capsys, monkeypatch, tmp_path):
    (tmp_path / "speaking.py").write_text(
        "import mlx.core as mx\n"
        "from tests.inspection.test_report import Speaking\n"
        "def make():\n"
        "    model = Speaking()\n"
        "    def call(tokens, x):\n"
        "        assert (tokens.max().item(), tokens.dtype) == (8, mx.int32)\n"
        "        assert x.dtype == mx.float16\n"
        "        return model(tokens)\n"
        "    return call\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    command = ["explain", "--model", "speaking:make", "--json"]
    inputs = ["--input", "1,128:int32:0..9", "--input", "3", "--dtype", "float16"]
    assert main([*command, *inputs]) == 0
    (call,) = json.loads(capsys.readouterr().out)
    assert "x (1, 128, 4)" in call["call"]
    assert main([*command, *inputs[:-2]]) == 2  # whose second argument is float32
    assert "AssertionError" in capsys.readouterr().err
    assert main([*command, *inputs[:2], "--input", "3:float16"]) == 0


@pytest.mark.parametrize(
    "text", ["1,2:", "1,2:int32:", "1,2:int32:4", "1,2:int32:1..2:3", "a:int8"]
)
def test_an_input_that_cannot_be_read_is_one_line(text, capsys):
    try:
        code = main(["explain", "--model", "json:loads", "--input", text])
    except SystemExit as stop:
        code = stop.code
    told = capsys.readouterr().err
    assert code == 2
    assert len(told.strip().splitlines()) == 1


def test_the_dtype_of_an_input_is_for_models(capsys):
    call = ["conv_transpose1d", "--input", "1,3,2:float16", "--weight", "2,4,2"]
    assert main(["explain", *call]) == 2
    assert "an op takes one --dtype" in capsys.readouterr().err
