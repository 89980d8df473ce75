"""Each row of the table about PyTorch in docs/differences.md, with integers and `==`."""

import inspect
import re

import mlx.core as mx
import numpy as np
import pytest

import polyconv
from polyconv import PolyConvTranspose1d
from tests.support.cases import integers
from tests.support.snippets import ROOT, snippets

torch = pytest.importorskip("torch", reason="PyTorch is an optional second opinion")
theirs = torch.nn.functional

PAGE = ROOT / "docs" / "differences.md"
X, W = integers(2, 6, 4), integers(3, 5, 4, seed=1)


def from_torch(weight, groups=1):
    """As the page says, by its own code."""
    scope = {}
    (block,) = snippets(PAGE, "python")
    exec(block.text, scope)
    return scope["from_torch"](weight, groups)


def whole(*shape, seed=0):
    """Integers as PyTorch's array."""
    return torch.from_numpy(np.array(integers(*shape, seed=seed)))


def same(ours, other):
    """Channels last against channels first."""
    return np.array_equal(np.moveaxis(np.array(ours), -1, 1), other.numpy())


def channels_last(array):
    return mx.array(np.moveaxis(array.numpy(), 1, -1))


def torch_channels_first():
    x, w = whole(2, 4, 6), whole(4, 3, 5)
    y = theirs.conv_transpose1d(x, w, stride=2)
    ours = polyconv.conv_transpose1d(channels_last(x), mx.array(from_torch(w.numpy())), stride=2)
    return y.shape == (2, 3, 15) and ours.shape == (2, 15, 3) and same(ours, y)


def torch_weight_layout():
    for groups, kernel in [(1, (5,)), (2, (3,)), (4, (2,)), (2, (3, 2)), (2, (2, 1, 3))]:
        ndim = len(kernel)
        x, w = whole(2, 4, *[5] * ndim), whole(4, 3, *kernel, seed=1)
        call = f"conv_transpose{ndim}d"
        y = getattr(theirs, call)(x, w, stride=2, groups=groups)
        ours = mx.array(from_torch(w.numpy(), groups))
        assert ours.shape == (3 * groups, *kernel, 4 // groups)
        ours = getattr(polyconv, call)(channels_last(x), ours, stride=2, groups=groups)
        assert same(ours, y)
    return True


def torch_plain_weight_layout():
    x, w = whole(2, 4, 9), whole(6, 2, 3, seed=1)
    y = theirs.conv1d(x, w, stride=2, groups=2)
    return same(polyconv.conv1d(channels_last(x), channels_last(w), stride=2, groups=2), y)


def torch_order_of_arguments():
    signature = theirs.conv_transpose1d.__doc__.split("\n")[1]
    told = re.findall(r"(\w+)=", signature)
    assert told == ["bias", "stride", "padding", "output_padding", "groups", "dilation"]
    ours = list(inspect.signature(polyconv.conv_transpose1d).parameters)
    return ours[2:7] == ["stride", "padding", "dilation", "output_padding", "groups"]


def torch_order_of_layer_arguments():
    told = list(inspect.signature(torch.nn.ConvTranspose1d).parameters)
    order = "stride padding output_padding groups bias dilation padding_mode"
    assert told[3:10] == order.split()
    ours = list(inspect.signature(PolyConvTranspose1d).parameters)
    return ours[3:9] == ["stride", "padding", "dilation", "output_padding", "bias", "groups"]


def torch_sizes():
    x = whole(1, 4, 7)
    for kernel, stride, padding, dilation, groups in [
        (4, 2, 1, 1, 1),
        (3, 3, 0, 2, 2),
        (5, 4, 3, 3, 4),
        (3, 2, 3, 1, 1),  # padding above dilation * (kernel - 1)
    ]:
        w = whole(4, 2, kernel, seed=1)
        y = theirs.conv_transpose1d(x, w, None, stride, padding, 0, groups, dilation)
        assert y.shape[2] == 6 * stride - 2 * padding + dilation * (kernel - 1) + 1
        w = mx.array(from_torch(w.numpy(), groups))
        options = {"dilation": dilation, "groups": groups}
        ours = polyconv.conv_transpose1d(channels_last(x), w, stride, padding, **options)
        assert same(ours, y)
    return True


def torch_output_padding():
    x, w = whole(1, 4, 6), whole(4, 3, 5)
    ours = mx.array(from_torch(w.numpy()))
    y = theirs.conv_transpose1d(x, w, stride=3, output_padding=2)
    assert same(polyconv.conv_transpose1d(channels_last(x), ours, 3, output_padding=2), y)
    for extra in (3, -1):
        with pytest.raises(RuntimeError, match=r"output.padding"):
            theirs.conv_transpose1d(x, w, stride=3, output_padding=extra)
        assert polyconv.conv_transpose1d(X, W, 3, output_padding=extra).shape[1] == 20 + extra
    dropped = polyconv.conv_transpose1d(X, W, 3, output_padding=-1)
    return mx.array_equal(dropped, polyconv.conv_transpose1d(X, W, 3)[:, :-1]).item()


def torch_negative_padding():
    with pytest.raises(RuntimeError, match="negative padding"):
        theirs.conv_transpose1d(whole(1, 4, 6), whole(4, 3, 5), padding=-1)
    wider = polyconv.conv_transpose1d(X, W, 2, padding=-1)
    plain = polyconv.conv_transpose1d(X, W, 2)
    return mx.array_equal(wider, mx.pad(plain, [(0, 0), (1, 1), (0, 0)])).item()


def torch_padding_modes():
    torch.nn.Conv1d(4, 3, 5, padding=2, padding_mode="reflect")
    with pytest.raises(ValueError, match='Only "zeros"'):
        torch.nn.ConvTranspose1d(4, 3, 5, padding_mode="reflect")
    layers = (PolyConvTranspose1d, polyconv.StreamingConv1d)
    return not any("padding_mode" in inspect.signature(layer).parameters for layer in layers)


def torch_padding_by_name():
    for name in ("same", "valid"):
        theirs.conv1d(whole(1, 4, 6), whole(3, 4, 5), padding=name)
        with pytest.raises(ValueError, match="padding must be an int"):
            polyconv.conv1d(X, W, padding=name)
    return True


def torch_output_size():
    layer = torch.nn.ConvTranspose1d(4, 3, 5, stride=3)
    assert layer(torch.zeros(1, 4, 6), output_size=[22]).shape == (1, 3, 22)
    assert list(inspect.signature(PolyConvTranspose1d.__call__).parameters) == ["self", "x"]
    return polyconv.conv_transpose1d(X, W, 3, output_padding=2).shape[1] == 22


def torch_without_batch():
    assert theirs.conv_transpose1d(whole(4, 6), whole(4, 3, 5)).shape == (3, 10)
    with pytest.raises(ValueError, match="x must have 3 dimensions"):
        polyconv.conv_transpose1d(X[0], W)
    return True


def torch_mixed_dtypes():
    with pytest.raises(RuntimeError, match="type"):
        theirs.conv_transpose1d(whole(1, 4, 6), whole(4, 3, 5).half())
    return polyconv.conv_transpose1d(X, W.astype(mx.float16)).dtype == mx.float32


def torch_both_strides():
    calls = [getattr(theirs, f"conv{ndim}d").__doc__ for ndim in (1, 2, 3)]
    assert not any("input_dilation" in text for text in calls)
    resampled = polyconv.conv_general(X, W, stride=2, input_dilation=3)
    return mx.array_equal(resampled, polyconv.conv_general(X, W, input_dilation=3)[:, ::2]).item()


def torch_initial_weights():
    """5,120 uniform weights reach within a hundredth of their bound, and never over it."""
    c_in, c_out, kernel, groups = 64, 32, 5, 2
    other = torch.nn.ConvTranspose1d(c_in, c_out, kernel, groups=groups).weight
    ours = PolyConvTranspose1d(c_in, c_out, kernel, groups=groups).weight
    bounds = (kernel * c_out / groups) ** -0.5, (kernel * c_in / groups) ** -0.5
    for weight, bound in zip((other.detach().numpy(), np.array(ours)), bounds):
        assert 0.99 * bound < np.abs(weight).max() <= bound * (1 + 1e-6)
    return True


TABLE = {name: check for name, check in globals().items() if name.startswith("torch_")}


@pytest.mark.parametrize("name", TABLE)
def test_differences_from_torch(name):
    assert TABLE[name]()


def test_each_row_of_the_table_about_torch_has_a_test():
    assert sorted(re.findall(r"`(torch_\w+)`", PAGE.read_text())) == sorted(TABLE)
