"""Models that threads run while something else happens to them: their results stay the same.

Data are small integers, compared with `==`.
"""

import dataclasses
import itertools
import json
import threading

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

import polyconv
from polyconv.execution.unpatched import ORIGINALS
from polyconv.models import converted_classes
from polyconv.models.watching import Watched
from polyconv.planning.rates import CPU_RATES
from tests.support.threading_tools import forget, in_threads, ints

X1, W1 = ints((2, 9, 4)), ints((6, 5, 4), 1)


class Up(nn.Module):
    """A layer of MLX's, a subclass of one, and a call of `mx` itself."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.ConvTranspose1d(4, 4, 5, 3), Doubled(4, 4, 4, 2)
        self.first.weight, self.first.bias = ints((4, 5, 4), 1), ints((4,), 2)
        self.second.weight, self.second.bias = ints((4, 4, 4), 3), ints((4,), 4)
        self.kernel = ints((2, 3, 4), 5)

    def __call__(self, x):
        return mx.conv_transpose1d(self.second(self.first(x)), self.kernel, 2)


class Doubled(nn.ConvTranspose1d):
    def __call__(self, x):
        return 2 * super().__call__(x)


def _while_it_runs(model, meanwhile, x=X1, n_calls=40, n_rounds=5):
    """Threads call the model so often, and until something has happened so often."""
    expected, rounds, is_over = np.array(model(x)), [], threading.Event()

    def work(i):
        for n in itertools.count():
            if n >= n_calls and (len(rounds) >= n_rounds or is_over.is_set()):
                return
            assert (np.array(model(x)) == expected).all()

    def happening():
        try:
            meanwhile()
            rounds.append(1)
        except BaseException:
            is_over.set()
            raise

    in_threads(work, 3, meanwhile=happening)


def _convert_and_revert(model):
    assert polyconv.convert(model).converted
    assert polyconv.revert(model)


def _patch(model):
    with polyconv.patched():
        pass


def _stream(model):
    streamed = polyconv.stream(model)
    y = mx.concatenate([streamed.step(X1), streamed.flush()], 1)
    assert (y == model(X1)).all().item()


def _convert_to_sparse_and_revert(model):
    polyconv.convert(model, exploit_sparsity=True)
    polyconv.revert(model)


def _convert_packed_and_revert(model):
    assert polyconv.convert(model, packed=True).converted
    assert polyconv.revert(model)


HAPPENING = [_convert_and_revert, _convert_packed_and_revert, _patch, _stream]


@pytest.mark.parametrize("happening", HAPPENING)
def test_a_model_runs_while(happening):
    model = Up()
    _while_it_runs(model, lambda: happening(model))
    assert type(model.first) is nn.ConvTranspose1d


def test_a_converted_model_runs_while_blocks_of_patches_begin_and_end():
    model = Up()
    (*_, told) = polyconv.convert(model)
    _while_it_runs(model, lambda: _patch(model))
    assert mx.conv_transpose1d is ORIGINALS["conv_transpose1d"]
    assert told.calls > 0


def test_a_converted_model_runs_while_another_is_streamed():
    """`stream` has the lock while its model runs; a call of a converted model waits for no lock."""
    streamed, converted = nn.Sequential(Pausing()), Up()
    mx.eval(converted.parameters())
    polyconv.convert(converted)
    entered, done = threading.Event(), threading.Event()
    streamed.layers[0].pause = lambda: (entered.set(), done.wait(60))
    found = []

    def run():
        entered.wait(60)
        found.append(np.array(converted(ints((2, 9, 4)))).shape)
        done.set()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    polyconv.stream(streamed, ints((1, 9, 4)))
    assert found
    thread.join(60)


def test_a_block_diagonal_model_runs_while_it_is_converted():
    layer = nn.ConvTranspose1d(4, 4, 5, 3)
    dense = np.array(ints((4, 5, 4), 1))
    dense[:2, :, 2:] = dense[2:, :, :2] = 0
    layer.weight, layer.bias = mx.array(dense), ints((4,), 2)
    mx.eval(layer.parameters())
    model = nn.Sequential(layer)
    _while_it_runs(model, lambda: _convert_to_sparse_and_revert(model))


def test_a_layer_that_is_reverted_in_the_middle_of_a_call():
    """As any thread may be stopped between two lines."""
    model = nn.Sequential(nn.ConvTranspose1d(4, 6, 5, 3))
    model.layers[0].weight = W1
    layer, expected = model.layers[0], np.array(model(X1))
    polyconv.convert(model)
    call = type(layer).__call__
    polyconv.revert(model)
    assert type(layer) is nn.ConvTranspose1d
    assert (np.array(call(layer, X1)) == expected).all()


def test_a_layer_that_is_reverted_in_the_middle_of_a_look_up():
    layer = nn.ConvTranspose1d(4, 6, 5, 3)
    polyconv.convert(layer)
    look_up = type(layer).__getattr__
    polyconv.revert(layer)
    with pytest.raises(AttributeError, match="_weight_and_groups"):
        look_up(layer, "_weight_and_groups")
    assert look_up(layer, "weight") is layer.weight


def test_a_model_draws_random_numbers_while_it_is_streamed():
    """Which a stream may not do, but a thread that only runs the model may."""
    model = Noisy()
    entered, go_on = threading.Event(), threading.Event()
    model.pause = lambda: (entered.set(), go_on.wait(60))
    found = []

    def run():
        entered.wait(60)
        try:
            found.append(model.drawn((3,)).shape)
        except Exception as error:
            found.append(error)
        go_on.set()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    polyconv.stream(model, ints((1, 9, 4)))
    thread.join(60)
    assert found == [(3,)]


class Noisy(nn.Module):
    def __call__(self, x):
        self.pause()
        return x * 2

    def drawn(self, shape):
        return mx.random.normal(shape)


def test_a_model_is_converted_while_it_is_streamed():
    """The one waits for the other: else the stream would put back the class from before."""
    model = nn.Sequential(nn.ConvTranspose1d(4, 6, 5, 3), Pausing())
    entered, go_on = threading.Event(), threading.Event()
    model.layers[1].pause = lambda: (entered.set(), go_on.wait(60))
    told = []

    def run():
        entered.wait(60)
        threading.Timer(0.3, go_on.set).start()
        told.append(polyconv.convert(model))

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    polyconv.stream(model, ints((1, 9, 4)))
    thread.join(60)
    assert len(told[0].converted) == 1
    assert isinstance(model.layers[0], polyconv.PolyConvTranspose1d)


class Pausing(nn.Module):
    def __call__(self, x):
        self.pause()
        return x + 1


def test_threads_convert_models_of_one_class():
    class Own(nn.ConvTranspose1d):
        pass

    def work(i):
        model = nn.Sequential(Own(4, 6, 5, 3))
        polyconv.convert(model)
        return type(model.layers[0])

    for _ in range(5):
        converted_classes._CLASSES.clear()
        assert len(set(in_threads(work, 8))) == 1


def test_watch_counts_what_all_threads_call(capsys):
    model = Up()
    n_calls = 60

    def work(i):
        for _ in range(n_calls):
            mx.eval(model(X1))

    with polyconv.watch(model) as seen:
        in_threads(work, 4, meanwhile=lambda: str(seen))
    counts = {site.where: site.n_calls for site in seen.sites.values()}
    assert sum(counts.values()) == 3 * 4 * n_calls, counts
    capsys.readouterr()
    seen, (problem,) = Watched(None), seen.sites["first", "mx.conv_transpose1d"].problems

    def add(i):
        for _ in range(3000):
            seen.add("here", "op", problem, 0.5)

    in_threads(add)
    assert [(site.n_calls, site.seconds) for site in seen.sites.values()] == [(12000, 6000)]


# Rates.

RATES = {
    "per_mac": 1e-10,
    "per_panel_mac": 1e-10,
}


@pytest.fixture
def rates(tmp_path):
    """A file that makes convolutions by themselves cheap, or dear."""
    path = tmp_path / "rates.json"
    path.write_text(json.dumps({"rates": {"cpu": dataclasses.asdict(CPU_RATES) | RATES}}))
    yield path
    polyconv.use_rates(None)


def test_rates_change_while_a_model_runs(rates):
    model = Up()
    polyconv.convert(model)

    def happening():
        polyconv.use_rates(rates)
        forget()
        polyconv.use_rates(None)

    _while_it_runs(model, happening)
