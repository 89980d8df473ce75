"""What a file of timings may say, and what is refused. No clock is read."""

import copy
import json
import random

import pytest

from polyconv.planning.candidates import candidates
from polyconv.planning.devices import CPU, CUDA, DEVICES, Metal
from polyconv.planning.tuning_file import Section, is_label, read_tuning, written
from tests.support.choices import PROBLEMS
from tests.support.problems import transposed
from tests.support.refusals import refused
from tests.support.tuned import entry

LAYER = transposed((1, 128, 32), (16, 16, 32), 8, 4)
SHORT = transposed((1, 16, 32), (16, 16, 32), 8, 4)


def sections():
    """Two devices, one with two layers."""
    first = entry(LAYER, "stacked", "taps own flat", "native"), entry(LAYER, "stacked", packed=True)
    return [Section("cpu", "0.32.4", first), Section("gpu", "0.32.3", (entry(SHORT, "native"),))]


def test_what_is_written_is_read():
    assert read_tuning("op", written(sections())) == sections()
    assert read_tuning("op", written([])) == []


def test_all_kinds_of_problems_are_written_and_read():
    entries = tuple(entry(p, "per_phase") for p in {*PROBLEMS} if not p.is_empty)
    given = [Section("cpu", "1", entries)]
    assert len(entries) > 250
    assert read_tuning("op", written(given)) == given


def test_every_plan_has_a_label_of_its_own_which_a_file_may_hold():
    for where in (CPU, CUDA, Metal("m4-max", DEVICES["m4-max"])):
        for problem in PROBLEMS:
            labels = [each.label for each in candidates(problem, where, True)]
            assert len({*labels}) == len(labels)
            assert all(map(is_label, labels))


def test_newer_times_take_the_place_of_older_ones():
    before = sections()[0]
    newer = entry(LAYER, "per_phase")
    now = before.with_newer([newer, entry(SHORT, "native")])
    assert now.entries == (newer, before.entries[1], entry(SHORT, "native"))
    assert before == sections()[0]


def tree(**changed):
    """A file with some values of its layer exchanged."""
    found = json.loads(written(sections()))
    found["tuned"][0]["layers"][0].update(changed)
    return json.dumps(found)


BROKEN = {
    "no JSON": "nonsense",
    "empty": "",
    "deep": "[" * 10**5,
    "a list": "[]",
    "no sections": '{"tuned": 3}',
    "a section of a number": '{"tuned": [3]}',
    "a section without a device": '{"tuned": [{"mlx": "1", "layers": []}]}',
    "a device of a number": '{"tuned": [{"device": 1, "mlx": "1", "layers": []}]}',
    "layers of a dict": '{"tuned": [{"device": "a", "mlx": "1", "layers": {}}]}',
    "a layer of a number": '{"tuned": [{"device": "a", "mlx": "1", "layers": [1]}]}',
    "rates": '{"rates": {"cpu": {"per_mac": 1e-9, "per_conv": 0, "per_byte_moved": 0}}}',
    "a field too much": tree(more=1),
    "no axes": tree(axes=[]),
    "four axes": tree(axes=[[8, 1, 1, 1, 1, 0, 0]] * 4),
    "axes of a number": tree(axes=8),
    "a short axis": tree(axes=[[8, 1]]),
    "an axis of floats": tree(axes=[[8, 1, 1, 1, 1, 0, 0.5]]),
    "an axis of bools": tree(axes=[[8, 1, 1, 1, True, 0, 0]]),
    "no samples": tree(axes=[[0, 1, 1, 1, 1, 0, 0]]),
    "stride 0": tree(axes=[[8, 1, 0, 1, 1, 0, 0]]),
    "a kernel that does not fit": tree(axes=[[8, 9, 1, 1, 1, 0, 0]]),
    "sizes above int32": tree(axes=[[2**40, 1, 1, 1, 1, 0, 0]]),
    "a huge size": tree(axes=[[10**400, 1, 1, 1, 1, 0, 0]]),
    "a batch of a bool": tree(batch=True),
    "a batch of 0": tree(batch=0),
    "a batch of text": tree(batch="1"),
    "groups that do not divide": tree(groups=3),
    "no groups": tree(groups=0),
    "flip as an int": tree(flip=1),
    "packed as text": tree(packed="no"),
    "a dtype of ints": tree(dtype="int32"),
    "a dtype of a list": tree(dtype=[]),
    "no times": tree(ms={}),
    "times in a list": tree(ms=[1.0]),
    "an unknown plan": tree(ms={"fastest": 1.0}),
    "half a plan": tree(ms={"taps": 1.0}),
    "half a plan more": tree(ms={"taps own": 1.0}),
    "a plan with too much": tree(ms={"stacked own flat": 1.0}),
    "a negative time": tree(ms={"stacked": -1.0}),
    "no time": tree(ms={"stacked": 0}),
    "a time of text": tree(ms={"stacked": "1"}),
    "a time of a bool": tree(ms={"stacked": True}),
    "NaN": tree(ms={"stacked": float("nan")}),
    "infinity": tree(ms={"stacked": float("inf")}),
    "a huge time": tree(ms={"stacked": 10**400}),
    "a layer twice": json.dumps(
        {
            "tuned": [
                {
                    "device": "a",
                    "mlx": "1",
                    "layers": [json.loads(tree())["tuned"][0]["layers"][0]] * 2,
                }
            ]
        }
    ),
    "a device twice": json.dumps({"tuned": [{"device": "a", "mlx": "1", "layers": []}] * 2}),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_broken_files_are_refused_in_one_sentence(kind):
    refused(read_tuning, "use_tuning", BROKEN[kind])


def test_a_file_with_one_value_exchanged_is_refused_or_read():
    """Whatever is exchanged, nothing else happens."""
    rng, odd = random.Random(0), (None, [], {}, "x", -1, 0, 2.5, True, 10**400, [[1]], {"a": 1})
    n_refused = 0
    for _ in range(600):
        found = json.loads(written(sections()))
        place, key = found, "tuned"
        while isinstance(place[key], (dict, list)) and place[key] and rng.random() < 0.85:
            place = place[key]
            key = rng.choice(list(place)) if isinstance(place, dict) else rng.randrange(len(place))
        place[key] = copy.deepcopy(rng.choice(odd))
        try:
            read_tuning("op", json.dumps(found))
        except ValueError as error:
            n_refused += 1
            assert str(error).startswith("[op] ")
    assert 300 < n_refused < 600
