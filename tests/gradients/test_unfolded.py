"""Gradients as planned for CUDA: those of an ordinary convolution, whatever call they are of."""

import mlx.core as mx
import numpy as np
import pytest

import polyconv
from polyconv.execution import arrays, run_tiled
from polyconv.gradients import maps
from polyconv.gradients.unfolded import unfolded
from polyconv.planning.devices import CUDA
from polyconv.planning.methods import lower_ordinary
from polyconv.planning.request import Request, Way
from polyconv.planning.weight_gradient import run_of
from polyconv.problem.signatures import problem_of
from polyconv.problem.spec import adjoint
from tests.support.cases import integers
from tests.support.trace import issued

# The op, the shapes, the options, and which convolution the weight's gradient is that of.
CALLS = {
    "transposed": (
        "conv_transpose1d",
        (3, 9, 4),
        (6, 5, 4),
        {"stride": 3, "padding": 1},
        "adjoint",
    ),
    "stride 1": ("conv_transpose1d", (2, 9, 4), (6, 3, 4), {}, "adjoint"),
    "dilated": ("conv_transpose1d", (2, 9, 4), (6, 3, 4), {"stride": 2, "dilation": 3}, "adjoint"),
    "groups": ("conv_transpose1d", (2, 9, 4), (6, 3, 2), {"stride": 2, "groups": 2}, "adjoint"),
    "large padding": (
        "conv_transpose1d",
        (2, 9, 4),
        (6, 3, 4),
        {"stride": 2, "padding": 5},
        "adjoint",
    ),
    "2D": (
        "conv_transpose2d",
        (2, 5, 4, 2),
        (3, 4, 3, 2),
        {"stride": (2, 1), "padding": 1},
        "adjoint",
    ),
    "3D": ("conv_transpose3d", (1, 3, 4, 3, 2), (3, 2, 2, 2, 2), {"stride": 2}, "adjoint"),
    "plain": ("conv1d", (2, 12, 4), (6, 3, 4), {"padding": 1}, "call"),
    "strided": ("conv2d", (2, 9, 10, 2), (3, 3, 3, 2), {"stride": 2, "padding": 1}, "call"),
    "with samples unread": ("conv_general", (2, 10, 3), (2, 2, 3), {"stride": 4}, "call"),
    "plain, dilated, groups": (
        "conv1d",
        (2, 12, 4),
        (6, 3, 2),
        {"dilation": 2, "groups": 2},
        "call",
    ),
    "one side": ("conv_general", (2, 9, 2), (3, 4, 2), {"padding": ([0], [3])}, "call"),
    "cropped": (
        "conv_general",
        (2, 19, 2),
        (3, 4, 2),
        {"padding": ([-2], [-1]), "stride": 2},
        "call",
    ),
    "strided and dilated": (
        "conv_general",
        (2, 9, 2),
        (3, 4, 2),
        {"stride": 2, "input_dilation": 3},
        "",
    ),
    "flipped": ("conv_general", (2, 9, 2), (3, 4, 2), {"stride": 2, "flip": True}, ""),
    "3D groups": (
        "conv_transpose3d",
        (1, 3, 4, 3, 2),
        (4, 2, 2, 2, 1),
        {"stride": 2, "groups": 2},
        "",
    ),
}


def call_of(name):
    op, x_shape, w_shape, options, _ = CALLS[name]
    x, w = integers(*x_shape), integers(*w_shape, seed=1)
    return (lambda x, w, **more: getattr(polyconv, op)(x, w, **options, **more)), x, w


@pytest.mark.parametrize("name", CALLS)
def test_whose_gradient_is_taken(name):
    op, x_shape, w_shape, options, whose = CALLS[name]
    problem = problem_of(op, x_shape, w_shape, "float32", options)
    of_x, of_w = [Way(kind, Request(op, problem, "auto", CUDA)).plan for kind in "xw"]
    assert of_x.problem == adjoint(problem)
    assert not of_x.products
    # In 1D MLX's transposed convolution is taken too, where it can be marked. In 2D a weight may be
    # mapped by `mx.vmap`.
    is_marked = of_x.is_native and of_x.first.issued.form.lift == "marked"
    assert is_marked == (name in ("plain", "with samples unread"))
    assert of_x.is_native == (whose == "adjoint" or is_marked)
    assert of_w.is_native == (whose != "")
    assert of_w.problem == (adjoint(problem) if whose == "adjoint" else problem)


def results(name, order, **more):
    """Values and gradients of this order, which with integers are exact."""
    call, x, w = call_of(name)
    loss = lambda x, w: (call(x, w, **more) ** 2).sum()  # noqa: E731
    first = mx.grad(loss, (0, 1))
    if order == 1:
        return [call(x, w, **more), *first(x, w)]
    penalty = lambda x, w: sum((each**2).sum() for each in first(x, w)) / 4  # noqa: E731
    return [*mx.grad(penalty, (0, 1))(x, w)]


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("name", CALLS)
def test_numbers_are_those_of_products_per_tap(name, order):
    expected = results(name, order)  # as on a CPU
    with polyconv.planning_for("cuda"):
        found = results(name, order)
        compiled = mx.compile(lambda: results(name, order))()
    for a, b, c in zip(expected, found, compiled, strict=True):
        assert mx.abs(a).max() < 2**24 / 4  # exact
        assert np.count_nonzero(np.array(a))
        assert mx.array_equal(a, b)
        assert mx.array_equal(a, c)


@pytest.mark.parametrize("name", [name for name in CALLS if name != "3D"])  # which MLX refuses
def test_over_a_mapped_axis(name):
    call, x, w = call_of(name)
    xs, ws = mx.stack([x, 2 * x]), mx.stack([w, -w])
    first = mx.grad(lambda x, w: (call(x, w) ** 2).sum(), (0, 1))
    with polyconv.planning_for("cuda"):
        found = mx.vmap(first)(xs, ws)
    for i in range(2):
        for mapped, alone in zip(found, first(xs[i], ws[i]), strict=True):
            assert mx.array_equal(mapped[i], alone)


@pytest.mark.parametrize("dtype", [mx.float32, mx.float16, mx.bfloat16])
@pytest.mark.parametrize("name", ["transposed", "strided", "plain, dilated, groups"])
def test_in_tiles(name, dtype, monkeypatch):
    """Parts are added up in float32, and rounded once."""
    call, x, w = call_of(name)
    x, w = mx.tile(x, (20, *[1] * (x.ndim - 1))).astype(dtype), w.astype(dtype)
    tilings = []
    assembled = run_tiled.assembled
    noted = lambda tiling, *more: tilings.append(tiling) or assembled(tiling, *more)  # noqa: E731
    monkeypatch.setattr(maps, "assembled", noted)
    with polyconv.planning_for("cuda"):
        y = mx.ones_like(call(x, w))
        _, whole = mx.vjp(call, [x, w], [y])
        assert not tilings
        _, parts = mx.vjp(lambda x, w: call(x, w, max_workspace=15_000), [x, w], [y])
    (of_w,) = [each for each in tilings if each.result == "w"]
    assert of_w.n_tiles > 1
    for a, b in zip(whole, parts, strict=True):
        assert a.dtype == b.dtype == dtype
        assert mx.array_equal(a, b)


def operations_of_dw(name, dtype):
    call, x, w = call_of(name)
    x, w = x.astype(dtype), w.astype(dtype)
    with polyconv.planning_for("cuda"):
        return issued(lambda x, w: mx.grad(lambda w: call(x, w).sum())(w), x, w)


@pytest.mark.parametrize("dtype", [mx.float16, mx.bfloat16])
def test_halves_are_multiplied_in_float32(dtype):
    """cuBLAS may add up parts of a product of halves in halves."""
    ops = operations_of_dw("groups", dtype)
    products = [each for each in ops if each.name == "Matmul"]
    assert products
    assert all(dtype not in each.reads for each in products)


@pytest.mark.parametrize("dtype", [mx.float32, mx.float16, mx.bfloat16])
@pytest.mark.parametrize("name", ["transposed", "dilated", "2D", "plain", "strided"])
def test_the_weight_s_gradient_is_one_convolution(name, dtype):
    """cuDNN sums halves in float32."""
    ops = operations_of_dw(name, dtype)
    assert [each.reads for each in ops if each.name == "Convolution"] == [(dtype, dtype)]
    moves = {"Convolution", "Transpose", "ExpandDims", "Squeeze", "Broadcast", "Full", "AsType"}
    # Padded less behind than in front, it could run a plan that MLX keeps of another convolution.
    assert {each.name for each in ops} - ({"Slice"} if name == "strided" else set()) <= moves


@pytest.mark.parametrize("name", ["3D", "groups", "one side", "cropped"])
def test_else_it_is_a_product(name):
    names = [each.name for each in operations_of_dw(name, mx.float32)]
    assert "Matmul" in names
    assert "Convolution" not in names


@pytest.mark.parametrize("ndim", [1, 2, 3])
def test_gradients_of_a_weight_for_each_item(ndim):
    """MLX reads its own rules of what ours is made of, too, and has none for groups in 3D."""
    call = getattr(polyconv, f"conv_transpose{ndim}d")
    xs, w = integers(3, 2, *[4] * ndim, 2), integers(3, *[2] * ndim, 2, seed=1)
    gradient = mx.grad(lambda w, x: (call(x, w, 2) ** 2).sum())
    with polyconv.planning_for("cuda"):
        found = mx.vmap(gradient, in_axes=(None, 0))(w, xs)
    for each, x in zip(found, xs, strict=True):
        assert mx.array_equal(each, gradient(w, x))


@pytest.mark.parametrize("exchanged", [False, True])
@pytest.mark.parametrize(
    ("length", "kernel", "stride", "padding"),
    [
        (32, 5, 1, (0, 0)),
        (12, 3, 1, (2, 2)),
        (36, 4, 3, (0, 1)),
        (36, 7, 2, (-1, -1)),
        (6, 5, 1, (2, 2)),
    ],
)
def test_runs_of_frames_give_the_sum_over_frames(length, kernel, stride, padding, exchanged):
    options = {"stride": stride, "padding": ([padding[0]], [padding[1]])}
    problem = problem_of("conv_general", (40, length, 3), (5, kernel, 3), "float32", options)
    found = lower_ordinary(problem, CUDA)
    assert run_of(found)
    x, y = integers(40, length, 3), integers(*problem.output_shape, seed=1)
    read = np.array(arrays.pad_all(x, [(0, 0), padding, (0, 0)]))
    frames = [read[:, stride * m : stride * m + kernel] for m in range(y.shape[1])]
    expected = np.einsum("nmo,mnkc->okc", np.array(y), np.stack(frames))
    expected = expected.transpose(2, 1, 0) if exchanged else expected
    assert np.array_equal(np.array(unfolded(found, exchanged)(x, y)), expected)
