"""Under `mx.vmap`, convolutions and their gradients are those of the items, one by one."""

import mlx.core as mx
import pytest

import polyconv
from polyconv.execution.device import device_for
from polyconv.planning.choose import plan
from tests.support.cases import NAMED, integers
from tests.support.problems import general_spec


def inputs(name):
    case = NAMED[name]
    x, w = (mx.array(a) for a in case.data())
    return case, x, w


METHODS = ("per_phase", "stacked", "taps", "auto")


def one_by_one(stacks, axes):
    """What each of three mapped calls gets: its own item, or the first where none is mapped."""
    for i in range(3):
        yield [stack[0 if axis is None else i] for stack, axis in zip(stacks, axes)]


MAPPED = {"x": (0, None), "w": (None, 0), "both": (0, 0), "other axes": (-1, 1)}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("mapped", MAPPED)
@pytest.mark.parametrize(
    "name", ["hifigan", "groups", "depthwise", "stride 1", "2d groups", "3d groups", "3d 2x2x2 s2"]
)
def test_vmap(name, mapped, method):
    case, _, _ = inputs(name)
    axes = MAPPED[mapped]
    xs, ws = integers(3, *case.x_shape), integers(3, *case.w_shape, seed=1)

    each = [case.call(*items, method) for items in one_by_one((xs, ws), axes)]
    arguments = [a[0] if ax is None else mx.moveaxis(a, 0, ax) for a, ax in zip((xs, ws), axes)]
    call = mx.vmap(lambda x, w: case.call(x, w, method), in_axes=axes)
    # On Metal these are convolutions of frames in 2D, on CUDA of points in 1D.
    chosen = plan(general_spec(case), method, device=device_for(None))
    in_3d = not chosen.products and chosen.first.issued.spec.ndim == 3
    if name == "3d 2x2x2 s2" and None not in axes and in_3d:
        with pytest.raises(ValueError, match="Can only handle groups"):
            call(*arguments)
        return
    assert mx.array_equal(call(*arguments), mx.stack(each))


def test_nested_vmap_with_groups():
    x, w = integers(2, 1, 5, 4), integers(3, 6, 3, 2)
    convolve = lambda x, w: polyconv.conv_transpose1d(x, w, 2, groups=2)  # noqa: E731
    got = mx.vmap(mx.vmap(convolve, (None, 0)), (0, None))(x, w)
    expected = mx.stack([mx.stack([convolve(x[i], w[j]) for j in range(3)]) for i in range(2)])
    assert mx.array_equal(got, expected)


GROUPED = ["groups", "depthwise", "2d groups", "3d groups"]


@pytest.mark.parametrize("mapped", MAPPED)
@pytest.mark.parametrize("name", GROUPED)
def test_vmap_of_gradients_with_groups(name, mapped):
    case, _, _ = inputs(name)
    axes = MAPPED[mapped]
    xs, ws = integers(3, *case.x_shape), integers(3, *case.w_shape, seed=1)
    gradient = mx.grad(lambda x, w: (case.call(x, w, "auto") ** 2).sum(), argnums=(0, 1))

    each = [gradient(*items) for items in one_by_one((xs, ws), axes)]
    arguments = [a[0] if ax is None else mx.moveaxis(a, 0, ax) for a, ax in zip((xs, ws), axes)]
    got = mx.vmap(gradient, in_axes=axes)(*arguments)
    for ours, expected in zip(got, zip(*each, strict=True), strict=True):
        assert mx.array_equal(ours, mx.stack(expected))


def test_gradient_of_vmap_with_groups():
    case, x, _ = inputs("2d groups")
    ws = integers(3, *case.w_shape, seed=1)
    mapped = lambda ws: mx.vmap(lambda w: case.call(x, w, "auto"))(ws)  # noqa: E731
    got = mx.grad(lambda ws: (mapped(ws) ** 2).sum())(ws)
    gradient = mx.grad(lambda w: (case.call(x, w, "auto") ** 2).sum())
    assert mx.array_equal(got, mx.stack([gradient(w) for w in ws]))


def test_vmap_of_a_gradient_of_a_gradient_with_groups():
    case, x, _ = inputs("groups")
    ws = integers(3, *case.w_shape, seed=1)

    def penalty(w):
        loss = lambda x: (case.call(x, w, "auto") ** 2).sum() / 64  # noqa: E731
        return (mx.grad(loss)(x) ** 2).sum() / 64

    got = mx.vmap(mx.grad(penalty))(ws)
    assert mx.allclose(got, mx.stack([mx.grad(penalty)(w) for w in ws]), rtol=1e-5)


def test_vmap_of_arrays_without_channels():
    convolve = lambda w: polyconv.conv_transpose1d(mx.zeros((1, 5, 0)), w, 2, groups=2)  # noqa: E731
    assert mx.vmap(convolve)(mx.zeros((3, 4, 3, 0))).shape == (3, 1, 11, 4)
