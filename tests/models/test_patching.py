"""`patched()`: what is taken over inside, and that nothing is left of it behind."""

from __future__ import annotations

import sys
import threading
import types
from itertools import islice

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

import polyconv
from polyconv.execution.unpatched import ORIGINALS
from polyconv.gradients import observing
from tests.support.cases import integers, with_output

X, W = integers(1, 5, 4), integers(3, 4, 4)


def importing():
    """A module that did `from mlx.core import conv_transpose1d` before, also in a class."""
    module = types.ModuleType("an_importer")
    code = """
import mlx.core as mx
from mlx.core import conv_transpose1d, conv_general as general
class Layer:
    function = staticmethod(conv_transpose1d)
    plain = conv_transpose1d
def kept(x, w, function=conv_transpose1d):
    return function(x, w, 2)
def call(x, w):
    return conv_transpose1d(x, w, 2)
"""
    exec(code, vars(module))
    for value in vars(module).values():
        if isinstance(value, type) and value.__name__ == "Layer":
            value.__module__ = "an_importer"
    return module


@pytest.fixture
def importer(monkeypatch):
    module = importing()
    monkeypatch.setitem(sys.modules, "an_importer", module)
    return module


def snapshot(*modules):
    return [dict(vars(m)) for m in (mx, nn, nn.layers.convolution_transpose, *modules)]


class Counted:
    """How many transposed convolutions come to polyconv inside."""

    def __enter__(self):
        self._watch = observing.observed(lambda op, problem, packed: self.ops.append(op))
        self.ops = []
        self._watch.__enter__()
        return self.ops

    def __exit__(self, *error):
        self._watch.__exit__(*error)


CALLS = {
    "conv_transpose1d": lambda: mx.conv_transpose1d(X, W, 2),
    "conv_transpose2d": lambda: mx.conv_transpose2d(X[:, None], W[:, None], (1, 2)),
    "conv_transpose3d": lambda: mx.conv_transpose3d(X[:, None, None], W[:, None, None], 2),
    "conv_general": lambda: mx.conv_general(X, W, 1, 3, 1, 2),
    "conv_general by name": lambda: mx.conv_general(X, W, padding=3, input_dilation=[2]),
    "layer": lambda: LAYER(X),
}
LAYER = nn.ConvTranspose1d(4, 3, 4, 2)


@pytest.mark.parametrize("name", CALLS)
def test_what_is_taken_over(name):
    y = CALLS[name]()
    with polyconv.patched(cpu_convs=False), Counted() as ops:
        inside = CALLS[name]()
    assert len(ops) == 1
    assert mx.allclose(inside, y)
    with Counted() as ops:
        assert mx.array_equal(CALLS[name](), y)
    assert not ops


def test_plain_convolutions_are_taken_over_on_the_cpu_where_that_is_asked():
    calls = (
        lambda: mx.conv1d(X, W, padding=3, dilation=2),
        lambda: mx.conv_general(X, W, padding=3, kernel_dilation=2),
        lambda: nn.Conv2d(4, 3, 3, groups=1)(mx.ones((1, 4, 4, 4))),
    )
    with polyconv.patched(cpu_convs=False), Counted() as ops:
        expected = [call() for call in calls[:2]]
        calls[2]()
    assert not ops
    with polyconv.patched(), Counted() as ops:
        got = [call() for call in calls[:2]]
        calls[2]()
    on_cpu = mx.default_device() == mx.cpu
    assert len(ops) == (3 if on_cpu else 0)
    for a, b in zip(got, expected):
        assert mx.array_equal(a, b)


def test_importing_modules_are_rebound_and_told(importer):
    with polyconv.patched() as rebound, Counted() as ops:
        importer.call(X, W)
        importer.Layer.function(X, W, 2)
        importer.Layer.plain(X, W, 2)
        importer.general(X, W, input_dilation=2, padding=3)
        assert len(ops) == 4
        importer.kept(X, W)  # a default holds the original
        assert len(ops) == 4
    told = [name for name in rebound if name.startswith("an_importer")]
    assert sorted(told) == [
        "an_importer.Layer.function",
        "an_importer.Layer.plain",
        "an_importer.conv_transpose1d",
        "an_importer.general",
    ]


def test_a_module_that_was_loaded_anew_is_told_once(importer, monkeypatch):
    """Its classes may live on, with the same names."""
    with polyconv.patched() as before:
        pass
    again = importing()
    monkeypatch.setitem(sys.modules, "an_importer", again)
    with polyconv.patched() as rebound:
        assert importer.Layer.function is again.Layer.function is mx.conv_transpose1d
    assert sorted(rebound) == sorted(before)


def test_nothing_is_left_of_it_after_an_error_nested_or_imported_inside(importer):
    before, kept = snapshot(importer), []

    def fails():
        with polyconv.patched():
            with polyconv.patched(cpu_convs=False), polyconv.patched():
                late = types.ModuleType("a_late_importer")
                exec("from mlx.core import conv_transpose1d", vars(late))
                sys.modules["a_late_importer"] = late
                kept.append(mx.conv_transpose1d)
            assert mx.conv_transpose1d is kept[0]
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fails()
    assert snapshot(importer) == before
    for held in (importer.Layer.function, importer.Layer.plain):
        assert held is ORIGINALS["conv_transpose1d"]
    assert sys.modules.pop("a_late_importer").conv_transpose1d is ORIGINALS["conv_transpose1d"]
    with Counted() as ops:  # what somebody kept is MLX's again
        assert mx.array_equal(kept[0](X, W, 2), mx.conv_transpose1d(X, W, 2))
    assert not ops


def test_the_innermost_block_says_whether_plain_convolutions_are_taken():
    call = lambda: mx.conv1d(X, W)  # noqa: E731
    with polyconv.patched(cpu_convs=False), Counted() as ops:
        call()
        assert not ops
        with polyconv.patched():
            call()
        assert len(ops) == (mx.default_device() == mx.cpu)
        before = len(ops)
        call()
        assert len(ops) == before


def test_patch_and_unpatch_and_blocks_within():
    before = snapshot()
    polyconv.unpatch()
    assert snapshot() == before
    try:
        polyconv.patch()
        polyconv.patch()
        with polyconv.patched():
            polyconv.unpatch()
            with Counted() as ops:
                mx.conv_transpose1d(X, W, 2)
            assert ops == ["conv_transpose1d"]
        assert snapshot() == before
        polyconv.patch()
        with polyconv.patched():
            pass
        assert mx.conv_transpose1d is not ORIGINALS["conv_transpose1d"]
    finally:
        polyconv.unpatch()
    assert snapshot() == before


def test_threads_share_it_and_the_last_one_ends_it():
    before, results, errors = snapshot(), [], []
    started, go_on = threading.Barrier(5), threading.Event()
    y = np.array(mx.conv_transpose1d(X, W, 2))

    def work(fails):
        try:
            with mx.stream(mx.new_stream(mx.default_device())), polyconv.patched(fails):
                started.wait(10)
                for _ in range(20):
                    results.append(np.array_equal(np.array(mx.conv_transpose1d(X, W, 2)), y))
                go_on.wait(10)
                if fails:
                    raise ZeroDivisionError
        except ZeroDivisionError as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(i % 2 == 0,)) for i in range(4)]
    for thread in threads:
        thread.start()
    started.wait(10)
    assert mx.conv_transpose1d is not ORIGINALS["conv_transpose1d"]
    go_on.set()
    for thread in threads:
        thread.join(30)
    assert (len(results), all(results), len(errors)) == (80, True, 2)
    assert snapshot() == before


def test_compiled_inside_is_polyconv_s_and_before_is_mlx_s():
    # `mx.compile` knows a function that it compiled before.
    traced_before = mx.compile(lambda x, w: mx.conv_transpose1d(x, w, 2))
    traced_inside = mx.compile(lambda x, w: mx.conv_transpose1d(x, w, 2))
    y = traced_before(X, W)
    with polyconv.patched(), Counted() as ops:
        assert mx.allclose(traced_before(X, W), y)
        assert not ops
        assert mx.allclose(traced_inside(X, W), y)
        assert ops == ["conv_transpose1d"]
    assert mx.allclose(traced_inside(X, W), y)


def test_what_polyconv_refuses_is_left_to_mlx_in_its_words():
    with pytest.raises(ValueError) as theirs:
        mx.conv_transpose1d(X, W[..., :3])
    with polyconv.patched(), pytest.raises(ValueError) as ours:
        mx.conv_transpose1d(X, W[..., :3])
    assert str(ours.value) == str(theirs.value)
    with polyconv.patched():
        weight = W.astype(mx.complex64)
        assert mx.conv_transpose1d(X, weight).dtype == mx.complex64
        with pytest.raises(TypeError):
            mx.conv_transpose1d(X)


def test_positional_groups_land_where_mlx_has_them():
    # A caller that took the sixth argument for groups gets an output padding from MLX.
    y = mx.conv_transpose1d(X, W, 2, 0, 1, 1)
    with polyconv.patched():
        assert mx.conv_transpose1d(X, W, 2, 0, 1, 1).shape == y.shape == (1, 13, 3)


def test_functions_look_like_mlx_s():
    with polyconv.patched():
        assert mx.conv_transpose1d.__doc__ == ORIGINALS["conv_transpose1d"].__doc__
        assert mx.conv_transpose1d.__name__ == "conv_transpose1d"


def test_gradients_inside_are_polyconv_s():
    loss = lambda x, w: mx.conv_transpose1d(x, w, 2).square().sum()  # noqa: E731
    expected = mx.grad(loss, (0, 1))(X, W)
    with polyconv.patched(), Counted() as ops:
        got = mx.grad(loss, (0, 1))(X, W)
    assert ops
    assert all(mx.allclose(a, b) for a, b in zip(got, expected))


def test_random_calls_agree_with_the_reference():
    with polyconv.patched():
        for case in islice(with_output(), 150):
            x, w = (mx.array(a).astype(getattr(mx, case.dtype)) for a in case.data())
            got = np.array(case.call(x, w, "", lib=mx).astype(mx.float32))
            assert np.array_equal(got, case.reference()), case


def test_blocks_of_every_kind_end_in_any_order(capsys):
    before = snapshot()
    for makers in ((polyconv.watch, polyconv.patched), (polyconv.patched, polyconv.watch)):
        first, second = (make() for make in makers)
        first.__enter__()
        second.__enter__()
        with Counted() as ops:
            mx.conv_transpose1d(X, W, 2)
        assert ops == ["conv_transpose1d"]
        first.__exit__(None, None, None)
        second.__exit__(None, None, None)
        assert snapshot() == before
    watches = [polyconv.watch(), polyconv.watch()]
    for each in watches:
        each.__enter__()
    for each in watches:
        each.__exit__(None, None, None)
    assert snapshot() == before


def test_a_class_that_does_not_let_itself_be_changed_is_left_alone(monkeypatch):
    class Closed(type):
        def __setattr__(cls, name, value):
            raise AttributeError(name)

    held = {"f": ORIGINALS["conv_transpose1d"], "__module__": "a_closed_one"}
    module = types.ModuleType("a_closed_one")
    module.Held = Closed("Held", (), held)
    monkeypatch.setitem(sys.modules, "a_closed_one", module)
    before = snapshot()
    with polyconv.patched() as rebound:
        assert mx.conv_transpose1d is not ORIGINALS["conv_transpose1d"]
        assert not [name for name in rebound if name.startswith("a_closed_one")]
    assert snapshot() == before
