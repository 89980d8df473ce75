"""Which method is chosen, why the others are not, and that of nothing no phase is looked for."""

from dataclasses import replace

import mlx.core as mx
import pytest

import polyconv
from polyconv.planning import axis_methods, choose, request, shared_filter
from polyconv.planning.choose import plan
from polyconv.planning.devices import CPU, CUDA, DEVICES, Metal
from polyconv.planning.methods import METHODS
from polyconv.planning.rates import CPU_RATES
from polyconv.problem import spec
from polyconv.problem.signatures import problem_of
from tests.support.cases import NAMED
from tests.support.choices import PROBLEMS
from tests.support.problems import general_spec, transposed

HIFIGAN = transposed((1, 128, 512), (256, 16, 512), stride=8, padding=4)


@pytest.mark.parametrize("name", NAMED)
def test_auto_issues_undilated_inputs_only(name):
    problem = general_spec(NAMED[name])
    chosen = plan(problem)
    for sub in chosen.subconvs:
        assert not sub.spec.is_input_dilated
    assert chosen.method == ("native" if name == "stride 1" else chosen.method)
    assert (chosen.method == "native") == (not problem.is_input_dilated)


@pytest.mark.parametrize("name", NAMED)
def test_auto_is_the_cheapest_and_says_why_the_others_are_not_taken(name):
    problem = general_spec(NAMED[name])
    chosen = plan(problem)
    if not problem.is_input_dilated:
        return
    others = {rejection.method: rejection.reason for rejection in chosen.rejected}
    assert {chosen.method, *others} == set(METHODS)
    for method, reason in others.items():
        try:
            other = plan(problem, method)
        except ValueError as error:
            assert reason in str(error)
            continue
        if method == "native":
            assert reason == "MLX computes it on the CPU by loops over single samples"
        else:
            assert other.cost.seconds(CPU_RATES) >= chosen.cost.seconds(CPU_RATES)
            assert "times the cost" in reason or reason.startswith("does the same")


def test_on_a_cpu_what_mlx_would_loop_over_goes_by_products():
    """A dilated kernel, groups in 2D: MLX's CPU convolutions take some hundred times as long."""

    def general(x, w, kernel_dilation=1, groups=1):
        ndim = len(x) - 2
        ones, zeros = (1,) * ndim, ((0,) * ndim,) * 2
        dtypes, dilation = ("float32", "float32"), (kernel_dilation,) * ndim
        return spec.general("test", x, w, dtypes, ones, zeros, dilation, ones, groups, False)

    assert plan(general((1, 256, 256), (256, 3, 256), kernel_dilation=3)).method == "taps"
    assert plan(general((1, 32, 32, 16), (16, 3, 3, 1), groups=16)).method == "taps"
    depthwise = transposed((1, 1000, 512), (512, 12, 1), stride=2, padding=5, groups=512)
    assert plan(depthwise).method == "taps"


def test_products_are_not_taken_on_cuda():
    chosen = plan(HIFIGAN, device=CUDA)
    reasons = {rejection.method: rejection.reason for rejection in chosen.rejected}
    assert reasons["taps"].endswith("which no kernel makes on a GPU")


EMPTY = {
    "no items": ("conv_transpose1d", (0, 9, 2), (3, 4, 2), {"stride": 64}),
    "no samples": ("conv_transpose1d", (1, 0, 2), (3, 70, 2), {"stride": 64}),
    "no input channels": ("conv_transpose1d", (1, 9, 0), (3, 4, 0), {"stride": 64}),
    "no output channels": ("conv_transpose1d", (1, 9, 2), (0, 4, 2), {"stride": 64}),
    "one of two axes": ("conv_transpose2d", (1, 9, 0, 2), (3, 64, 70, 2), {"stride": 64}),
    "a plain one": ("conv_general", (0, 90, 2), (3, 64, 2), {"stride": 64}),
    "dilated": ("conv_general", (0, 9, 2), (3, 5, 2), {"input_dilation": 64, "stride": 9}),
}


@pytest.fixture
def enumerated(monkeypatch):
    """The axes of which all phases are looked for, and the blocks that are listed tap by tap."""
    seen = []
    for module, name in ((axis_methods, "split"), (shared_filter, "blocks")):
        real = getattr(module, name)
        look = lambda axis, *more, real=real: (seen.append(axis), real(axis, *more))[1]  # noqa: E731
        monkeypatch.setattr(module, name, look)
    caches = (axis_methods.per_phase_axis, axis_methods.grouped_axis, axis_methods.stacked_axis)
    for cache in (*caches, choose.plan_for_gradients, request._planned):
        cache.cache_clear()
    return seen


@pytest.mark.parametrize(
    "device", [CPU, CUDA, Metal("m4-max", DEVICES["m4-max"])], ids=lambda d: d.name
)
@pytest.mark.parametrize("name", EMPTY)
def test_of_an_empty_problem_no_phase_is_looked_for(name, device, enumerated):
    op, x, w, options = EMPTY[name]
    problem = problem_of(op, x, w, "float32", options)
    for each in (problem, spec.adjoint(problem)):
        for method in ("auto", "per_phase", "stacked", "taps"):
            chosen = plan(each, method, device=device)
            assert chosen.is_zero
            assert method in ("auto", chosen.method)
        with pytest.raises(ValueError, match="MLX fails on arrays without elements"):
            plan(each, "native", device=device)
        choose.alternatives(each, device)
        if not isinstance(device, Metal):
            assert choose.plan_for_gradients(each, device).is_zero
    if not isinstance(device, Metal):
        polyconv.explain(op, x, w, **options)
    assert not enumerated
    plan(problem_of("conv_transpose1d", (1, 9, 2), (3, 4, 2), "float32", {"stride": 64}))
    assert enumerated  # as of any other


@pytest.mark.parametrize("name", EMPTY)
def test_calls_and_gradients_of_nothing_look_for_no_phase(name, enumerated):
    op, x_shape, w_shape, options = EMPTY[name]
    x, w = mx.zeros(x_shape), mx.ones(w_shape)
    call = lambda x, w: getattr(polyconv, op)(x, w, **options)  # noqa: E731
    y, grads = mx.vjp(call, [x, w], [mx.ones(call(x, w).shape)])
    assert not mx.any(y[0]).item()
    assert [grad.shape for grad in grads] == [x_shape, w_shape]
    assert not enumerated


def test_a_filter_of_all_channels_of_nothing_lists_no_block(enumerated):
    y = polyconv.conv_transpose1d(mx.zeros((0, 9, 4)), mx.ones((1, 5, 1)), 64, groups=4)
    assert y.shape == (0, 8 * 64 + 5, 4)
    assert not enumerated


@pytest.mark.parametrize(
    "device",
    [CPU, CUDA, Metal("m4-max", DEVICES["m4-max"]), Metal("a18", DEVICES["a18-pro-8gb"])],
    ids=lambda device: device.name,
)
def test_the_same_is_taken_whether_reasons_are_asked_for_or_not(device):
    """Without reasons what cannot be taken is left out before it is planned."""
    for problem in PROBLEMS:
        for each in (problem, spec.adjoint(problem)):
            try:
                told = plan(each, device=device)
            except ValueError as error:
                with pytest.raises(ValueError) as again:
                    plan(each, device=device, reasons=False)
                assert str(again.value) == str(error)
            else:
                assert plan(each, device=device, reasons=False) == replace(told, rejected=())
