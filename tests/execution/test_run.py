"""Every method on every case against the reference, by `==` on integers."""

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import polyconv
from polyconv.planning.methods import METHODS
from tests.campaigns.sweep import sweep
from tests.support.cases import NAMED, draw_case

REFUSED = {
    ("dilated, coprime", "stacked"),
    ("dilated, common divisor", "stacked"),
    ("padding crops whole phases", "native"),
    ("3d groups", "native"),
    ("3d depthwise", "native"),
}


@pytest.mark.parametrize("method", ["auto", *METHODS])
@pytest.mark.parametrize("name", NAMED)
def test_named_cases(name, method):
    case = NAMED[name]
    if (name, method) in REFUSED:
        with pytest.raises(ValueError, match="method must suit the arguments"):
            case.run(method)
        return
    expected = case.reference()
    assert np.count_nonzero(expected)
    assert np.array_equal(case.run(method), expected)


@pytest.mark.parametrize("method", ["auto", *METHODS])
@pytest.mark.parametrize("name", NAMED)
def test_named_cases_by_the_plan_for_a_mac(name, method):
    if (name, method) not in REFUSED:
        with polyconv.planning_for("m4-max"):
            assert np.array_equal(NAMED[name].run(method), NAMED[name].reference())


@pytest.mark.parametrize("cases", [60, pytest.param(1500, marks=pytest.mark.slow)])
@pytest.mark.parametrize("device", [None, "m4-max"])
def test_a_share_of_the_sweep(device, cases):
    agreed, refused = sweep(cases, seed=0, device=device)
    assert min(agreed.values()) >= cases
    assert refused["auto"] == refused["per_phase"] == 0


@settings(max_examples=60)
@given(st.data())
def test_hypothesis_finds_no_case_that_differs(data):
    case = draw_case(lambda items: data.draw(st.sampled_from(list(items))))
    assume(case.has_output)
    expected = case.reference()
    for method in ("auto", *METHODS):
        try:
            got = case.run(method)
        except ValueError as error:
            assert method in ("stacked", "native"), error
        else:
            assert np.array_equal(got, expected), method
