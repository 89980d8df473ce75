"""Which entry of a tuning is the nearest? No clock is read."""

from dataclasses import replace

import pytest

from polyconv.planning.tuned import Tuning
from tests.support.problems import transposed
from tests.support.tuned import entry

LAYER = transposed((1, 128, 32), (16, 16, 32), 8, 4)
SHORT = transposed((1, 16, 32), (16, 16, 32), 8, 4)
LONG = transposed((1, 4000, 32), (16, 16, 32), 8, 4)


def test_the_nearest_length_of_the_same_layer():
    known = [entry(p, "stacked") for p in (SHORT, LONG)]
    tuning = Tuning((*known, entry(LAYER, "native", packed=True)))
    assert tuning.nearest(LONG, False) is known[1]
    assert tuning.nearest(LAYER, True).ms == {"native": 1.0}
    # 128 frames are 8 times 16 and 4000 are 31 times 128.
    assert tuning.nearest(LAYER, False) is known[0]
    longer = transposed((8, 128, 32), (16, 16, 32), 8, 4)
    assert tuning.nearest(longer, False) is known[1]


@pytest.mark.parametrize(
    "other",
    [
        transposed((1, 128, 32), (8, 16, 32), 8, 4),
        transposed((1, 128, 16), (16, 16, 16), 8, 4),
        transposed((1, 128, 32), (16, 12, 32), 8, 4),
        transposed((1, 128, 32), (16, 16, 32), 4, 4),
        transposed((1, 128, 32), (16, 16, 32), 8, 3),
        transposed((1, 128, 32), (16, 16, 32), 8, 4, dilation=2),
        transposed((1, 128, 32), (16, 16, 32), 8, 4, output_padding=1),
        transposed((1, 128, 32), (16, 16, 16), 8, 4, groups=2),
        replace(LAYER, dtype="float16"),
        replace(LAYER, flip=False),
        transposed((0, 128, 32), (16, 16, 32), 8, 4),
    ],
)
def test_another_layer_is_not_known(other):
    assert Tuning((entry(LAYER, "stacked"),)).nearest(other, False) is None


def test_a_known_one_is_nearer_than_one_with_as_many_outputs():
    twice = transposed((2, 64, 32), (16, 16, 32), 8, 4)
    for order in ((LAYER, twice), (twice, LAYER)):
        tuning = Tuning(tuple(entry(p, "stacked") for p in order))
        assert tuning.nearest(LAYER, False).problem == LAYER
        assert tuning.nearest(twice, False).problem == twice
