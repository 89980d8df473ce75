"""A short campaign by the generators of `fuzz.py`, and whether the campaign itself can fail."""

import random

import mlx.core as mx
import pytest

import polyconv
from tests.campaigns import fuzz
from tests.campaigns.fuzz_judge import Expected, Input, judged, small_machine, wrong_convolution


def test_every_public_name_has_a_generator():
    public = {f"distributed.{name}" for name in polyconv.distributed.__all__}
    public |= set(polyconv.__all__) - {"distributed"}
    missing = public - set(fuzz.GENERATORS)
    assert not missing, f"no generator for {missing}: add one in tests/campaigns/fuzz.py"


@pytest.mark.parametrize("name", fuzz.GENERATORS)
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("inputs", [12, pytest.param(100, marks=pytest.mark.slow)])
def test_odd_input_is_answered_or_refused_clearly(name, inputs):
    """Always the same input, the first of `python -m tests.campaigns.fuzz --only NAME --seed 0`."""
    for number in range(inputs):
        with small_machine():
            kind, told = judged(fuzz.drawn(name, 0, number))
        assert kind != "unclear", f"--replay {number}: {told}"


@pytest.mark.parametrize(("kind", "inputs"), [("crash", 2), ("hang", 1), ("unclear", 2)])
def test_a_campaign_tells_what_replays_it(kind, inputs):
    hangs = 1 if kind == "hang" else 60  # seconds, that no other input takes
    found = fuzz.campaign(f"({kind})", seed=3, seconds=600, hangs=hangs, inputs=inputs)
    assert found.counts == {kind: inputs}
    assert found.told[0].startswith(f"({kind}) --seed 3 --replay 0: ")


def test_the_same_seed_draws_the_same_input():
    for name in ("conv2d", "PolyConvTranspose", "resample_poly"):
        told = [[fuzz.drawn(name, 5, i).shown for i in range(20)] for _ in "ab"]
        assert told[0] == told[1]
        assert len(set(told[0])) > 10


def raising(error):
    def call():
        raise error

    return call


UNCLEAR = [
    ValueError("[op] x must be y, got z"),
    ValueError("[op] x must be\ny; got z"),
    ValueError(f"[op] x must be y; got {'z' * 300}"),
    ValueError("[op] x must be y; got std::bad_cast"),
    ValueError("[conv] Invalid input array"),
    TypeError("unsupported operand type(s) for +: 'int' and 'str'"),
    *(
        KeyError("x"),
        IndexError("x"),
        RuntimeError("x"),
        OverflowError("x"),
        ZeroDivisionError("x"),
    ),
    *(RecursionError("x"), MemoryError("x"), AttributeError("x"), AssertionError("x")),
]


@pytest.mark.parametrize("error", UNCLEAR, ids=repr)
def test_unclear_errors_are_told_from_clear_ones(error):
    assert judged(Input("call", raising(error)))[0] == "unclear"


def test_clear_errors_are_not_unclear_unless_the_call_is_legal():
    clear = raising(ValueError("[op] x must be y; got z"))
    assert judged(Input("call", clear))[0] == "error"
    assert judged(Input("call", clear, legal=True))[0] == "unclear"
    assert judged(Input("call", raising(OSError(2, "No such file"))))[0] == "error"
    assert judged(Input("call", lambda: polyconv.pack()))[0] == "error"  # Python's `TypeError`
    assert judged(Input("call", lambda: polyconv.pack(mx.ones((2,)), x=1)))[0] == "error"


def test_a_wrong_result_is_told_from_a_right_one():
    x, w = mx.array([1.0, float("inf"), 3, 0]).reshape(1, 4, 1), mx.ones((1, 2, 1))
    general = {"stride": [1], "lo": [0], "hi": [0], "kernel_dilation": [1], "input_dilation": [1]}
    right = mx.array([float("inf"), float("inf"), 3]).reshape(1, 3, 1)
    expected = Expected(x, w, general, mx.float32, exact_special=True)
    assert wrong_convolution(right, expected) == ""
    for wrong in (
        right[:, :2],
        right.astype(mx.float16),
        mx.where(right == 3, 4, right),
        mx.where(right == 3, float("nan"), right),
        mx.where(right > 3, float("nan"), right),
        mx.where(right > 3, 5, right),
        None,
    ):
        assert wrong_convolution(wrong, expected)


def test_views_of_the_generators_are_of_the_shape_that_was_asked_for():
    from tests.campaigns import fuzz_inputs

    for view in fuzz_inputs.VIEWS:
        for seed in range(20):
            assert view(random.Random(seed), (2, 0, 3), True).shape == (2, 0, 3)
            assert view(random.Random(seed), (2, 5, 3), True).shape == (2, 5, 3)
