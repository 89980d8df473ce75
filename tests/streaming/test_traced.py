"""A trace tells each operation, and evaluates nothing."""

from __future__ import annotations

import mlx.core as mx
import pytest

from polyconv.streaming.state import _set_key
from polyconv.streaming.traced import Trace, trace
from tests.support.cases import integers

X = mx.zeros((1, 8, 4))


def test_a_trace_numbers_inputs_and_constants_and_then_what_is_made():
    w = integers(4)
    found = trace(lambda a, b: (mx.exp(a) + b) * w, X, X + 1)
    assert found.n_inputs == 2
    assert [each.tolist() for each in found.constants] == [w.tolist()]
    assert found.names == ("Exp", "Add", "Broadcast", "Multiply")
    exp, add, spread, product = found.operations
    assert exp.inputs == (0,)
    assert add.inputs == (exp.outputs[0], 1)
    assert spread.inputs == (2,)
    assert product.inputs == (add.outputs[0], spread.outputs[0])
    assert found.outputs == product.outputs
    assert len(found.shapes) == len(found.dtypes) == 3 + 4
    assert found.shapes[2] == (4,)
    assert found.shapes[product.outputs[0]] == (1, 8, 4)
    assert set(found.dtypes) == {mx.float32}


def test_arguments_are_values_that_can_be_compared_and_kept():
    w = integers(4, 3, 4)
    x = integers(1, 9, 4)
    first, again = [trace(lambda a: mx.conv1d(a, w, 2, 1), x) for _ in range(2)]
    (told,) = first.operations
    assert told == again.operations[0]
    assert told.arguments == ((2,), (1,), (1,), (1,), (1,), 1, False)
    assert hash(told.arguments) == hash(again.operations[0].arguments)


def test_several_outputs_of_an_operation_have_numbers_each():
    found = trace(lambda a: list(mx.split(a, 2, -1)), X)
    (split,) = found.operations
    assert len(split.outputs) == 2
    assert found.outputs == split.outputs
    assert [found.shapes[i] for i in split.outputs] == [(1, 8, 2)] * 2


def test_each_use_of_a_constant_has_a_number_of_its_own():
    """MLX merges numbers that happen to be alike, which they need not be at another length."""
    first, second = [trace(lambda a, n=n: a * 4 + n, mx.array(1.0)) for n in (4, 5)]
    assert [each.tolist() for each in first.constants] == [4, 4]
    assert [each.tolist() for each in second.constants] == [4, 5]
    assert first.wires == second.wires
    assert first.shapes == second.shapes


def test_wires_tell_ways_of_the_same_operations_apart():
    ways = [lambda a: mx.exp(a) - mx.sin(a), lambda a: mx.exp(a) - mx.sin(mx.exp(a))]
    first, second = [trace(way, X) for way in ways]
    assert first.names == second.names
    assert first.wires != second.wires


def test_the_input_may_be_the_output():
    found = trace(lambda a: a, X)
    assert found == Trace(1, (), (), (0,), ((1, 8, 4),), (mx.float32,))


def test_what_looks_at_numbers_cannot_be_traced():
    for function in (lambda a: a * a.sum().item(), lambda a: a if a.sum() else -a):
        with pytest.raises(ValueError, match="eval"):
            trace(function, X)


def test_a_trace_tells_whether_it_draws_random_numbers_of_no_key():
    key = mx.random.key(0)
    assert not trace(lambda a: a * 2, X).draws
    assert not trace(lambda a: a + mx.random.normal((4,), key=key), X).draws
    state = mx.array(mx.random.state[0])
    mx.eval(state)
    try:
        assert trace(lambda a: a + mx.random.normal((4,)), X).draws
    finally:
        _set_key(state)
