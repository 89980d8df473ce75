"""The drawing of an explanation: well-formed, to scale, within its width, in light and dark."""

from __future__ import annotations

import xml.etree.ElementTree as ET

import pytest

import polyconv
from polyconv.__main__ import main
from polyconv.inspection import chart
from tests.support.cases import NAMED

SVG = "{http://www.w3.org/2000/svg}"
COMMAND = ["explain", "conv_transpose1d", "--input", "1,128,512", "--weight", "256,16,512"]
CALL = ("conv_transpose1d", (1, 128, 512), (256, 16, 512))


def drawn(told):
    return ET.fromstring(chart.svg(told))


def bars(root, kind):
    """The widths of the bars of one colour, from top to bottom."""
    return [
        float(each.get("width")) for each in root.iter(f"{SVG}rect") if each.get("class") == kind
    ]


def test_bars_are_to_scale():
    told = polyconv.explain(*CALL, stride=8, padding=4, device="m2")
    root = drawn(told)
    n = len(told.lines)
    waste, good = bars(root, "waste"), bars(root, "good")
    unfolded = [line.unfold_bytes for line in told.lines if line.unfold_bytes]
    on_zeros = [line.macs_on_zeros for line in told.lines if line.macs_on_zeros]
    assert len(waste) == len(unfolded) + len(on_zeros)
    # A bar of the lower panel as wide as its share of the largest sum.
    unit = chart._LONGEST / max(line.macs for line in told.lines)
    assert waste[len(unfolded) :] == pytest.approx([max(unit * n, 1) for n in on_zeros], abs=0.06)
    needed = [line.macs - line.macs_on_zeros for line in told.lines]
    assert good[-n:] == pytest.approx([unit * n for n in needed], abs=0.06)
    unit = chart._LONGEST / max(line.time.most for line in told.lines)
    assert good[:n] == pytest.approx([unit * line.time.seconds for line in told.lines], abs=0.06)


def test_bounds_reach_from_the_least_to_the_most():
    told = polyconv.explain(*CALL, stride=8, padding=4, device="m2")
    paths = [each.get("d") for each in drawn(told).iter(f"{SVG}path")]
    unit = chart._LONGEST / max(line.time.most for line in told.lines)
    for path, line in zip(paths, told.lines, strict=True):
        least, most = path[1:].split("M")[0].split("H")
        assert float(least.split()[0]) == pytest.approx(
            chart._BARS + unit * line.time.least, abs=0.06
        )
        assert float(most) == pytest.approx(chart._BARS + unit * line.time.most, abs=0.06)


@pytest.mark.parametrize("name", NAMED)
def test_nothing_leaves_the_paper_whatever_is_drawn(name):
    case = NAMED[name]
    root = drawn(polyconv.explain(case.op, case.x_shape, case.w_shape, **case.kwargs))
    height = float(root.get("viewBox").split()[3])
    for each in root.iter(f"{SVG}text"):
        words, x = "".join(each.itertext()), float(each.get("x"))
        kind = each.get("class") or ""
        wide = 0.53 * (13 if kind == "small" else 14) * len(words)  # of a wide font
        assert 0 < float(each.get("y")) < height
        if each.get("text-anchor") == "end":
            assert x - wide > chart._BARS + chart._LONGEST
        elif kind.startswith("name"):
            assert x + wide < chart._BARS
        else:
            assert x + wide < chart.WIDTH
    for each in root.iter(f"{SVG}rect"):
        if each.get("class") != "paper":
            assert (
                float(each.get("x")) + float(each.get("width")) <= chart._BARS + chart._LONGEST + 2
            )


def test_it_is_of_the_method_that_is_taken_and_says_what_is_measured():
    told = polyconv.explain(*CALL, stride=8, padding=4, device="m2")
    text = " ".join(drawn(told).itertext())
    assert text.count(f"→ {told.chosen}") == 3
    assert "nothing is measured" in " ".join(text.split())
    assert all(line.method in text for line in told.lines)


def test_colours_follow_the_reader_and_every_class_has_one_in_the_dark():
    root = drawn(polyconv.explain(*CALL, stride=8, padding=4, device="m2"))
    light, dark = root.find(f"{SVG}style").text.split("@media (prefers-color-scheme: dark)")
    coloured = {each.get("class") for each in root.iter(f"{SVG}rect")}
    for kind in (*coloured, "bounds"):
        assert f".{kind} {{" in light
        assert f".{kind} {{" in dark
    first = next(iter(root.iter(f"{SVG}rect")))
    assert first.get("class") == "paper"
    assert f"0 0 {first.get('width')} {first.get('height')}" == root.get("viewBox")


def test_what_a_caller_wrote_is_escaped():
    told = polyconv.explain(*CALL, stride=8, device="m2")
    object.__setattr__(told, "call", "<script> & co")
    assert "<script> & co ->" in " ".join(drawn(told).itertext())


def test_the_command_draws_and_prints(tmp_path, capsys):
    file = tmp_path / "call.svg"
    plain = [*COMMAND, "--stride", "8", "--device", "m2"]
    assert main(plain) == 0
    said = capsys.readouterr().out
    assert main([*plain, "--plot", str(file)]) == 0
    assert capsys.readouterr().out == said
    assert file.read_text(encoding="utf-8") == chart.svg(
        polyconv.explain(*CALL, stride=8, device="m2")
    )
    file.unlink()
    assert main([*plain, "--json", "--plot", str(file)]) == 0
    assert capsys.readouterr().out.startswith("{")
    assert ET.parse(file)


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        (["--plot", "no_such_folder/call.svg"], "no_such_folder/call.svg: No such file"),
        (["--plot", "call.png"], "whose name ends in .svg; got call.png"),
        (
            ["--plot", "call.svg", "--device", "m1,m2"],
            "--plot must be of one call on one --device; got",
        ),
        (
            ["--plot", "call.svg", "--batch", "rows.jsonl"],
            "--plot must be of one call on one --device; got",
        ),
        (
            ["--plot", "call.svg", "--model", "a:b"],
            "--plot must be of one call on one --device; got",
        ),
    ],
)
def test_what_cannot_be_drawn_is_one_sentence(more, reason, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main([*COMMAND, "--stride", "8", *more]) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert reason in told.err
    assert len(told.err.splitlines()) == 1
    assert not list(tmp_path.iterdir())
