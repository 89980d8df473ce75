"""`convert` leaves the code of a model alone: what a method may do, it may do converted too.

Each model here was computed wrongly, or refused, when methods were made again with other globals.
"""

from __future__ import annotations

import abc
import asyncio
import functools
import importlib
import itertools
import pickle
import sys
import threading
import warnings
from typing import Generic, TypeVar

import mlx.core as mx
import mlx.core as renamed
import mlx.nn as nn
import pytest

import polyconv
from polyconv.execution.unpatched import ORIGINALS
from polyconv.gradients import observing
from polyconv.models import converted_classes
from tests.support.cases import integers
from tests.support.garbage import collect

SCALE = 3.0
NUMBERS = itertools.count()
X = integers(1, 5, 4)


class Holding(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = integers(3, 4, 4)


class Raising(Holding):
    def up(self, x):
        return mx.conv_transpose1d(x, self.weight, 2)


class Evaluating(Holding):
    def __call__(self, x):
        return eval("SCALE") * mx.conv_transpose1d(x, self.weight, 2)


class DefiningAClass(Holding):
    def __call__(self, x):
        class Doubled:
            by = SCALE * 2

        return Doubled.by * mx.conv_transpose1d(x, self.weight, 2)


class AskingGlobals(Holding):
    def __call__(self, x):
        by = globals().get("SCALE", 1.0) + ("SCALE" in globals())
        return by * mx.conv_transpose1d(x, self.weight, 2)


class Counting(Holding):
    def __call__(self, x):
        global SCALE
        before, SCALE = SCALE, 5.0
        try:
            return SCALE * mx.conv_transpose1d(x, self.weight, 2)
        finally:
            SCALE = before


def louder(method):
    @functools.wraps(method)
    def call(*args, **kwargs):
        return 2 * method(*args, **kwargs)

    return call


def unnamed(method):
    return lambda self, x: 2 * method(self, x)


class Decorated(Holding):
    @louder
    @louder
    def __call__(self, x):
        return mx.conv_transpose1d(x, self.weight, 2)


class DecoratedWithoutAWord(Holding):
    @unnamed
    def __call__(self, x):
        return mx.conv_transpose1d(x, self.weight, 2)


class Timer:
    """A decorator that is an object."""

    def __init__(self, method):
        functools.update_wrapper(self, method)

    def __get__(self, module, cls=None):
        return self if module is None else functools.partial(self, module)

    def __call__(self, *args):
        return 2 * self.__wrapped__(*args)


class DecoratedByAnObject(Holding):
    @Timer
    def __call__(self, x):
        return mx.conv_transpose1d(x, self.weight, 2)


class Explicit(nn.ConvTranspose1d):
    """Calls its base by name, not by `super()`."""

    def __init__(self):
        super().__init__(4, 3, 4, 2)
        self.weight, self.bias = integers(3, 4, 4), integers(3)

    def __call__(self, x):
        return 2 * nn.ConvTranspose1d.__call__(self, x)


class ByAnotherName(Holding):
    def __call__(self, x):
        return renamed.conv_transpose1d(x, self.weight, 2)


class ImportingInside(Holding):
    def __call__(self, x):
        import mlx.core

        return mlx.core.conv_transpose1d(x, self.weight, 2)


class ImportingAName(Holding):
    def __call__(self, x):
        from mlx.core import conv_transpose1d

        return conv_transpose1d(x, self.weight, 2)


class ByAProperty(Holding):
    @property
    def kernel(self):
        return mx.conv_transpose1d(X, self.weight, 2)

    def __call__(self, x):
        return self.kernel + x.sum()


class ByAStaticMethod(Holding):
    @staticmethod
    def upsampled(x, w):
        return mx.conv_transpose1d(x, w, 2)

    def __call__(self, x):
        return self.upsampled(x, self.weight)


class ByAMethodOfItsBase(Raising):
    """`super()` finds the base's method behind what a subclass made for it could wrap."""

    def up(self, x):
        return x

    def __call__(self, x):
        return super().up(x)


class Generating(Holding):
    def chunks(self, x):
        for begin in range(0, 4, 2):
            asked = yield mx.conv_transpose1d(x[:, begin : begin + 2], self.weight, 2)
            assert asked is None
        return 3

    def __call__(self, x):
        return mx.concatenate(list(self.chunks(x)), 1)


class Awaiting(Holding):
    async def run(self, x):
        await asyncio.sleep(0)
        return mx.conv_transpose1d(x, self.weight, 2)

    def __call__(self, x):
        return asyncio.run(self.run(x))


MODELS = (
    Evaluating,
    DefiningAClass,
    AskingGlobals,
    Counting,
    Decorated,
    DecoratedWithoutAWord,
    DecoratedByAnObject,
    Explicit,
    ByAnotherName,
    ImportingInside,
    ImportingAName,
    ByAProperty,
    ByAStaticMethod,
    ByAMethodOfItsBase,
    Generating,
    Awaiting,
)


def told_ops():
    """The ops that come to polyconv inside."""
    ops = []
    return ops, observing.observed(lambda op, problem, packed: ops.append(op))


def agrees_converted(model, *inputs):
    """Converted a model gives the same, by polyconv alone, and reverted by MLX alone."""
    expected, cls = model(*inputs), type(model)
    own, attributes = vars(cls).copy(), vars(model).copy()
    report = polyconv.convert(model)
    ops, seen = told_ops()
    with seen:
        got = model(*inputs)
    assert mx.array_equal(got, expected)
    assert report.converted
    assert ops
    assert sum(each.calls for each in report) == len(ops)
    assert not report.not_reached
    assert vars(cls) == own
    polyconv.revert(model)
    ops, seen = told_ops()
    with seen:
        assert mx.array_equal(model(*inputs), expected)
    assert not ops
    assert type(model) is cls
    assert vars(model) == attributes
    collect()
    assert not cls.__subclasses__()
    assert {name: getattr(mx, name) for name in ORIGINALS} == ORIGINALS


@pytest.mark.parametrize("cls", MODELS)
def test_a_converted_method_does_what_it_did(cls):
    agrees_converted(cls(), X)


@pytest.mark.parametrize("cls", [Generating, Awaiting])
def test_what_runs_on_behind_the_call_is_polyconv_s_too(cls):
    model = cls()
    polyconv.convert(model)
    ops, seen = told_ops()
    with seen:
        if cls is Awaiting:
            asyncio.run(model.run(X))
        else:
            chunks = model.chunks(X)
            next(chunks)
            mx.conv_transpose1d(X, model.weight, 2)  # between two chunks: MLX's
            next(chunks)
            with pytest.raises(StopIteration) as end:
                next(chunks)
            assert end.value.value == 3
    assert len(ops) == (1 if cls is Awaiting else 2)


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A model in a package of its own, which imports its neighbour inside the method."""
    name = f"a_package_{next(NUMBERS)}"
    (tmp_path / name).mkdir()
    (tmp_path / name / "__init__.py").write_text("")
    (tmp_path / name / "helping.py").write_text(
        "from mlx.core import conv_transpose1d\n"
        "BY = 3.0\n"
        "def helped(x, w):\n    return conv_transpose1d(x, w, 2)\n"
    )
    (tmp_path / name / "models.py").write_text(
        "import warnings\n"
        "import mlx.core as mx\nimport mlx.nn as nn\n"
        "class Model(nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.weight = mx.arange(48).reshape(3, 4, 4).astype(mx.float32)\n"
        "    def __call__(self, x):\n"
        "        from .helping import BY, helped\n"
        "        from . import helping\n"
        "        warnings.warn('an advice')\n"
        "        return BY * helped(x, self.weight) + mx.conv_transpose1d(x, self.weight, 2)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    yield name
    for each in [each for each in sys.modules if each.partition(".")[0] == name]:
        del sys.modules[each]


def test_relative_imports_inside_a_method(package):
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=package)  # errors otherwise
        agrees_converted(importlib.import_module(f"{package}.models").Model(), X)


def test_a_module_that_the_call_imports_keeps_mlx_s_functions(package):
    model = importlib.import_module(f"{package}.models").Model()
    polyconv.convert(model)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model(X)
    helping = sys.modules[f"{package}.helping"]
    assert helping.conv_transpose1d is ORIGINALS["conv_transpose1d"]


def test_filters_of_warnings_by_module_hold(package):
    model = importlib.import_module(f"{package}.models").Model()
    polyconv.convert(model)
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("ignore")
        warnings.filterwarnings("always", module=rf"{package}\.models")
        model(X)
    assert [str(each.message) for each in seen] == ["an advice"]


def test_registries_of_subclasses_do_not_see_what_convert_makes():
    registry = []

    class Registered(Holding):
        def __init_subclass__(cls, **options):
            registry.append(cls)

    class Mine(Registered):
        def __call__(self, x):
            return mx.conv_transpose1d(x, self.weight, 2)

    class Layer(nn.ConvTranspose1d):
        def __init_subclass__(cls, *, name, **options):  # strict: a name has to be given
            registry.append(cls)

        def __call__(self, x):
            return super().__call__(x)

    before = list(registry)
    layer = Layer(4, 3, 4, 2)
    layer.weight, layer.bias = integers(3, 4, 4), integers(3)
    for model in (Mine(), layer):
        agrees_converted(model, X)
        polyconv.convert(model, exploit_sparsity=True, packed=True)
        polyconv.revert(model)
    assert registry == before == [Mine]


def test_a_metaclass_that_keeps_its_classes_does_not_see_them():
    made = []

    class Keeping(type(nn.Module)):
        def __new__(cls, name, bases, members):
            made.append(name)
            return super().__new__(cls, name, bases, members)

        def __init__(cls, name, bases, members):
            made.append(name)
            super().__init__(name, bases, members)

    class Mine(Holding, metaclass=Keeping):
        def __call__(self, x):
            return mx.conv_transpose1d(x, self.weight, 2)

    agrees_converted(Mine(), X)
    assert made == ["Mine", "Mine"]


def test_a_hook_that_somebody_gave_all_modules_does_not_see_them(monkeypatch):
    seen = []
    hook = classmethod(lambda cls, **options: seen.append(cls))
    monkeypatch.setattr(nn.Module, "__init_subclass__", hook, raising=False)
    layer = nn.ConvTranspose1d(4, 3, 4, 2)
    polyconv.convert(layer)
    assert isinstance(layer, polyconv.PolyConvTranspose1d)
    assert not seen


T = TypeVar("T")


class Abstract(Holding, abc.ABC, Generic[T]):
    @abc.abstractmethod
    def up(self, x: T) -> T: ...

    def __call__(self, x):
        return self.up(x)


class Concrete(Abstract[mx.array]):
    def up(self, x):
        return mx.conv_transpose1d(x, self.weight, 2)


def test_abstract_and_generic_classes():
    model = Concrete()
    agrees_converted(model, X)
    polyconv.convert(model)
    assert isinstance(model, Abstract)
    assert isinstance(model, type(model))
    twin = pickle.loads(pickle.dumps(model))
    assert mx.array_equal(twin(X), model(X))
    assert polyconv.revert(twin) == ["(model)"]


def in_a_thread(call):
    found = []

    def run():
        try:
            found.append(call())
        except Exception as error:
            found.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(60)
    return found[0]


@pytest.mark.parametrize("options", [{}, {"exploit_sparsity": True}, {"packed": True}])
def test_weights_that_this_thread_cannot_evaluate_are_converted(options):
    model = nn.Sequential(nn.ConvTranspose1d(4, 4, 4, 2), Explicit())
    model.layers[0].weight = integers(4, 4, 4) + integers(4, 4, 4)  # not evaluated yet
    report = in_a_thread(lambda: polyconv.convert(model, **options))
    assert not isinstance(report, Exception), report
    assert len(report.converted) == 2
    x = integers(1, 5, 4)
    ours = model(x)
    polyconv.revert(model)
    assert mx.array_equal(model(x), ours)


def test_a_predicate_that_raises_leaves_the_model_as_it_was():
    model = nn.Sequential(nn.ConvTranspose1d(4, 4, 4, 2), nn.ConvTranspose1d(4, 4, 4, 2))
    with pytest.raises(ZeroDivisionError):
        polyconv.convert(model, lambda path, layer: path == "layers.0" or 1 / 0)
    assert [type(layer) for layer in model.layers] == [nn.ConvTranspose1d] * 2


class Both(Holding):
    """Calls MLX itself, and a child."""

    def __init__(self):
        super().__init__()
        self.child = nn.ConvTranspose1d(3, 3, 4, 2)
        self.child.weight = integers(3, 4, 3)

    def __call__(self, x):
        return self.child(mx.conv_transpose1d(x, self.weight, 2))


def test_a_layer_that_the_predicate_excludes_is_mlx_s_in_a_converted_one_too():
    model = Both()
    expected = model(X)
    report = polyconv.convert(model, lambda path, layer: path != "child")
    assert [each.path for each in report.converted] == ["(model)"]
    ops, seen = told_ops()
    with seen:
        assert mx.array_equal(model(X), expected)
    assert len(ops) == 1
    with polyconv.patched():
        ops, seen = told_ops()
        with seen:
            model(X)
    assert len(ops) == 2
    (told,) = polyconv.convert(model)  # the rest, now without a predicate
    assert told.path == "child"
    assert told.left_alone == ""
    assert polyconv.revert(model) == ["(model)", "child"]
    polyconv.convert(model, lambda path, layer: path != "child")
    assert polyconv.revert(model) == ["(model)"]
    assert type(model.child) is nn.ConvTranspose1d


class KeepingTheFunction(Raising):
    def __init__(self):
        super().__init__()
        self.function = mx.conv_transpose1d

    def __call__(self, x, function=mx.conv_transpose1d):
        return self.function(x, self.weight, 2) + function(x, self.weight, 2)


def test_what_convert_cannot_reach_is_told():
    model = KeepingTheFunction()
    expected = model(X)
    report = polyconv.convert(model)
    assert "MLX's own function is kept" in report[0].note
    assert "`function`" in report[0].note
    assert mx.array_equal(model(X), expected)
    assert report[0].calls == 0
    assert report.not_reached == [report[0]]
    assert "it ran, and none of its transposed convolutions came to polyconv" in str(report)


TABLE = {1: mx.conv_transpose1d}


class CallingByATable(Holding):
    def __call__(self, x):
        return TABLE[1](x, self.weight, 2)


class WithAChildOfThatName(Holding):
    """Not a call of MLX's: an attribute has the name."""

    def __init__(self):
        super().__init__()
        self.conv_transpose1d = nn.ConvTranspose1d(4, 3, 4, 2)

    def __call__(self, x):
        return mx.abs(self.conv_transpose1d(x))


def test_a_function_in_a_table_is_left_alone_with_a_reason():
    with pytest.warns(UserWarning, match="kept in `TABLE`, which is not reached"):
        (told,) = polyconv.convert(CallingByATable(), lambda path, layer: 1 / 0)
    assert told.left_alone
    assert told.saving is None


def test_an_attribute_by_that_name_is_no_call():
    report = polyconv.convert(WithAChildOfThatName())
    assert [each.path for each in report] == ["conv_transpose1d"]


def test_calls_are_counted_for_the_layer_of_the_report_alone():
    one, other = Raising(), Raising()
    (told,) = polyconv.convert(one)
    polyconv.convert(other)
    converted_classes._COUNTS[id(other)] = told.count  # as if it stood where a dead one had stood
    other.up(X)
    assert told.calls == 0
    one.up(X)
    assert told.calls == 1
    assert pickle.loads(pickle.dumps(told)).calls == 1


def test_another_thread_calls_mlx_while_a_converted_model_runs():
    go_on, entered = threading.Event(), threading.Event()

    class Pausing(Holding):
        def __call__(self, x):
            entered.set()
            go_on.wait(60)
            return mx.conv_transpose1d(x, self.weight, 2)

    model = Pausing()
    mx.eval(model.parameters())
    polyconv.convert(model)
    seen_there = []

    def work():
        ops, seen = told_ops()
        with seen:
            mx.eval(model(mx.ones((1, 5, 4))))
        seen_there.extend(ops)

    thread = threading.Thread(target=work)
    thread.start()
    entered.wait(60)
    ops, seen = told_ops()
    with seen:
        mx.conv_transpose1d(X, model.weight, 2)
    go_on.set()
    thread.join(60)
    assert (len(seen_there), ops) == (1, [])
    assert mx.conv_transpose1d is ORIGINALS["conv_transpose1d"]
