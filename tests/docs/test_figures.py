"""The figures show what the definition says, and are those that their script draws."""

import importlib
import re
from itertools import product

import pytest

from tests.support.snippets import ROOT

FIGURES = ROOT / "docs" / "figures"
HOUSE = FIGURES / "house.svg"
SVGS = sorted({*FIGURES.glob("*.svg")} - {HOUSE})


def by_definition(size, kernel, stride, padding):
    """Of each output the pairs of a tap and the sample, at `stride i`, that it lies on."""
    lo = kernel - 1 - padding
    n_outputs = (size - 1) * stride + kernel - 2 * padding
    pairs = [(k, i) for k in range(kernel) for i in range(size)]
    return [[(k, i) for k, i in pairs if t + k - lo == stride * i] for t in range(n_outputs)]


@pytest.fixture
def drawing(monkeypatch):
    """The figures' modules, by name."""
    pytest.importorskip("matplotlib", reason="figures need the examples extra")
    monkeypatch.syspath_prepend(str(FIGURES))
    return importlib.import_module


@pytest.mark.parametrize("shape", [(4, 4, 2, 1), (3, 6, 3, 1), (5, 3, 2, 0), (4, 2, 3, 0)])
def test_what_is_drawn_is_the_definition(drawing, shape):
    from polyconv.problem.spec import Axis

    size, kernel, stride, padding = shape
    lo = kernel - 1 - padding
    axis = Axis(size, kernel, input_dilation=stride, padding_lo=lo, padding_hi=lo)
    found = {output.t: output.met(size) for output in drawing("line").outputs(axis)}
    assert [found.get(t, []) for t in range(axis.output_size)] == by_definition(*shape)


def test_the_steps_tell_the_sums_of_the_definition():
    """Read from the committed picture."""
    text = (FIGURES / "steps.svg").read_text()
    told = re.findall(r">(y\d+ = [^<]+)</text>", text)
    sums = [" + ".join(f"w{k} x{i}" for k, i in pairs) for pairs in by_definition(4, 4, 2, 1)]
    assert told == [f"y{t} = {each}" for t, each in enumerate(sums)]


def test_taps_in_two_dimensions_are_the_definition_s(drawing):
    plane = drawing("plane")
    line = by_definition(plane.SIZE, plane.KERNEL, plane.STRIDE, plane.PADDING)
    for down, right in product(range(len(line)), repeat=2):
        met = [(k, m) for (k, _), (m, _) in product(line[down], line[right])]
        assert plane.met_by((down, right)) == met
        colour = plane.number(down % plane.STRIDE, right % plane.STRIDE)
        assert {plane.phase_of_tap(tap) for tap in met} == {colour}


def test_frames_of_the_stacked_picture_read_what_their_outputs_need(drawing):
    line = drawing("line")
    needed = by_definition(line.SIZE, line.KERNEL, line.STRIDE, line.PADDING)
    made = []
    for samples, outputs in line.frames(line.AXIS):
        for t in outputs:
            if 0 <= t < len(needed):
                assert {i for _, i in needed[t]} <= set(samples)
                made.append(t)
    assert made == list(range(len(needed)))


def test_committed_figures_are_what_their_script_draws(drawing, tmp_path):
    matplotlib = importlib.import_module("matplotlib")
    drawing("draw").main(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [path.name for path in SVGS]
    if matplotlib.__version__ not in SVGS[0].read_text():
        pytest.skip("drawn by another matplotlib, whose paths differ")
    for path in SVGS:
        assert (tmp_path / path.name).read_text() == path.read_text(), path.name


def test_the_house_is_drawn_as_it_stands(monkeypatch):
    monkeypatch.syspath_prepend(str(FIGURES))
    assert importlib.import_module("house").drawn() == HOUSE.read_text(), (
        "python docs/figures/house.py"
    )


@pytest.mark.parametrize("path", [*SVGS, HOUSE], ids=lambda path: path.name)
def test_figures_are_small_and_follow_light_and_dark(path):
    text = path.read_text()
    assert len(text) < 100_000
    assert "prefers-color-scheme: dark" in text
    drawn = text.split("</style>", 1)[1]
    assert not re.search(r"(?<!, )#[0-9a-f]{6}\b", drawn), "a colour that is the same in the dark"
    assert ("prefers-reduced-motion" in text) == ("animation:" in text)
