"""`polyconv bench --models`: one description, the same model in each framework."""

import json
from math import prod

import mlx.core as mx
import numpy as np
import pytest

import polyconv
from polyconv.__main__ import main
from polyconv.bench import model_cases, model_frameworks, model_timing
from polyconv.bench.model_cases import Activation, Conv, Mean, Model, Residual, Skip

NAMES = [each.name for each in model_cases.SMALL]


def whole_numbers(model, most=1):
    """Inputs and weights of small integers, which every framework sums exactly."""
    rng = np.random.default_rng(3)
    inputs, weights = model_frameworks.drawn(model)
    small = [rng.integers(-most, most + 1, x.shape).astype(np.float32) for x in inputs]
    return small, [tuple(np.sign(a).astype(np.float32) for a in each) for each in weights]


# All that is exact on integers: both kinds of convolution, a branch, a mean of two, a skip.
EXACT = [
    Model(
        f"{ndim}D",
        (2, *(5, 4, 3)[:ndim], 3),
        (
            Conv(3, 4, 3, padding=2, dilation=2),
            Activation("relu"),
            Conv(4, 2, 4, 2, 1, transposed=True),
            Residual((Activation("leaky_relu", 0.5), Conv(2, 2, 3, padding=1))),
            Mean(((Conv(2, 2, 1),), (Conv(2, 2, 3, padding=1),))),
            Skip(3, 2),
            Conv(5, 2, 3, 2, 1, transposed=True),
        ),
    )
    for ndim in (1, 2, 3)
]


def by_mlx(model, inputs, weights):
    made = model_frameworks.mlx_model(model, weights)
    return made, np.asarray(made(*map(mx.array, inputs)))


@pytest.mark.parametrize("model", EXACT, ids=lambda model: model.name)
def test_converted_is_what_mlx_computes(model):
    inputs, weights = whole_numbers(model)
    made, truth = by_mlx(model, inputs, weights)
    assert np.abs(truth).max() > 20
    converted = polyconv.convert(made, cpu_convs=True, packed=True)
    assert len(converted.converted) == 6
    assert np.array_equal(np.asarray(made(*map(mx.array, inputs))), truth)


@pytest.mark.parametrize("name", model_frameworks.PEERS)
@pytest.mark.parametrize("model", EXACT, ids=lambda model: model.name)
def test_other_frameworks_compute_the_same(name, model):
    pytest.importorskip("onnx" if name == "onnxruntime" else name)
    pytest.importorskip(name)
    inputs, weights = whole_numbers(model)
    _, truth = by_mlx(model, inputs, weights)
    runs = model_frameworks.PEERS[name](model, inputs, weights)
    assert len(runs) == 1 + (name == "torch" and model.ndim > 1)
    for run in runs.values():
        assert np.array_equal(np.asarray(run()), truth)


@pytest.mark.parametrize("model", model_cases.SMALL, ids=NAMES)
def test_small_models_agree_with_float64(model):
    pytest.importorskip("torch")
    rivals = tuple(model_frameworks.PEERS)
    (row,) = model_timing.bench_models([model], polyconv.convert, rounds=1, rivals=rivals)
    assert {"mx", "converted", "packed", "torch"} <= set(row["timings"])
    assert max(each["error"] for each in row["timings"].values()) < 1e-5


@pytest.mark.parametrize("model", [*EXACT, *model_cases.SMALL], ids=lambda model: model.name)
def test_sizes_of_a_model_are_those_of_its_run(model):
    inputs, weights = model_frameworks.drawn(model)
    _, y = by_mlx(model, inputs, weights)
    op, x, w, options = model.calls[-1]
    assert getattr(mx, op)(mx.zeros(x), mx.zeros(w), **options).shape == y.shape
    assert [each.shape for each in inputs] == [tuple(shape) for shape in model.inputs]


def test_work_is_counted_as_by_hand():
    model = Model(
        "two", (2, 5, 3), (Conv(3, 4, 3, padding=1), Conv(4, 6, 8, 4, 2, transposed=True))
    )
    assert model.macs == 2 * 5 * 3 * 3 * 4 + 2 * 5 * 8 * 4 * 6
    strided = Model("one", (1, 8, 8, 2), (Conv(2, 3, 2, stride=2),))
    assert strided.macs == 4 * 4 * prod((2, 2, 2, 3))


def test_the_command(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(model_cases, "MODELS", model_cases.SMALL)
    out = tmp_path / "rows.json"
    command = ["bench", "--models", "--case", "DCGAN", "--rounds", "1", "--out", str(out)]
    assert main(command) == 0
    assert capsys.readouterr().out.startswith("DCGAN, batch 2: mx ")
    (row,) = json.loads(out.read_text())["rows"]
    assert sorted(row["timings"]) == ["converted", "mx", "packed"]
    small = ["bench", "--models", "--no-native", "--rounds", "1", "--out", str(out)]
    assert main([*small, "--most-gmac", "0.001"]) == 0
    assert [row["name"] for row in json.loads(out.read_text())["rows"]] == [
        each.name for each in model_cases.SMALL if each.macs <= 1e6
    ]
    assert main([*command, "--no-native"]) == 0
    assert sorted(json.loads(out.read_text())["rows"][0]["timings"]) == ["converted", "packed"]


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (["--case", "no such"], "--case must be like the name of a model; got 'no such'"),
        (["--rivals", "jax"], "--rivals of --models must be one of torch, onnxruntime; got 'jax'"),
        (
            ["--train"],
            "--models must stand without a call, --cases, --train and --methods; got train",
        ),
        (
            ["--cases", "x.toml"],
            "--models must stand without a call, --cases, --train and --methods; got cases",
        ),
        (
            ["conv_transpose1d"],
            "--models must stand without a call, --cases, --train and --methods; got op",
        ),
        (["--most-gmac", "nan"], "--most-gmac must be at least 1.67; got nan"),
        (["--case", "DAC", "--most-gmac", "3"], "--most-gmac must be at least 35.4; got 3.0"),
        (["--rounds", "0"], "rounds must be at least 1; got 0"),
    ],
)
def test_what_the_command_refuses(more, told, capsys):
    assert main(["bench", "--models", *more]) == 2
    assert capsys.readouterr().err == f"polyconv bench: [bench] {told}\n"
