"""`max_workspace=`: the least that is enough is told, and whatever takes a limit keeps it."""

import random
from contextlib import nullcontext

import mlx.core as mx
import mlx.nn as nn
import pytest

import polyconv
from polyconv.planning.tiling import Room
from polyconv.problem.arguments import NoRoomError
from tests.support.cases import draw_case, integers
from tests.support.tiled import LIMIT, counted, limited, same

MANY = 2**60


def test_a_limit_of_one_tile_is_told_and_is_enough():
    x, w = integers(2, 300, 4), integers(6, 4, 4, seed=1)
    with pytest.raises(NoRoomError, match=r"^\[conv_transpose1d\] max_workspace must be") as told:
        polyconv.conv_transpose1d(x, w, 2, max_workspace=1)
    least = int(str(told.value).split("at least ")[1].split(" bytes")[0])
    y = polyconv.conv_transpose1d(x, w, 2, max_workspace=least)
    assert same(y, polyconv.conv_transpose1d(x, w, 2))
    with pytest.raises(NoRoomError):
        polyconv.conv_transpose1d(x, w, 2, max_workspace=least - 1)


def drawn_limited(rng):
    """A function of a limit: a call, or the gradients of one, or one with one filter for all."""
    kind = rng.choice(("call", "call", "gradients", "packed", "one filter"))
    if kind == "one filter":
        channels = rng.randint(2, 9)
        x, h = integers(rng.randint(1, 3), rng.randint(20, 300), channels), integers(1, 12, 1)
        stride = rng.randint(1, 4)
        return lambda n: polyconv.conv_transpose1d(x, h, stride, groups=channels, max_workspace=n)
    case = draw_case(rng.choice)
    while not case.has_output:
        case = draw_case(rng.choice)
    x, w = (mx.array(a).astype(getattr(mx, case.dtype)) for a in case.data())
    method = rng.choice(("auto", "auto", "auto", "per_phase", "taps"))
    call = lambda x, w, n=None: case.call(x, w, method, max_workspace=n)  # noqa: E731
    if kind == "call":
        return lambda n: call(x, w, n)
    if kind == "packed":
        return lambda n: call(x, polyconv.pack(w), n)
    y = call(x, w)
    return lambda n: mx.vjp(lambda x, w: call(x, w, n), [x, w], [y])


@pytest.mark.parametrize("cases", [40, pytest.param(3000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("planned_for", [None, "m4-max"])
def test_the_limit_that_is_told_is_the_least_that_is_accepted(planned_for, cases, monkeypatch):
    """Accepted is what is planned: nothing is computed here."""

    def planned(tiling, *_):
        spec = tiling.plan.problem
        x = (spec.batch, *[axis.size for axis in spec.axes], spec.in_channels)
        kernel = [axis.kernel_size for axis in spec.axes]
        w = (spec.out_channels, *kernel, spec.in_channels // spec.groups)
        return mx.zeros({"x": x, "w": w, "y": spec.output_shape}[tiling.result])

    monkeypatch.setattr("polyconv.gradients.maps.assembled", planned)
    rng, told = random.Random(str(planned_for)), 0
    while told < cases:
        call = drawn_limited(rng)
        with polyconv.planning_for(planned_for) if planned_for else nullcontext():
            least, known = 1, []
            while least:  # that of a gradient is told once the call itself is accepted
                try:
                    call(least)
                    break
                except NoRoomError as error:
                    least = int(str(error).split("at least ")[1].split(" bytes")[0])
                    known.append(least)
            for each in known:
                with pytest.raises(NoRoomError, match=f"least {each} bytes here; got {each - 1}"):
                    call(each - 1)
            assert len(known) <= 2  # of the call, and of both gradients
            told += bool(known)


def test_the_memory_that_can_be_had_is_told_where_no_limit_would_do(monkeypatch, worked_out_anew):
    x, w = integers(2, 300, 4), integers(6, 4, 4, seed=1)
    result = 602 * 2 * 6 * 4
    for module in ("execution.memory", "gradients.bilinear"):
        monkeypatch.setattr(f"polyconv.{module}.room_on", lambda _: Room(MANY, result + 400))
    monkeypatch.setattr("polyconv.execution.memory._UNASKED", 0)
    for most in (None, 100, MANY):
        with pytest.raises(NoRoomError, match=r"^\[conv_transpose1d\] the memory that can be had"):
            polyconv.conv_transpose1d(x, w, 2, max_workspace=most)


@pytest.mark.parametrize("wrong", [0, -1, True, 1.5, "1"])
def test_what_is_no_limit_is_refused(wrong):
    x, w = integers(2, 30, 4), integers(6, 4, 4)
    calls = {
        "conv_transpose1d": lambda: polyconv.conv_transpose1d(x, w, max_workspace=wrong),
        "conv1d": lambda: polyconv.conv1d(x, w, max_workspace=wrong),
        "conv_general": lambda: polyconv.conv_general(x, w, max_workspace=wrong),
        "PolyConvTranspose1d": lambda: polyconv.PolyConvTranspose1d(4, 6, 4, max_workspace=wrong),
        "patch": lambda: polyconv.patch(max_workspace=wrong),
        "patched": lambda: polyconv.patched(max_workspace=wrong).__enter__(),
        "explain": lambda: polyconv.explain(
            "conv_transpose1d", (1, 9, 4), (6, 4, 4), max_workspace=wrong
        ),
    }
    for op, call in calls.items():
        with pytest.raises(ValueError, match=rf"^\[{op}\] max_workspace must be") as told:
            call()
        assert "\n" not in str(told.value)


def test_what_cannot_exist_is_refused_before_anything_is_allocated():
    x, w = mx.broadcast_to(mx.zeros(1), (1, 2**25, 2**10)), mx.zeros((2**15, 4, 2**10))
    before = counted()
    with pytest.raises(NoRoomError, match="largest buffer"):
        polyconv.conv_transpose1d(x, w, 2)  # 2^26 * 2^15 * 4 bytes
    assert mx.get_peak_memory() <= before + 2**20  # measured: not a byte


def test_packed_weights_layers_and_patches_take_a_limit():
    x, w, whole_call = limited()
    y = whole_call(x, w)
    assert same(polyconv.conv_transpose1d(x, polyconv.pack(w), 3, 2, max_workspace=LIMIT), y)
    layer = polyconv.PolyConvTranspose1d(4, 6, 5, 3, 2, bias=False, max_workspace=LIMIT)
    layer.weight = w
    assert same(layer(x), y)
    assert same(layer.to_packed()(x), y)
    layer.max_workspace = 1
    for each in (layer, layer.to_packed()):
        with pytest.raises(NoRoomError):
            each(x)
    model = nn.ConvTranspose1d(4, 6, 5, 3, 2)
    polyconv.convert(model)
    model.max_workspace = 1
    with pytest.raises(NoRoomError):
        model(x)
    with polyconv.patched(max_workspace=LIMIT):
        assert same(mx.conv_transpose1d(x, w, 3, 2), y)
        with polyconv.patched(max_workspace=1), pytest.raises(NoRoomError):
            mx.conv_transpose1d(x, w, 3, 2)
        assert same(mx.conv_transpose1d(x, w, 3, 2), y)


@pytest.mark.usefixtures("on_cpu")  # what Metal allocates is bounded in tests/on_metal
def test_one_filter_for_all_channels_keeps_a_limit():
    x, h = integers(2, 4000, 8), integers(1, 12, 1, seed=1)
    call = lambda **more: polyconv.conv_transpose1d(x, h, 2, groups=8, **more)  # noqa: E731
    assert same(call(), call(max_workspace=200_000))
    mx.eval(x, h)
    cache = mx.set_cache_limit(0)
    before = counted()
    y = call(max_workspace=200_000)
    mx.eval(y)
    taken = mx.get_peak_memory() - before - y.nbytes
    mx.set_cache_limit(cache)
    assert taken <= 300_000  # measured: 155,000, and 1,100,000 without a limit


def test_explain_tells_of_tiles_and_of_what_cannot_be():
    given = ("conv_transpose2d", (1, 1000, 1000, 64), (64, 4, 4, 64))
    told = str(polyconv.explain(*given, stride=2, device="m4-max", max_workspace=20_000_000))
    assert "Computed in" in told
    assert "of 2002 outputs along axis 1" in told
    assert "Computed in" not in str(polyconv.explain(*given, stride=2, device="m4-max"))
    told = str(polyconv.explain(*given, stride=2, device="m4-max", max_workspace=1))
    assert "no room" in told
    large = ("conv_transpose1d", (1, 2**22, 4096), (4096, 4, 4096))
    assert "Computed in" in str(polyconv.explain(*large, stride=1, device="m4-max"))
