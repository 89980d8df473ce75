"""On CUDA no pointer is misaligned: what MLX copies for cuDNN does not depend on views."""

import itertools

import mlx.core as mx
import pytest

import polyconv
from polyconv.planning.cudnn_plans import lies_exchanged
from tests.support import cases, layouts
from tests.support.cudnn_copies import (
    POOLED,
    copied,
    counted_copies,
    is_row_contiguous,
    layout,
    lies,
)

LAYOUTS = (layouts.rows, layouts.turned, layouts.part)


def all_maps(case, x, w, lie=layouts.rows):
    """Output and gradients, also with a packed weight. The cotangent lies as `lie` says."""
    call = lambda x, w: case.call(x, w, "auto")  # noqa: E731
    y = call(x, w)
    if y.size:
        dy = lie(mx.ones(y.shape, y.dtype))
        mx.eval(mx.vjp(call, [x, w], [dy]))
        packed = polyconv.pack(w)
        mx.eval(mx.vjp(lambda x: call(x, packed), [x], [dy]))


def assert_aligned(found):
    assert not found.made("x", flip=False)
    assert not found.made("x", flip=True)
    assert not found.made("w", flip=False)
    assert not found.pooled
    assert not found.by_turns


@pytest.mark.usefixtures("on_cpu")
@pytest.mark.parametrize("dtype", [mx.float32, mx.float16])
def test_what_is_copied_depends_on_shapes_alone(dtype, monkeypatch):
    with counted_copies(monkeypatch) as found, polyconv.planning_for("cuda"):
        for case in itertools.islice(cases.with_output(seed=4), 250):
            x, w = [mx.array(a).astype(dtype) for a in case.data()]
            for lie in LAYOUTS:
                all_maps(case, lie(x), w)
                all_maps(case, x, lie(w), lie)
    assert len(found.by_call) > 100
    assert found.made("w", flip=True)  # in all calls that are alike
    assert_aligned(found)


SMALL = [
    ((3, 29, 2), (1, 2, 2), 4, mx.bfloat16),  # MLX's copy of the weight would take 8 bytes
    ((1, 20, 1), (2, 5, 1), 2, mx.float32),  # of input and cotangent one lies row by row
    ((1, 20, 2), (1, 5, 2), 2, mx.float32),
]


@pytest.mark.usefixtures("on_cpu")
@pytest.mark.parametrize(("x", "w", "stride", "dtype"), SMALL)
def test_of_small_arrays(x, w, stride, dtype, monkeypatch):
    case = cases.named("conv_transpose1d", x, w, stride=stride)
    with counted_copies(monkeypatch) as found, polyconv.planning_for("cuda"):
        all_maps(case, *[mx.ones(shape, dtype) for shape in (x, w)])
    assert_aligned(found)


@pytest.mark.usefixtures("on_cpu")
def test_a_packed_view_that_a_cpu_has_used(monkeypatch):
    x, w = mx.ones((2, 9, 3)), mx.ones((4, 5, 3))
    packed = polyconv.pack(layouts.turned(w))
    with polyconv.planning_for("cpu"):
        mx.eval(polyconv.conv1d(x, packed))
    with counted_copies(monkeypatch) as found, polyconv.planning_for("cuda"):
        for weight in (packed, w):
            mx.eval(polyconv.conv1d(x, weight))
    assert len(found.by_call) == 1
    assert_aligned(found)


@pytest.mark.usefixtures("on_cpu")
def test_gradients_of_gradients_and_tiles(monkeypatch):
    x, w = cases.integers(2, 40, 4), cases.integers(6, 5, 4, seed=1)
    with counted_copies(monkeypatch) as found, polyconv.planning_for("cuda"):
        for op, more in itertools.product(
            (polyconv.conv1d, polyconv.conv_transpose1d), ({}, {"max_workspace": 20_000})
        ):
            call = lambda x, w, op=op, more=more: (op(x, w, 3, **more) ** 2).sum()  # noqa: E731
            first = mx.grad(call, (0, 1))
            second = mx.grad(lambda x, w, g=first: sum((a**2).sum() for a in g(x, w)), (0, 1))
            for lie in LAYOUTS:
                mx.eval(first(lie(x), w), second(x, lie(w)))
    assert len(found.by_call) > 3
    assert_aligned(found)


@pytest.mark.usefixtures("on_cpu")
@pytest.mark.parametrize(
    ("batch", "size", "channels", "taps", "dtype", "is_gradient"),
    [(2, 20, 64, 3, mx.float32, True), (2, 2, 1, 1, mx.float16, False)],  # 8 bytes
)
def test_a_gradient_and_a_call_of_equal_shapes(
    batch, size, channels, taps, dtype, is_gradient, monkeypatch
):
    """Whichever comes first, the other finds its plan."""
    frames = size - taps + 1
    x, w = mx.ones((batch, size, channels), dtype), mx.ones((channels, taps, channels), dtype)
    a, b = [mx.ones((channels, 1, n, batch), dtype) for n in (size, frames)]
    with counted_copies(monkeypatch) as found, polyconv.planning_for("cuda"):
        mx.eval(mx.grad(lambda w: polyconv.conv1d(x, w).sum())(w), polyconv.conv2d(a, b))
    operations = [{each.operation for each in kinds} for kinds in found.by_call.values()]
    assert ({"forward", "weight"} in operations) == is_gradient
    assert_aligned(found)


@pytest.mark.parametrize(("x", "w", "stride", "dtype"), SMALL)
def test_wherever_a_small_array_lies(x, w, stride, dtype):
    """On CUDA numbers of up to 8 bytes lie at any multiple of 8, so each time elsewhere."""
    x, w = cases.integers(*x).astype(dtype), cases.integers(*w, seed=1).astype(dtype)
    call = lambda x, w: polyconv.conv_transpose1d(x, w, stride)  # noqa: E731
    y = call(x, w)
    expected, kept = mx.vjp(call, [x, w], [y])[1], []
    with polyconv.planning_for("cuda"):
        for i in range(12):
            kept += [mx.array([float(i)]) + j for j in range(i % 3)]
            mx.eval(kept)
            (same,), gradients = mx.vjp(call, [x, layouts.behind(w, i)], [y])
            assert mx.array_equal(same, y)
            assert all(map(mx.array_equal, gradients, expected))


@pytest.mark.usefixtures("on_cpu")
@pytest.mark.parametrize("shape", [*itertools.product((1, 2, 3), repeat=3)])
@pytest.mark.parametrize("dtype", [mx.float16, mx.float32])
def test_whether_an_exchanged_array_lies_row_by_row(shape, dtype):
    a = mx.ones(shape, dtype)
    is_other = not is_row_contiguous(layout(a.swapaxes(0, -1)))
    assert lies_exchanged(dtype.size, *shape) == (is_other and a.nbytes > POOLED)


@pytest.mark.usefixtures("on_cpu")
def test_the_judge_tells_what_mlx_copies():
    x, w, y = mx.zeros((2, 9, 3)), mx.zeros((4, 5, 3)), mx.zeros((2, 5, 4))
    turned = mx.zeros((3, 5, 4)).swapaxes(0, -1)
    mapped = [mx.zeros(shape).swapaxes(0, -1) for shape in ((2, 1, 9, 3), (2, 1, 5, 4))]
    longer = mx.zeros((3, 1, 4, 4))

    def told(x, w, y=y, flip=False, operation=None):
        given = lies(x, w, y, 1, flip)
        return given.operation, {*copied(given, operation or given.operation)}

    assert told(x, w) == ("forward", set())
    assert told(x[..., ::2], w[..., ::2]) == ("forward", {"x", "w"})
    assert told(x, turned) == ("forward", {"w"})
    assert told(x, w, flip=True) == ("input", {"w"})
    assert told(x, turned, flip=True) == ("input", set())
    assert told(*mapped, longer) == ("weight", set())
    assert told(*mapped, longer, operation="forward") == ("weight", {"x", "w"})
    assert told(x, w, operation="weight") == ("forward", {"x", "w"})
