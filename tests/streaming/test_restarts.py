"""`step(x, reset=)`: items that begin anew give what new streams give, by == on integers."""

from __future__ import annotations

import copy
import random
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import pytest

import polyconv
from polyconv.execution.device import is_on_cpu
from polyconv.streaming.nodes import Node
from tests.campaigns.stream_models import restarts
from tests.streaming.test_fused import needs_compiler
from tests.streaming.test_graph import Residual, Sums
from tests.support.cases import integers
from tests.support.streams import Restarting, whole_numbers

C = 4  # channels


def _conv(k: int, **options: Any) -> nn.Module:
    return whole_numbers(nn.Conv1d(C, C, k, **options))


def _up(k: int, stride: int, padding: int = 0) -> nn.Module:
    return whole_numbers(nn.ConvTranspose1d(C, C, k, stride, padding))


def _front(x: mx.array, n: int, value: float = 0.0) -> mx.array:
    return mx.pad(x, [(0, 0), (n, 0), (0, 0)], constant_values=value)


CAUSAL, AHEAD, VALID = _conv(4), _conv(7, padding=3), _conv(3)
DOWN, UP, DEEP = _conv(4, stride=2, padding=1), _up(4, 2, 1), _conv(5, padding=4, dilation=2)
LINEAR = whole_numbers(nn.Linear(C, C))


def _overlap_added(x: mx.array) -> mx.array:
    """Frames of 4 samples, each 2 after the one before."""
    n, length, c = x.shape
    places = (mx.arange(length)[:, None] * 2 + mx.arange(c)).flatten()
    frames = x.transpose(1, 2, 0).reshape(length * c, n)
    return mx.zeros((2 * length + 2, n)).at[places].add(frames).T[..., None]


def _recurrent(kind: type) -> Any:
    """Of steps of a quarter, which stay between -1 and 1."""
    layer = kind(C, C)
    layer.update({name: integers(*a.shape) / 4 for name, a in layer.parameters().items()})
    return lambda x: layer(x)[0] if kind is nn.LSTM else layer(x)


def _lines(x: mx.array) -> mx.array:
    """With the items of the batch behind each other in one axis, in which time lies as well."""
    n, length, c = x.shape
    y = mx.flatten(x, 0, 1)
    y = mx.pad((y @ integers(C, C)).reshape(n, length, c), [(0, 0), (2, 0), (0, 0)])[:, :-2]
    return y.flatten(0, 1).reshape(n, length, c) + x


def _apart_later(x: mx.array) -> mx.array:
    """With the items of the batch behind the channels."""
    n, length, c = x.shape
    y = x.transpose(1, 2, 0)
    y = mx.concatenate([mx.zeros((3, c, n)), y], 0)[:-3]
    return (
        (y * x.transpose(1, 2, 0)).reshape(length, c * n).reshape(length, c, n).transpose(2, 0, 1)
    )


def _in_two(x: mx.array) -> mx.array:
    """A convolution of images, with time in their second axis."""
    w = integers(2, 2, 3, 1)
    y = mx.conv_general(x.swapaxes(1, 2)[..., None], w, 1, ([0, 1], [1, 1]))
    return y.swapaxes(1, 2).flatten(2)


# Models of which each remembers in its own way. What is not exact is of numbers that are told.
MODELS: dict[str, Any] = {
    "nothing": LINEAR,
    "one for all": lambda x: x + mx.zeros((x.shape[0], 1, C)) + integers(C),
    "a causal convolution": lambda x: CAUSAL(_front(x, 3)),
    "one behind other numbers than zeros": lambda x: CAUSAL(_front(x - 1, 3, 2.0)),
    "one that looks ahead": AHEAD,
    "a valid one": VALID,
    "one behind another that sees zeros of its own": lambda x: AHEAD(AHEAD(x) + 1),
    "a dilated one": DEEP,
    "transposed": UP,
    "transposed without padding": _up(7, 3),
    "down": DOWN,
    "down and up": lambda x: UP(DOWN(x)),
    "down and up beside": lambda x: UP(DOWN(x)) + x,
    "branches of different delays": lambda x: AHEAD(x) + x - CAUSAL(_front(x, 3)),
    "a delay": lambda x: _front(x, 5)[:, :-5] - x,
    "a crop in front": lambda x: x[:, 3:],
    "a crop behind": lambda x: x[:, :-2] * 2,
    "every second": lambda x: x[:, 1::2],
    "a pool": lambda x: mx.max(x.reshape(x.shape[0], -1, 2, C), 2),
    "a fold": lambda x: x.reshape(x.shape[0], -1, 3 * C) @ integers(3 * C, C),
    "pixels": lambda x: (x @ integers(C, 2 * C)).reshape(x.shape[0], -1, C),
    "repeat": lambda x: AHEAD(mx.repeat(x, 2, axis=1)),
    "frames": _overlap_added,
    "the first frame": lambda x: x - x[:, :1],
    "the third frame": lambda x: AHEAD(AHEAD(x)) * x[:, 2:3],
    "edges": lambda x: AHEAD(mx.pad(x, [(0, 0), (3, 3), (0, 0)], mode="edge")),
    "a reflection": lambda x: VALID(mx.concatenate([x[:, 1:2], x, x[:, -2:-1]], 1)),
    "a mask": lambda x: mx.where((mx.arange(x.shape[1]) > 2)[:, None], CAUSAL(_front(x, 3)), 7.0),
    "three in turn and a fold": lambda x: _turned(x),
    "set in place": lambda x: _set_front(x),
    "RNN": _recurrent(nn.RNN),
    "GRU": _recurrent(nn.GRU),
    "LSTM": _recurrent(nn.LSTM),
    "LSTM in a row": lambda x: LSTM(AHEAD(LSTM(x))),
    "lines": _lines,
    "apart later": _apart_later,
    "images": _in_two,
    "two kinds": whole_numbers(nn.Sequential(Residual(), Sums())),
    "channels first": lambda x: (
        AHEAD(x.swapaxes(1, 2).swapaxes(1, 2)).swapaxes(0, 1).swapaxes(0, 1)
    ),
}
LSTM = _recurrent(nn.LSTM)
# Their sums are rounded, and a GPU adds up a product of three items otherwise than one of one.
RECURRENT = ("RNN", "GRU", "LSTM", "LSTM in a row")


def _turned(x: mx.array) -> mx.array:
    y = x * (mx.arange(x.shape[1]) % 3)[:, None]
    return y.reshape(x.shape[0], -1, 2 * C)


def _set_front(x: mx.array) -> mx.array:
    y = mx.array(x)
    y[:, :2] = 1.0
    return CAUSAL(_front(y, 3))


def run(
    model: Any,
    rng: random.Random,
    n_items: int,
    size: int = 6,
    seed: int = 0,
    tolerance: float = 0.0,
) -> None:
    """Items of a batch begin anew at random in random chunks, each once in any case."""
    case = Restarting(model, mx.zeros((n_items, 24, C)), tolerance=tolerance)
    for i in range(14):
        x = integers(n_items, rng.choice((0, size, size, 2 * size)), C, seed=seed + i)
        which = [i in (4 + row, 9) or (i > 4 and rng.random() < 0.25) for row in range(n_items)]
        case.step(x, which)
        if rng.random() < 0.15:
            before, case.streamed = case.streamed, copy.deepcopy(case.streamed)
            before.reset_state()
    case.step(integers(n_items, 5 * size, C), [False] * n_items)
    assert not case.streamed._restarts  # all are in step with each other
    case.flush()


@pytest.mark.parametrize("name", MODELS)
def test_items_that_begin_anew_give_what_new_streams_give(name):
    rng = random.Random(name)
    tolerance = 0.0 if name not in RECURRENT or is_on_cpu(None) else 1e-5
    for n_items in (3, 1):
        run(MODELS[name], rng, n_items, seed=len(name), tolerance=tolerance)


def test_a_row_of_a_batch_by_hand():
    x, later = integers(2, 8, 4), integers(1, 5, 4, seed=9)
    streamed = polyconv.stream(AHEAD, x)
    streamed.step(x)
    assert streamed.behind == streamed.latency[0] == 3
    y = streamed.step(mx.concatenate([x[:1, :5], later]), reset=mx.array([False, True]))
    rows = mx.concatenate([y, streamed.flush()], 1)
    assert mx.array_equal(rows[1:, 3:], AHEAD(later))
    assert mx.array_equal(rows[:1], AHEAD(mx.concatenate([x[:1], x[:1, :5]], 1))[:, 5:])


def test_a_layer_and_a_model_of_it_take_and_refuse_the_same_resets():
    layer = whole_numbers(polyconv.StreamingConv1d(C, C, 5, 2, 1))
    x, which = integers(2, 4, C), mx.array([True, False])
    for n in range(9):
        layer.reset_state()
        streamed = polyconv.stream(layer, x)
        found = []
        for stream in (layer, streamed):
            stream.step(integers(2, n, C, seed=3))
            try:
                found.append(stream.step(x, reset=which))
            except ValueError as error:
                must, _, got = str(error).split("]")[1].partition("; got ")
                found.append(must if "must come after" in must else f"{must}; {got}")
        if isinstance(found[0], str):
            assert found[0] == found[1]
        else:
            skip = streamed.latency[0]
            assert mx.array_equal(found[0][:, skip:], found[1][:, skip:])


@needs_compiler
@pytest.mark.parametrize("kind", [Residual, Sums])
def test_items_begin_anew_where_functions_are_compiled(kind, monkeypatch):
    monkeypatch.setattr("polyconv.streaming.record.is_on_cpu", lambda _: False)
    run(whole_numbers(kind()), random.Random(0), 2, seed=1)


def test_a_copy_goes_on_with_the_items_that_begin():
    x = integers(3, 30, 4)
    streamed = polyconv.stream(lambda x: AHEAD(AHEAD(x)), x)
    streamed.step(x[:, :9])
    streamed.step(x[:, 9:11], reset=mx.array([True, False, True]))
    assert streamed._restarts
    copied = copy.deepcopy(streamed)
    held = len(copied.state)
    mx.eval(copied.state)
    streamed.step(x[:, :1], reset=mx.array([False, True, False]))
    streamed.reset_state()
    assert len(copied.state) == held
    found = mx.concatenate([copied.step(x[:, 11:]), copied.flush()], 1)
    whole = AHEAD(AHEAD(x[:, 9:]))
    assert mx.array_equal(found[::2, -21:], whole[::2])
    assert mx.array_equal(found[1:2], AHEAD(AHEAD(x[1:2]))[:, -found.shape[1] :])


def test_what_is_given_as_reset_may_be_changed_afterwards():
    x, which = integers(2, 30, 4), mx.array([True, False])
    streamed = polyconv.stream(AHEAD, x)
    streamed.step(x[:, :9])
    streamed.step(x[:, 9:10], reset=which)
    which[:] = mx.array([False, True])
    y = mx.concatenate([streamed.step(x[:, 10:]), streamed.flush()], 1)
    assert mx.array_equal(y[:1, -21:], AHEAD(x[:1, 9:]))
    assert mx.array_equal(y[1:, -21:], AHEAD(x[1:])[:, -21:])


SOME = mx.array([True, False])


@pytest.mark.parametrize(
    ("model", "came", "told"),
    [
        (AHEAD, 2, "reset must come after at least 3 samples; got 2"),
        (AHEAD, 0, "reset must come after at least 3 samples; got 0"),
        (DOWN, 5, "reset must come after a multiple of 2 samples; got 5"),
        (lambda x: UP(DOWN(x)) + x, 7, "reset must come after a multiple of 2 samples"),
        (_turned, 11, "reset must come after a multiple of 6 samples; got 11"),
        (
            lambda x: _front(x, 2),
            9,
            "reset must come to a stream whose output is not ahead of its input; got a latency",
        ),
        (
            lambda x: x - x[:, -1:],
            9,
            "reset must come to a stream that does not wait for the end of its input; got one that",
        ),
    ],
)
def test_what_a_new_stream_would_give_at_other_times_is_refused(model, came, told):
    x, end = integers(2, 12, C), integers(2, 13, C, seed=3)
    streamed, other = polyconv.stream(model, x), polyconv.stream(model, x)
    found = [streamed.step(x[:, :came])]
    for _ in range(2):
        with pytest.raises(ValueError, match=rf"^\[stream\] {told}"):
            streamed.step(end, reset=SOME)
    found += [streamed.step(end, reset=mx.array([False, False])), streamed.flush()]
    expected = [other.step(x[:, :came]), other.step(end), other.flush()]
    assert mx.array_equal(mx.concatenate(found, 1), mx.concatenate(expected, 1))


@pytest.mark.parametrize(
    "model",
    [
        lambda x: x - mx.max(x, 0, keepdims=True),
        lambda x: AHEAD(x[::-1]),
        lambda x: mx.cumsum(AHEAD(x), 0),
        lambda x: mx.sort(x, 0) + x,
        lambda x: x[:1] * x,
        lambda x: mx.concatenate([x[1:], x[:1]], 0),
        lambda x: AHEAD(x.reshape(1, x.shape[0], -1, C).max(1)) + x,
        lambda x: (x.transpose(1, 2, 0) @ integers(2, 2)).transpose(2, 0, 1),
        lambda x: x + x.transpose(1, 0, 2).reshape(-1, 4, 2).swapaxes(1, 2).transpose(1, 0, 2),
        lambda x: mx.softmax(x.transpose(1, 2, 0), -1).transpose(2, 0, 1),
        lambda x: mx.zeros_like(x) + mx.pad(x[1:], [(0, 1), (0, 0), (0, 0)]),
    ],
)
def test_what_mixes_the_items_is_refused(model):
    streamed, x = polyconv.stream(model, integers(2, 12, C)), integers(2, 12, C)
    streamed.step(x)
    with pytest.raises(ValueError, match="reset must come to a model that keeps the items of a b"):
        streamed.step(x, reset=SOME)


def test_wrong_resets_are_refused():
    x = integers(2, 12, C)
    streamed = polyconv.stream(LINEAR, x)
    streamed.step(x)
    for wrong in (True, [True, False], mx.array([1, 0]), mx.array([True]), mx.array(True)):
        with pytest.raises(
            ValueError, match=r"^\[stream\] reset must be an mx.array of 2 booleans; got"
        ):
            streamed.step(x, reset=wrong)
    one = polyconv.stream(nn.relu, x[0], axis=0)
    one.step(x[0])
    with pytest.raises(ValueError, match="whose axis 0 are the items of a batch; got time there"):
        one.step(x[0], reset=mx.array([True] * 12))


def test_a_chunk_that_is_too_short_for_the_first_outputs_is_refused_and_the_stream_goes_on():
    model, x = lambda x: CAUSAL(_front(x, 3)) - x[:, 2:3], integers(2, 12, C)
    streamed = polyconv.stream(model, x)
    streamed.step(x)
    with pytest.raises(
        ValueError, match=r"a chunk must hold what .* wait for; got one of 2 samples"
    ):
        streamed.step(x[:, :2], reset=SOME)
    assert streamed.step(x[:, :0], reset=SOME).shape == (2, 0, C)
    for _ in range(2):
        with pytest.raises(
            ValueError, match="a chunk must hold what the first outputs behind a re"
        ):
            streamed.step(x[:, :1])
    y = streamed.step(x[:, :3])
    assert mx.array_equal(y[:1], model(x[:1, :3]))
    assert mx.array_equal(y[1:], model(mx.concatenate([x, x[:, :3]], 1))[1:, 12:])


def test_new_streams_whose_items_have_begun_anew_once_more_are_dropped():
    x = integers(2, 12, C)
    streamed = polyconv.stream(lambda x: AHEAD(AHEAD(x)), x)
    streamed.step(x)
    for which, n in (((True, False), 1), ((False, True), 2), ((True, False), 2), ((True, True), 1)):
        streamed.step(x[:, :1], reset=mx.array(which))
        assert len(streamed._restarts) == n


def test_an_end_at_which_not_all_end_is_refused():
    pad, w = [(0, 0), (3, 4), (0, 0)], integers(C, 7, C)
    streamed = polyconv.stream(lambda x: mx.conv1d(mx.pad(VALID(x), pad), w), integers(2, 12, C))
    streamed.step(integers(2, 12, C))
    streamed.step(integers(2, 1, C), reset=SOME)
    with pytest.raises(ValueError, match="must end where the outputs of all items end together"):
        streamed.flush()
    streamed.step(integers(2, 4, C))
    assert streamed.flush().shape[1] > 0


def test_gradients_pass_through_a_reset():
    x, model = integers(2, 12, C), nn.Sequential(_conv(3, padding=1))

    def loss(model: Any) -> mx.array:
        streamed = polyconv.stream(model, x)
        y = [streamed.step(x[:, :6]), streamed.step(x[:, 6:], reset=SOME), streamed.flush()]
        return mx.square(mx.concatenate(y[1:], 1)[:1, 1:]).sum()

    def alone(model: Any) -> mx.array:
        return mx.square(model(x[:1, 6:])).sum()

    found, expected = [nn.value_and_grad(model, each)(model)[1] for each in (loss, alone)]
    assert mx.array_equal(found["layers"][0]["weight"], expected["layers"][0]["weight"])


@pytest.mark.parametrize("n", [20, pytest.param(400, marks=pytest.mark.slow)])
def test_items_of_random_models_begin_anew(n):
    counts, differ = restarts(range(n))
    assert not differ
    assert counts["begun"] > n


def test_the_campaign_finds_a_node_that_takes_nothing_over(monkeypatch):
    monkeypatch.setattr(Node, "take", lambda *_: None)
    _, differ = restarts(range(20))
    assert len(differ) > 2
