"""Scores of what was timed, by hand."""

import pytest

from polyconv.bench import scores


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


def test_a_call_that_adds_nothing_to_the_peak_is_in_no_mean_of_memory():
    """More may have been freed meanwhile. An older file may even hold less than nothing."""
    rows = [row_of("a", packed=[1], mx=[2]), row_of("cached", packed=[1], mx=[2])]
    for peak in (0, -8):
        rows[1]["timings"]["packed"]["peak_bytes"] = peak
        assert scores.scores(rows)["memory"] == pytest.approx((3.0, 3.0, "a", 1))
        assert "memory" not in scores.scores(rows[1:])
