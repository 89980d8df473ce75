"""Where MLX's functions are bound: found once, and afterwards only in what is new."""

from __future__ import annotations

import sys
import types

import mlx.core as mx
import pytest

import polyconv
from polyconv.execution.unpatched import ORIGINALS
from polyconv.models.dispatching import BINDINGS
from tests.models.test_patching import Counted
from tests.support.cases import integers

X, W = integers(1, 5, 4), integers(3, 4, 4)


def own():
    """MLX's own function. A global would be bound to another one, inside of blocks."""
    return ORIGINALS["conv_transpose1d"]


@pytest.fixture
def importing(monkeypatch):
    """Makes modules with names, as if they had just been imported."""

    def module(name, code="from mlx.core import conv_transpose1d as up"):
        made = types.ModuleType(name)
        monkeypatch.setitem(sys.modules, name, made)
        exec(code, vars(made))
        return made

    return module


def walked():
    """The modules that the beginning and the end of a block walked."""
    with polyconv.patched():
        begin = BINDINGS.walked
    return set(begin), set(BINDINGS.walked)


def test_a_second_block_walks_nothing_that_the_first_has_walked(importing):
    importing("bound_before")
    walked()
    assert walked() == ({"__main__"}, {"__main__"})
    importing("bound_since")
    assert walked() == ({"__main__", "bound_since"}, {"__main__"})


def test_a_converted_call_walks_nothing_and_finds_what_was_imported_since(importing):
    made = importing(
        "a_model",
        "import mlx.core as mx, mlx.nn as nn, sys\n"
        "class Model(nn.Module):\n"
        "    def __init__(self, w):\n"
        "        super().__init__()\n"
        "        self.weight = w\n"
        "    def __call__(self, x):\n"
        "        late = sys.modules.get('imported_late')\n"
        "        y = mx.conv_transpose1d(x, self.weight, 2)\n"
        "        return y + late.up(x, self.weight, 2) if late else y\n",
    )
    model = made.Model(W)
    (told,) = polyconv.convert(model)
    model(X)
    BINDINGS.walked = []
    model(X)
    assert BINDINGS.walked == []
    late = importing("imported_late")
    model(X)
    assert "imported_late" in BINDINGS.walked
    assert told.calls == 4
    assert late.up is own()


def test_a_name_that_a_walked_module_gets_later_is_found(importing):
    module = importing("named_late", "")
    walked()
    module.up = own()
    with polyconv.patched() as rebound, Counted() as ops:
        module.up(X, W, 2)
        module.again = mx.conv_transpose1d  # bound inside
    assert ops == ["conv_transpose1d"]
    assert "named_late.up" in rebound
    assert module.up is module.again is own()


def test_what_a_cell_of_a_notebook_binds_is_found(monkeypatch):
    main = sys.modules["__main__"]
    monkeypatch.setattr(main, "a_name", None, raising=False)
    walked()
    main.a_name = own()  # as many names as before
    with polyconv.patched():
        assert main.a_name is mx.conv_transpose1d is not own()
    assert main.a_name is own()


def test_a_module_in_the_middle_of_its_import_is_walked_again(importing):
    module = importing("in_the_middle", "early = 1")
    module.__spec__ = types.SimpleNamespace(_initializing=True)
    walked()
    module.early = own()
    assert "in_the_middle" in walked()[0]
    module.__spec__._initializing = False
    assert "in_the_middle" in walked()[0]
    assert "in_the_middle" not in walked()[0]


def test_a_module_that_is_gone_at_the_end_is_restored(importing, monkeypatch):
    module = importing("gone")
    with polyconv.patched():
        assert module.up is not own()
        monkeypatch.delitem(sys.modules, "gone")
    assert module.up is own()


def test_a_module_in_the_place_of_another_is_found(importing):
    importing("exchanged")
    walked()
    second = importing("exchanged")
    with polyconv.patched(), Counted() as ops:
        second.up(X, W, 2)
    assert ops
    assert second.up is own()


def test_what_somebody_binds_inside_by_that_name_is_left_there(importing):
    module = importing("rebound")
    with polyconv.patched():
        module.up = print
    assert module.up is print
    with polyconv.patched():
        assert module.up is print


def test_lazy_modules_are_not_loaded(monkeypatch):
    class Lazy(types.ModuleType):
        def __getattribute__(self, name):
            raise AssertionError(f"loaded for {name}")

    monkeypatch.setitem(sys.modules, "a_lazy_one", Lazy("a_lazy_one"))
    walked()


def test_what_somebody_else_has_put_into_mx_stays(monkeypatch):
    """A profiler's function, say. Outside of converted modules it is called as before."""
    called = []

    def profiled(*args, **kwargs):
        called.append(1)
        return own()(*args, **kwargs)

    class Model(polyconv.models.converting.nn.Module):
        def __call__(self, x):
            return mx.conv_transpose1d(x, W, 2)

    model = Model()
    (told,) = polyconv.convert(model)
    monkeypatch.setattr(mx, "conv_transpose1d", profiled)
    expected = model(X)
    assert (told.calls, called) == (1, [])
    assert mx.conv_transpose1d is profiled
    assert mx.array_equal(mx.conv_transpose1d(X, W, 2), expected)
    assert called == [1]
