"""`watch`: every transposed convolution by place, and nothing else changed."""

from __future__ import annotations

import io
import itertools
import sys
from types import SimpleNamespace

import mlx.core as mx
import mlx.nn as nn
import pytest

import polyconv
from polyconv.models import recording
from polyconv.planning.methods import METHODS
from tests.support.cases import integers
from tests.support.problems import transposed

X, W = integers(1, 5, 4), integers(3, 4, 4)
LONG = integers(1, 999, 4)  # some tiles


def test_calls_are_told_by_place_with_times_and_predictions(capsys, monkeypatch):
    clock = itertools.count()  # each reading a second later
    monkeypatch.setattr(recording, "time", SimpleNamespace(perf_counter=lambda: next(clock)))
    model = nn.Sequential(nn.ConvTranspose1d(4, 4, 4, 2), polyconv.PolyConvTranspose1d(4, 4, 4, 2))
    y = model(X)
    before = dict(vars(mx))
    with polyconv.watch(model, device="m4-max") as seen:
        for _ in range(3):
            assert mx.array_equal(model(X), y)
        mx.conv_general(X, W)  # no transposed one
        mx.conv_general(X, W, input_dilation=2, padding=3)
    assert dict(vars(mx)) == before
    own, ours, general = seen.sites.values()
    assert (own.where, own.op, own.n_calls) == ("layers.0", "mx.conv_transpose1d", 3)
    assert own.seconds == 3
    assert (ours.where, ours.op, ours.n_calls) == ("layers.1", "polyconv.conv_transpose1d", 3)
    assert ours.seconds is None
    assert general.where.startswith("test_watching.py:")
    text = capsys.readouterr().out
    assert text.splitlines()[0].split()[:3] == ["where", "op", "calls"]
    # Native: 3 calls of 1 x 12 outputs, 4 channels, 4 taps, 4 channels; half of it on zeros.
    row = next(line for line in text.splitlines() if line.startswith("layers.0")).split("  ")
    cells = [cell.strip() for cell in row if cell.strip()]
    assert cells[2:4] == ["3", "(1, 5, 4)"]
    assert cells[4:8] == ["3e+03 ms", "75% █████████", "2.3 k", "50%"]
    assert "predicted for m4-max" in text


def test_it_sees_what_a_patch_took_over_once_and_compiled_functions_without_a_time():
    with polyconv.patched(), polyconv.watch() as seen:
        mx.conv_transpose1d(X, W, 2)
    (site,) = seen.sites.values()
    assert (site.op, site.n_calls) == ("mx.conv_transpose1d", 1)
    with polyconv.watch() as seen:
        mx.compile(lambda x: mx.conv_transpose1d(x, W, 2))(X)
    (site,) = seen.sites.values()
    assert site.seconds is None


def test_a_place_is_the_line_of_the_user_whatever_wing_makes_the_call():
    layer, plain = polyconv.StreamingConvTranspose1d(4, 4, 4, 2), nn.ConvTranspose1d(4, 4, 4, 2)
    polyconv.convert(plain)
    stream, resampler = polyconv.stream(plain), polyconv.ResampleStream(2, 3, 4)
    for call in (
        lambda: layer(X),
        lambda: layer.step(X),
        lambda: plain(X),
        lambda: stream.step(X),
        lambda: polyconv.resample_poly(X.astype(mx.float32), 3, 2, axis=1),
        lambda: resampler.resample_chunk(LONG[0]),
        lambda: polyconv.distributed.conv_transpose1d(X, W, 2),
    ):
        with polyconv.watch() as seen:
            call()
        (site,) = seen.sites.values()
        assert site.where == f"test_watching.py:{call.__code__.co_firstlineno}"


def every_way():
    """Each way to compute a call: by phases, products, tiles, one filter, in chunks."""
    filters = integers(1, 4, 1)
    for method in (*METHODS, "auto"):
        yield lambda method=method: polyconv.conv_transpose1d(LONG, W, 2, method=method)
    for w in (W, polyconv.pack(W)):
        yield lambda w=w: polyconv.conv_transpose1d(LONG, w, 2)
        yield lambda w=w: polyconv.conv_general(LONG, w, input_dilation=2, padding=3)
        yield lambda w=w: polyconv.conv_transpose1d(LONG, w, 2, max_workspace=2**15)
        yield lambda w=w: polyconv.conv_transpose1d(LONG[:0], w, 2)
    for w in (filters, polyconv.pack(filters)):
        yield lambda w=w: polyconv.conv_transpose1d(LONG, w, 2, groups=4)
        yield lambda w=w: polyconv.conv_general(LONG, w, input_dilation=2, groups=4)
        yield lambda w=w: polyconv.conv_transpose1d(LONG, w, 2, groups=4, max_workspace=2**15)
        yield lambda w=w: polyconv.conv_transpose1d(LONG[:0], w, 2, groups=4)
    yield lambda: polyconv.upfirdn(filters[0, :, 0], LONG, 3, 2, axis=1)
    yield lambda: polyconv.resample_poly(LONG, 3, 2, axis=1)
    yield lambda: polyconv.ResampleStream(2, 3).resample_chunk(mx.ones(99))
    yield lambda: polyconv.StreamingConvTranspose1d(4, 3, 4, 2).step(LONG)
    yield lambda: mx.grad(lambda x: polyconv.conv_transpose1d(x, filters, 2, groups=4).sum())(LONG)
    yield lambda: mx.compile(lambda x: polyconv.conv_transpose1d(x, filters, 2, groups=4))(LONG)
    with_patch = lambda: mx.conv_transpose1d(LONG, W, 2)  # noqa: E731
    yield polyconv.patched()(with_patch)


@pytest.mark.parametrize("device", ["cpu", "m4-max", "cuda"])
def test_no_call_is_missed_whichever_way_it_is_computed(device):
    with polyconv.planning_for(device), polyconv.watch() as seen:
        for n, call in enumerate(every_way(), 1):
            call()
            assert sum(site.n_calls for site in seen.sites.values()) == n


def test_a_filter_for_all_channels_is_told_as_groups():
    with polyconv.watch() as seen:
        polyconv.conv_transpose1d(X, integers(1, 4, 1), 2, groups=4)
        polyconv.conv_transpose1d(X, integers(4, 4, 1), 2, groups=4)
    (first, second) = [problem for site in seen.sites.values() for problem in site.problems]
    assert first == second


def test_nothing_seen_is_said_and_an_unknown_device_refused(capsys):
    with polyconv.watch():
        pass
    assert capsys.readouterr().out.startswith("no transposed convolution was called")
    with pytest.raises(ValueError, match="device must be one of"), polyconv.watch(device="m0"):
        pass


class Terminal(io.TextIOWrapper):
    """Standard output as a terminal of an encoding."""

    def __init__(self, encoding):
        super().__init__(io.BytesIO(), encoding=encoding)

    def isatty(self):
        return True


def watched(seconds):
    """What is told of layers that took so long."""
    with polyconv.watch() as seen:
        pass
    for i, spent in enumerate(seconds):
        seen.add(f"layers.{i}", "mx.conv_transpose1d", transposed((1, 5, 4), (3, 4, 4), 2), spent)
    return seen


def test_a_bar_is_the_share_of_the_time_of_all():
    rows = str(watched([1.0, 6.0, 1.0, None])).splitlines()
    shares = [row[rows[0].index("share of it") :][:14].rstrip() for row in rows[1:5]]
    assert shares == [" 75% █████████", " 12% █▌", " 12% █▌", "-"]


@pytest.mark.parametrize(("encoding", "mark"), [("utf-8", "█"), ("ascii", "#"), ("cp1252", "#")])
@pytest.mark.parametrize("width", [40, 80, 200])
def test_a_narrow_terminal_has_all_in_lines_and_one_without_blocks_has_ascii(
    encoding, mark, width, monkeypatch
):
    seen = watched([1.0, 3.0])
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setattr(sys, "stdout", Terminal(encoding))
    print(seen)  # raises if the stream cannot encode it
    *lines, about = str(seen).splitlines()
    assert f" 75% {9 * mark}" in lines[1]
    assert about.startswith("MACs and bytes unfolded are predicted")
    if width == 200:
        assert len(lines) == 3
        return
    assert lines[0].split() == ["where", "time", "here", "share", "of", "it"]
    whole = " ".join(lines)
    for told in ("mx.conv_transpose1d, calls: 1, (1, 5, 4)", "on zeros, unfold", "polyconv: MACs"):
        assert whole.count(told) == 2
    if width == 80:
        assert max(map(len, lines)) <= width


def test_no_standard_output_is_no_error(monkeypatch):
    seen = watched([1.0])
    monkeypatch.setattr(sys, "stdout", None)
    assert "###" in str(seen)
