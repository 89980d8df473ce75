"""A share of the campaign of random models, and whether the campaign can fail."""

from __future__ import annotations

from collections import Counter

import pytest

from polyconv.execution.device import is_on_cpu
from polyconv.streaming import nodes
from polyconv.streaming.convolution_node import Convolution
from tests.campaigns.stream_models import campaign, reason_of, try_model

# On a GPU each stream has functions compiled for it: as many as 25 take minutes.
SHARE = 100 if is_on_cpu(None) else 5


@pytest.mark.parametrize("n", [SHARE, pytest.param(2_000, marks=pytest.mark.slow)])
def test_random_models_stream_or_are_refused(n):
    counts, differ = campaign(range(n))
    assert not differ
    assert counts["equal"] > 0.8 * n
    assert sum(counts.values()) >= n


@pytest.mark.parametrize("kind", [nodes.Joined, Convolution])
def test_the_campaign_finds_a_node_that_is_wrong(kind, monkeypatch):
    run = kind.run

    def wrongly(self, chunks, ended):
        y = run(self, chunks, ended)
        return None if y is None else y + 1

    monkeypatch.setattr(kind, "run", wrongly)
    _, differ = campaign(range(40))
    assert len(differ) > 3


def test_a_refusal_that_is_none_of_polyconv_is_not_counted(monkeypatch):
    def failing(*args, **kwargs):
        raise ValueError("[reshape] of MLX")

    monkeypatch.setattr("polyconv.stream", failing)
    with pytest.raises(AssertionError):
        try_model(0, Counter())


def test_reasons_are_told_without_places():
    error = ValueError("[stream] the model must be so; got blocks.3 (Block): 12 of -1.5")
    assert reason_of(error) == "the model must be so; n of n"
