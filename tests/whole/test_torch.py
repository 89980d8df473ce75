"""PyTorch as a second opinion, on outputs and gradients."""

from itertools import islice

import mlx.core as mx
import numpy as np
import pytest

import polyconv
from tests.support.cases import with_output

torch = pytest.importorskip("torch", reason="PyTorch is an optional second opinion")
torch.set_num_threads(1)  # its threads and MLX's would wait for each other


def to_torch(array):
    return torch.from_numpy(np.moveaxis(array, -1, 1).astype(np.float64))


def paddings(case):
    """The `padding` and `output_padding` of a transposed case, per axis."""
    g = case.general
    overhang = [d * (k - 1) for d, k in zip(g["kernel_dilation"], case.w_shape[1:-1])]
    padding = [most - lo for most, lo in zip(overhang, g["lo"])]
    return padding, [hi - lo for lo, hi in zip(g["lo"], g["hi"])]


def torch_transposed(case, x, w):
    """x (N, *S, C) and w (O, *K, C / groups), as `case.op` and in float64."""
    g = case.general
    ndim = len(case.x_shape) - 2
    groups = g["groups"]
    # (O, *K, C / g) -> (C, O / g, *K), group by group
    out_per_group = w.shape[0] // groups
    w = w.reshape(groups, out_per_group, *w.shape[1:])
    w = np.moveaxis(w, -1, 1).reshape(-1, out_per_group, *case.w_shape[1:-1])
    x, w = to_torch(x).requires_grad_(), torch.from_numpy(w.astype(np.float64)).requires_grad_()
    y = getattr(torch.nn.functional, f"conv_transpose{ndim}d")(
        x,
        w,
        None,
        g["input_dilation"],
        *paddings(case),
        groups,
        g["kernel_dilation"],
    )
    return x, w, y


def accepted(case):
    """PyTorch wants padding >= 0, samples, and 0 <= output_padding < max(stride, dilation)."""
    g = case.general
    padding, extra = paddings(case)
    most = map(max, g["input_dilation"], g["kernel_dilation"])
    small = all(0 <= e < m for e, m in zip(extra, most))
    return small and min(padding) >= 0 and 0 not in case.x_shape


def drawn(n):
    transposed = (c for c in with_output() if c.op != "conv_general" and c.dtype == "float32")
    return islice(filter(accepted, transposed), n)


def more(few, many):
    """So many cases in the default suite, and so many in the whole."""
    return pytest.mark.parametrize("n", [few, pytest.param(many, marks=pytest.mark.slow)])


@more(40, 150)
def test_outputs_and_gradients_agree_with_torch(n):
    for case in drawn(n):
        x, w = case.data()
        theirs_x, theirs_w, theirs = torch_transposed(case, x, w)
        ours = case.run("auto")
        assert np.array_equal(np.moveaxis(ours, -1, 1), theirs.detach().numpy()), case
        cotangent = case.cotangent().astype(np.float32)
        theirs.backward(to_torch(cotangent))
        call = lambda x, w, case=case: case.call(x, w, "auto")  # noqa: E731
        _, (dx, dw) = mx.vjp(call, [mx.array(x), mx.array(w)], [mx.array(cotangent)])
        assert np.array_equal(np.moveaxis(np.array(dx), -1, 1), theirs_x.grad.numpy()), case
        groups, taps = case.general["groups"], case.w_shape[1:-1]
        expected = theirs_w.grad.numpy().reshape(groups, -1, w.shape[0] // groups, *taps)
        expected = np.moveaxis(expected, 1, -1).reshape(w.shape)
        assert np.array_equal(np.array(dw), expected), case


@pytest.mark.parametrize("stride", [2, 3])
def test_double_backward_agrees_with_torch(stride):
    rng = np.random.default_rng(0)
    x, w = rng.standard_normal((2, 6, 3)), rng.standard_normal((4, 5, 3))

    def loss(x, w):
        return (polyconv.conv_transpose1d(x, w, stride, 1) ** 2).sum()

    def penalty(x, w):
        return (mx.grad(loss)(x, w) ** 2).sum()

    ours = mx.grad(penalty, argnums=(0, 1))(mx.array(x, mx.float32), mx.array(w, mx.float32))
    tx = torch.tensor(np.moveaxis(x, -1, 1), requires_grad=True)
    tw = torch.tensor(w.transpose(2, 0, 1), requires_grad=True)
    y = torch.nn.functional.conv_transpose1d(tx, tw, None, stride, 1)
    (grad,) = torch.autograd.grad((y**2).sum(), tx, create_graph=True)
    theirs = torch.autograd.grad((grad**2).sum(), (tx, tw))
    np.testing.assert_allclose(np.moveaxis(np.array(ours[0]), -1, 1), theirs[0], rtol=2e-4)
    np.testing.assert_allclose(np.array(ours[1]).transpose(2, 0, 1), theirs[1], rtol=2e-4)


@more(25, 100)
def test_double_backward_of_random_cases_agrees_with_torch(n):
    """The gradient of |d loss / d x|^2 with respect to x and w, with loss = |y|^2."""
    for case in drawn(n):
        x, w = (a / 4 for a in case.data())

        def penalty(x, w, case=case):
            loss = lambda x, w: (case.call(x, w, "auto") ** 2).sum()  # noqa: E731
            return (mx.grad(loss)(x, w) ** 2).sum()

        ours = mx.grad(penalty, argnums=(0, 1))(mx.array(x), mx.array(w))
        theirs_x, theirs_w, y = torch_transposed(case, x, w)
        (grad,) = torch.autograd.grad((y**2).sum(), theirs_x, create_graph=True)
        dx, dw = torch.autograd.grad((grad**2).sum(), (theirs_x, theirs_w))
        groups, taps = case.general["groups"], case.w_shape[1:-1]
        dw = dw.numpy().reshape(groups, -1, w.shape[0] // groups, *taps)
        dw = np.moveaxis(dw, 1, -1).reshape(w.shape)
        for got, expected in zip(ours, (np.moveaxis(dx.numpy(), 1, -1), dw), strict=True):
            scale = np.abs(expected).max(initial=1e-30)
            assert np.abs(np.array(got) - expected).max(initial=0) < 1e-5 * scale, case
