"""On CUDA no pointer is misaligned: what MLX copies for cuDNN does not depend on views."""

import itertools

import mlx.core as mx
import pytest

import polyconv
from tests.support import cases
from tests.support.cudnn_copies import copied, counted_copies

LIES = {
    "row by row": lambda a: a,
    "exchanged": lambda a: mx.contiguous(a.swapaxes(0, -1)).swapaxes(0, -1),
    "a part": lambda a: mx.concatenate([a, a], -1)[..., : a.shape[-1]],
}


def all_maps(case, x, w):
    """Output and gradients, also with a packed weight."""
    call = lambda x, w: case.call(x, w, "auto")  # noqa: E731
    y = call(x, w)
    if y.size:
        mx.eval(mx.vjp(call, [x, w], [mx.ones_like(y)]))
        packed = polyconv.pack(w)
        mx.eval(mx.vjp(lambda x: call(x, packed), [x], [mx.ones_like(y)]))


@pytest.mark.usefixtures("on_cpu")
@pytest.mark.parametrize("dtype", [mx.float32, mx.float16])
def test_what_is_copied_depends_on_shapes_alone_and_is_not_tiny(dtype, monkeypatch):
    with counted_copies(monkeypatch) as found, polyconv.planning_for("cuda"):
        for case in itertools.islice(cases.with_output(seed=4), 250):
            x, w = [mx.array(a).astype(dtype) for a in case.data()]
            for lies in LIES.values():
                all_maps(case, lies(x), w)
                all_maps(case, x, lies(w))
    assert len(found.by_call) > 100
    assert any(("w",) in kinds for kinds in found.by_call.values())
    assert not [call for call, kinds in found.by_call.items() for names in kinds if "x" in names]
    assert not found.pooled
    assert not found.by_turns


SMALL = [
    ((3, 29, 2), (1, 2, 2), 4, mx.bfloat16),  # MLX's copy of the weight would take 8 bytes
    ((1, 20, 1), (2, 5, 1), 2, mx.float32),  # of input and cotangent one lies row by row
    ((1, 20, 2), (1, 5, 2), 2, mx.float32),
]


@pytest.mark.usefixtures("on_cpu")
@pytest.mark.parametrize(("x", "w", "stride", "dtype"), SMALL)
def test_of_small_arrays_nothing_is_copied(x, w, stride, dtype, monkeypatch):
    case = cases.named("conv_transpose1d", x, w, stride=stride)
    with counted_copies(monkeypatch) as found, polyconv.planning_for("cuda"):
        all_maps(case, *[mx.ones(shape, dtype) for shape in (x, w)])
    assert not found.pooled
    assert not [call for call, kinds in found.by_call.items() if ("x",) in kinds]
    assert not [call for call, kinds in found.by_call.items() if ("w",) in kinds and not call[-2]]


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
            moved = mx.concatenate([mx.zeros(i), w.flatten()])[i:].reshape(w.shape).astype(dtype)
            (same,), gradients = mx.vjp(call, [x, moved], [y])
            assert mx.array_equal(same, y)
            assert all(map(mx.array_equal, gradients, expected))


def test_the_judge_tells_what_mlx_copies():
    x, w, y = mx.zeros((2, 9, 3)), mx.zeros((4, 5, 3)), mx.zeros((2, 5, 4))
    assert copied(x, w, y, 1, flip=False) == ()
    assert copied(x, w, y, 1, flip=True) == ("w",)
    assert copied(x[..., ::2], w[..., ::2], y, 1, flip=False) == ("x", "w")
    turned = mx.zeros((3, 5, 4)).swapaxes(0, -1)
    assert copied(x, turned, y, 1, flip=True) == ()
    assert copied(x, turned, y, 1, flip=False) == ("w",)
    mapped = [mx.zeros(shape).swapaxes(0, -1) for shape in ((2, 1, 9, 3), (2, 1, 5, 4))]
    assert copied(*mapped, mx.zeros((3, 1, 4, 4)), 1, flip=False) == ()
