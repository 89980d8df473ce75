"""Plans for CUDA, run here; docs/benchmarks/cuda.json holds what was run on a GPU."""

from __future__ import annotations

import json
from functools import partial
from itertools import islice
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

import polyconv
from polyconv.bench import scores
from polyconv.planning.choose import plan
from polyconv.planning.cudnn_plans import marked, zeros_in_front
from polyconv.planning.devices import CUDA
from polyconv.planning.request import KINDS, Request, Way
from polyconv.problem.signatures import problem_of
from tests.campaigns import sweep
from tests.support.cases import drawn, integers
from tests.support.problems import general_spec

RECORDED = json.loads((Path(__file__).parents[2] / "docs" / "benchmarks" / "cuda.json").read_text())


def test_plans_for_cuda_agree_with_the_reference():
    agreed, _ = sweep.sweep(150, seed=3, device="cuda")
    assert min(agreed.values()) >= 150
    assert sweep.sweep_gradients(60, seed=4, device="cuda")["agreed"] == 60
    assert sweep.sweep_tiled(15, seed=4, device="cuda")["agreed"] == 15


@pytest.mark.parametrize(
    ("options", "is_misread"),
    [
        ({"input_dilation": 2}, True),
        ({"input_dilation": 2, "flip": True}, False),
        ({"stride": 2, "flip": True}, True),
        ({"stride": 2}, False),
    ],
)
def test_native_is_refused_where_mlx_may_ask_cudnn_for_another_convolution(options, is_misread):
    problem = problem_of("conv_general", (1, 9, 4), (4, 3, 4), "float32", options)
    if is_misread:
        with pytest.raises(ValueError, match="may overlook a stride or dilation"):
            plan(problem, "native", device=CUDA)
        assert plan(problem, device=CUDA).method != "native"
    else:
        assert plan(problem, "native", device=CUDA).is_native


def test_convolutions_on_cuda_are_given_no_negative_padding():
    for crop in (1, 4):
        problem = problem_of("conv_transpose1d", (2, 9, 4), (4, 3, 4), "float32", {"padding": crop})
        for method in ("per_phase", "stacked"):
            chosen = plan(problem, method, device=CUDA)
            for sub in chosen.subconvs:
                assert min(min(a.padding_lo, a.padding_hi) for a in sub.issued.spec.axes) >= 0


@pytest.mark.parametrize(("taps", "lift"), [(2, "points"), (3, "none")])
def test_in_3d_a_single_tap_is_issued_in_1d(taps, lift):
    x, w = integers(2, 3, 4, 5, 6), integers(4, *[taps] * 3, 6, seed=1)
    options = {"stride": 2, "padding": 1}
    problem = problem_of("conv_transpose3d", x.shape, w.shape, "float32", options)
    subconvs = plan(problem, "stacked", device=CUDA).subconvs
    assert {sub.issued.form.lift for sub in subconvs} == {lift}
    expected = mx.conv_transpose3d(x, w, **options)
    for method in ("stacked", "per_phase"):
        call = partial(polyconv.conv_transpose3d, method=method, **options)
        with polyconv.planning_for("cuda"):
            assert mx.array_equal(call(x, w), expected)
            if lift == "points":  # 3D itself cannot be mapped over both
                assert mx.array_equal(mx.vmap(call)(x[None], w[None])[0], expected)


def test_one_filter_for_all_channels_is_cudnn_s_depthwise_convolution():
    x, h = integers(2, 9, 6), integers(1, 5, 1, seed=1)
    expected = np.array(polyconv.conv_transpose1d(x, h, 2, 1, groups=6))
    with polyconv.planning_for("cuda"):
        for weight in (h, polyconv.pack(h)):
            got = polyconv.conv_transpose1d(x, weight, 2, 1, groups=6)
            assert np.array_equal(np.array(got), expected)
            general = polyconv.conv_general(x, weight, groups=6)
            assert np.array_equal(np.array(general), np.array(polyconv.conv1d(x, h, groups=6)))
        with pytest.raises(ValueError, match="method must be 'auto'"):
            polyconv.conv_transpose1d(x, h, groups=6, method="taps")


def test_auto_still_takes_what_was_measured_but_mlx_s_own_op_where_it_can_be_marked(monkeypatch):
    """Every row is a transposed one, or with an input dilation. Unmarked ones may be wrong."""
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "docs" / "benchmarks")
    import cuda

    changed = 0
    for row in RECORDED["rows"]:
        known = {k: v for k, v in row.items() if k not in ("times_batch", "auto_takes")}
        taken = cuda.taken(known)
        changed += taken != row["auto_takes"]
        ndim, groups = len(row["input"]) - 2, row.get("groups", 1)
        ms = {name: row["timings"][name]["ms"] for name in ("per_phase", "stacked")}
        if ndim == 1 and groups in (1, row["input"][-1]) and "mx" in row["timings"]:
            ms["native"] = row["timings"]["mx"]["ms"]
        assert taken != "native" or taken in ms, row["name"]
        assert ndim == 1 or taken == row["auto_takes"] or row["auto_takes"] == "native", row["name"]
        assert taken not in ms or ms[taken] <= 1.2 * min(ms.values()), row["name"]
    assert 0 < changed < len(RECORDED["rows"])


def maps_of(problem):
    """The plans of a call and of its two gradients, by `auto`."""
    asked = Request("test", problem, "auto", CUDA)
    return [Way(kind, asked).plan for kind in KINDS]


def test_auto_and_gradients_give_mlx_nothing_that_runs_another_s_plan_on_cuda():
    """Each call is marked, or an ordinary one that is padded in front no longer than behind."""
    native = marks = 0
    for case in islice(drawn(), 400):
        if not case.has_output:
            continue
        for chosen in maps_of(general_spec(case)):
            native += chosen.is_native
            for sub in chosen.subconvs:
                given = sub.issued.spec
                if sub.issued.form.lift == "marked":
                    assert given.axes[0] == marked(given.axes[1:], sub.issued.form.turned)
                    marks += 1
                    continue
                assert not given.is_input_dilated, case
                assert not given.flip, case
                assert not any(map(zeros_in_front, given.axes)), case
    assert native >= 10
    assert marks >= 10


def test_a_transposed_convolution_of_stride_1_is_flipped_as_those_of_others_are():
    problem = problem_of("conv_transpose3d", (1, 9, 9, 9, 4), (4, 3, 3, 3, 4), "float32", {})
    chosen = plan(problem, device=CUDA)
    assert not chosen.is_native
    (reason,) = [each.reason for each in chosen.rejected if each.method == "native"]
    assert reason == "MLX on CUDA may compute it by cuDNN's plan for another input_dilation"
    assert plan(problem, "native", device=CUDA).is_native  # who asks for it has it


def test_random_calls_with_plans_for_cuda_are_exact(monkeypatch):
    """As docs/benchmarks/cuda_proof.py runs them on a GPU, gradients and second order too."""
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "docs" / "benchmarks")
    import cuda_proof

    with polyconv.planning_for("cuda"):
        found = cuda_proof.mixed(80, seed=1, until=float("inf"))
    assert found["failures"] == []
    assert found["counts"]["calls"] == 80
    assert found["counts"]["MLX's own of other steps"] > 5


def test_what_was_measured_on_a_gpu_says_what_the_pages_say():
    assert RECORDED["parity"]["failures"] == []
    assert min(RECORDED["parity"]["agreed"].values()) >= 2000
    ratios = [scores.ratio(r, "mx", "auto") for r in RECORDED["rows"] if "mx" in r["timings"]]
    assert np.exp(np.mean(np.log(ratios))) > 1.1


@pytest.mark.skipif(
    mx.default_device() == mx.cpu or mx.metal.is_available(), reason="needs MLX's CUDA backend"
)
def test_parity_on_cuda():
    agreed, _ = sweep.sweep(300, seed=5)
    assert min(agreed.values()) >= 300
    assert sweep.sweep_gradients(100, seed=6)["agreed"] == 100
