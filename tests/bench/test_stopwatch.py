"""The stopwatch: the memory that a call needs, whatever is freed beside it."""

import gc

import mlx.core as mx

from polyconv.bench.stopwatch import timed
from polyconv.bench.timing import measured
from tests.support.garbage import collect


def held() -> list[mx.array]:
    arrays = [mx.zeros(10_000)]
    mx.eval(arrays)
    return arrays


def test_a_call_that_frees_more_than_it_takes_needs_no_memory():
    arrays = held()

    def run() -> mx.array:
        arrays.clear()
        return mx.ones(2) + 1

    assert timed(run)[2] == 0


def test_garbage_of_others_is_not_taken_off_a_calls_memory():
    """Garbage in a cycle is freed when Python looks for it, which may be during a call."""
    collect()  # or what others left is freed in the call below
    gc.disable()
    try:
        arrays = held()
        arrays.append(arrays)
        del arrays
        found = measured({"a run": lambda: (gc.collect(), mx.ones(1_000) + 1)[1]})
    finally:
        gc.enable()
    assert found["a run"].peak_bytes >= 4_000
