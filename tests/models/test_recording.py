"""The transposed convolutions of a model, found where they are: `explain_model`."""

import json
import re

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

import polyconv
from polyconv.__main__ import main
from polyconv.models.recording import example, recorded
from polyconv.planning.methods import METHODS


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
    assert found.where.startswith("test_recording.py:")


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
    assert told == (
        "polyconv explain: [explain] c_model:make must run with what is given; "
        "got ZeroDivisionError: division by zero\n"
    )


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
        "from tests.models.test_recording import Speaking\n"
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
    assert (
        "--input of an op must be a shape alone, as its dtype is that of --dtype; got"
        in capsys.readouterr().err
    )
