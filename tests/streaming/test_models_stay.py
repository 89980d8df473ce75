"""A model is as it was after `stream`, also where it was refused or failed in the middle."""

from __future__ import annotations

import threading
from collections import OrderedDict, defaultdict, deque

import mlx.core as mx
import mlx.nn as nn
import pytest
from mlx.utils import tree_map

import polyconv
from polyconv.streaming.state import _fill
from tests.support.cases import integers

X = integers(1, 20, 4)


class Storing(nn.Module):
    """Stores what it computed, changes arrays in place, adds attributes and lists."""

    def __init__(self, wrong=None):
        super().__init__()
        self.conv = nn.Conv1d(4, 4, 3)
        self.bn = nn.BatchNorm(4)
        self.bn.eval()
        self.count, self.buffer = mx.array(0), mx.zeros((3, 4))
        self._hidden = mx.ones((4,))
        self.cache = None
        self.lists = [mx.zeros((2,)), {"a": mx.ones((4,)), "b": [1, 2]}]
        self.pair = (mx.zeros((1,)), nn.Linear(4, 4))
        self._wrong = wrong

    def __call__(self, x):
        self.count += 1
        self.buffer[:] = x[0, :3]
        self._hidden = self._hidden + x[0, 0]
        self.lists[0] = x
        self.lists[1]["a"][1:3] = x[0, 0, :2]
        self.lists[1]["b"].append(x.shape[1])
        self.lists.append(x)
        self.added = [x]
        y = self.pair[1](self.bn(self.conv(x)))
        self.bn.running_mean = self.bn.running_mean + x.sum((0, 1))
        self.cache = y
        if self._wrong is not None:
            y = self._wrong(y)
        self.after = y
        return y


def raising(y):
    raise KeyError("in the middle")


CASES = {
    "streamed": (None, ""),
    "refused": (lambda y: y - y.mean(1, keepdims=True), "Reduce over time"),
    "not traced": (lambda y: y * y.sum().item(), "looks at the numbers"),
    "raising": (raising, "in the middle"),
    "disproved": (lambda y: y * 2 if y.shape[1] == 40 else y, "chunks must give"),
    "drawing": (lambda y: y + mx.random.normal((4,)), "random numbers"),
    "another way": (lambda y: mx.tanh(y) if y.shape[1] == 66 else y, "chunks must give|way"),
}


def seen(value):
    """All that is in a value, as values that can be compared. Evaluates every array."""
    if isinstance(value, mx.array):
        return (value.shape, str(value.dtype), value.tolist())
    if isinstance(value, nn.Module):
        inside = {name: each for name, each in vars(value).items() if name != "_wrong"}
        return (type(value), seen(dict(value)), seen(inside))
    if isinstance(value, dict):
        return {name: seen(each) for name, each in value.items()}
    if isinstance(value, (list, tuple)):
        return (type(value), [seen(each) for each in value])
    return value


def stream(model, told, **kwargs):
    if told:
        with pytest.raises(ValueError, match=told):
            polyconv.stream(model, X, **kwargs)
        return None
    return polyconv.stream(model, X, **kwargs)


@pytest.mark.parametrize("name", CASES)
def test_a_model_is_as_it_was(name):
    function, told = CASES[name]
    model = Storing(function)
    before = seen(model)
    kept = [model.lists, model.lists[1], model.lists[1]["b"], model.pair, model.conv, model.bn]
    mine = [model.count, model.buffer, model._hidden, model.lists[0], model.lists[1]["a"]]
    numbers = [each.tolist() for each in mine]
    streamed = stream(model, told)
    assert seen(model) == before
    now = [model.lists, model.lists[1], model.lists[1]["b"], model.pair, model.conv, model.bn]
    assert all(a is b for a, b in zip(now, kept, strict=True))
    # Those who hold its arrays hold them still, with their numbers.
    now = [model.count, model.buffer, model._hidden, model.lists[0], model.lists[1]["a"]]
    assert all(a is b for a, b in zip(now, mine, strict=True))
    assert [each.tolist() for each in mine] == numbers
    if streamed is not None:
        streamed.step(X)
        streamed.flush()
        assert seen(model) == before


@pytest.mark.parametrize("name", CASES)
def test_random_numbers_are_drawn_as_without(name):
    function, told = CASES[name]
    model = Storing(function)
    mx.random.seed(7)
    mx.random.normal((3,))
    expected = [mx.random.normal((5,)).tolist() for _ in range(2)]
    mx.random.seed(7)
    mx.random.normal((3,))
    found = [mx.random.normal((5,)).tolist()]
    stream(model, told)
    found.append(mx.random.normal((5,)).tolist())
    assert found == expected


@pytest.mark.parametrize("name", ["streamed", "refused", "raising"])
def test_a_function_leaves_the_modules_that_it_holds_as_they_were(name):
    function, told = CASES[name]
    models = [Storing(function), Storing()]
    before = [seen(model) for model in models]

    def both(x, second=models[1]):
        return models[0](x) + second(x)

    stream(both, told)
    assert [seen(model) for model in models] == before


class Helper:
    """Of no class of MLX's."""

    def __init__(self):
        self.cache, self.seen = None, []

    def __call__(self, x):
        self.cache = self.added = x
        self.seen.append(x)
        return x * 2


class Codec:
    def __init__(self, function):
        self.net, self.helper = Storing(function), Helper()

    def decode(self, x):
        self.last = self.helper(self.net(x))
        return self.last


@pytest.mark.parametrize("name", ["streamed", "refused", "raising"])
def test_objects_that_are_no_modules_are_left_as_they_were(name):
    function, told = CASES[name]
    codec = Codec(function)
    before = seen(codec.net)
    for model in (codec.decode, lambda x: codec.decode(x)):
        stream(model, told)
        assert set(vars(codec)) == {"net", "helper"}
        assert vars(codec.helper) == {"cache": None, "seen": []}
        assert seen(codec.net) == before


def test_queues_and_ordered_dicts_are_left_as_they_were():
    class Queueing(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(4, 4)
            self.queue = deque([1, 2], maxlen=3)
            self.order = OrderedDict(b=1, a=2)
            self.counts = defaultdict(list)

        def __call__(self, x):
            self.queue.append(x)
            self.order["c"] = self.order.pop("b")
            self.counts[x.shape[1]].append(x)
            return self.linear(x)

    model = Queueing()
    polyconv.stream(model, X)
    assert model.queue == deque([1, 2])
    assert list(model.order.items()) == [("b", 1), ("a", 2)]
    assert list(reversed(model.order)) == ["a", "b"]
    assert not model.counts
    assert model.counts["new"] == []


def test_nothing_that_stays_is_missing_while_a_model_is_put_back():
    """Another thread may run the model: between `clear` and `update` it would find nothing."""

    class Watched(dict):
        def clear(self):
            raise AssertionError

    held = Watched(a=1, b=2, c=3)
    _fill(held, {"a": 1, "b": 4})
    assert list(held.items()) == [("a", 1), ("b", 4)]


def test_an_event_that_a_model_holds_stays_set():
    class Setting(nn.Module):
        def __init__(self):
            super().__init__()
            self.event, self.linear = threading.Event(), nn.Linear(4, 4)

        def __call__(self, x):
            self.event.set()
            return self.linear(x)

    model = Setting()
    polyconv.stream(model, X)
    assert model.event.is_set()


def test_a_model_may_be_called_trained_and_streamed_again_afterwards():
    mx.random.seed(3)
    model = Storing()
    mx.random.seed(3)
    expected = Storing()
    for _ in range(2):
        polyconv.stream(model, X)
    assert mx.array_equal(model(X), expected(X))
    assert model.count.item() == 1
    assert [type(each) for _, each in model.named_modules()] == [
        type(each) for _, each in expected.named_modules()
    ]


@pytest.mark.parametrize("check", [True, False])
def test_lazy_weights_stay_lazy_or_are_evaluated_but_are_the_same(check):
    model = nn.Sequential(nn.Conv1d(4, 4, 3))
    weight = model.layers[0].weight = integers(4, 3, 4) * 2
    polyconv.stream(model, X, check=check)
    assert model.layers[0].weight is weight
    assert mx.array_equal(weight, integers(4, 3, 4) * 2)


@pytest.mark.parametrize("packed", [False, True])
def test_a_converted_model_streams_without_a_warning(packed, recwarn):
    """Its weights stand in by handles while it is traced and proved: they were not replaced."""
    model = nn.Sequential(nn.Conv1d(4, 4, 3), nn.ConvTranspose1d(4, 2, 4, stride=2, padding=1))
    model.update(tree_map(lambda a: integers(*a.shape, seed=a.size), model.parameters()))
    polyconv.convert(model, packed=packed)
    stream = polyconv.stream(model, X)
    found = mx.concatenate([*[stream.step(X[:, i : i + 5]) for i in range(0, 20, 5)]], 1)
    whole = model(X)
    assert mx.array_equal(found, whole[:, : found.shape[1]])
    assert not recwarn.list
    model.layers[1].weight = 2 * model.layers[1].weight
    if packed:
        with pytest.warns(UserWarning, match="its packed weight was replaced or changed"):
            changed = polyconv.stream(model, X).step(X)
        assert not mx.array_equal(changed, whole[:, : changed.shape[1]])


def test_a_stream_prints_how_far_it_is_behind():
    stream = polyconv.stream(nn.Conv1d(4, 2, 3, padding=1), X)
    assert repr(stream) == "StreamedModel(axis=1, behind=0)"
    stream.step(X[:, :7])
    assert repr(stream) == "StreamedModel(axis=1, behind=1)"
