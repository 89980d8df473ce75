"""Hostile input: a test for each defect that the campaign (`tests/campaigns/fuzz.py`) found."""

from unittest import mock

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

import polyconv
from polyconv.distributed.sharding import read_by
from polyconv.models import converted_classes
from polyconv.planning.shared_filter import is_short
from polyconv.problem.spec import Axis
from tests.campaigns import fuzz_inputs
from tests.support.garbage import collect
from tests.support.refusals import refused

X, W = mx.ones((1, 6, 4)), mx.ones((2, 3, 4))


ODD = [10**5000, -(10**5000), 10**300, 2**63, fuzz_inputs.Unprintable(), fuzz_inputs.Unindexable()]
ODD += [[10**5000], [fuzz_inputs.Unprintable()], np.ones(10**6, np.int8), "x" * 5000, "a\nb"]


@pytest.mark.parametrize("value", ODD, ids=fuzz_inputs.shown)
@pytest.mark.parametrize("name", ["stride", "padding", "dilation", "groups", "method", "stream"])
def test_what_has_no_short_repr_is_refused_in_one_sentence(name, value):
    refused(polyconv.conv_transpose1d, X, W, **{name: value})


def test_ints_beyond_64_bits_are_refused_by_their_name():
    for value in (2**63, -(2**63), 10**400):
        text = refused(polyconv.conv_transpose2d, mx.ones((1, 2, 2, 1)), X, padding=(0, value))
        assert "padding must fit in 64 bits" in text
    text = refused(polyconv.conv_transpose1d, X, W, max_workspace=2**63)
    assert "max_workspace must fit in 64 bits" in text


def test_an_array_of_options_that_is_a_huge_view_is_not_read():
    text = refused(polyconv.conv_transpose1d, X, W, mx.broadcast_to(mx.array(1), (2**30,)))
    assert text.endswith("got array of shape (1073741824,)")


def test_options_of_plain_convolutions_are_one_or_one_per_axis():
    x, w = mx.ones((1, 4, 4, 1)), mx.ones((1, 2, 2, 1))
    for value in ([], [1], (1,), np.array([1])):
        for name in ("stride", "dilation"):
            text = refused(polyconv.conv2d, x, w, **{name: value})
            assert text.startswith(f"[conv2d] {name} must be an int or 2 ints")
    assert "dilation must be at least 1" in refused(polyconv.conv2d, x, w, dilation=0)


@pytest.mark.usefixtures("on_cpu")  # MLX has float64 there only
def test_float64_is_refused_wherever_mlx_has_no_kernel():
    """By the methods that are convolutions of MLX's; `taps` is products (`test_float64.py`)."""
    x, w = (mx.ones(s).astype(mx.float64, stream=mx.cpu) for s in ((1, 4, 4, 2), (2, 2, 2, 1)))
    for options in ({}, {"kernel_dilation": 2}, {"input_dilation": 2}):
        for method in ("per_phase", "stacked", "native"):
            named = {"groups": 2, "method": method, "stream": mx.cpu}
            text = refused(polyconv.conv_general, x, w, **options, **named)
            assert text.endswith(f"got {method!r}: MLX has no convolution of float64 here")
    flipped = {"groups": 2, "flip": True, "method": "native", "stream": mx.cpu}
    assert "no convolution of float64" in refused(polyconv.conv_general, x[0], w[:, 0], **flipped)
    y = polyconv.conv1d(x[0], w[:, 0], groups=2, method="native", stream=mx.cpu)
    assert y.dtype == mx.float64
    assert mx.array_equal(y, mx.full(y.shape, 2.0), stream=mx.cpu).item()
    with polyconv.planning_for("m4-max"):
        assert "x must be float16" in refused(polyconv.conv_general, x, w, groups=2)


@pytest.mark.parametrize("stride", [10**8, 2**31 - 1])
def test_a_stride_of_billions_is_computed_in_no_time(stride):
    """A kernel was padded to the stride to be cut by a reshape: gigabytes, or a crash."""
    x, w = mx.ones((2, 1, 6)), mx.ones((14, 8, 3))
    y = polyconv.conv_transpose1d(x, w, stride, groups=2)
    assert mx.array_equal(y, mx.full((2, 8, 14), 3.0)).item()
    x = mx.ones((2, 3, 6))
    loss = lambda x: polyconv.conv1d(x, w, stride, 6, groups=2).sum()  # noqa: E731
    right = np.zeros((2, 3, 6), np.float32)
    right[:, :2] = 7  # the last taps of the only window
    assert np.array_equal(np.array(mx.grad(loss)(x)), right)


def test_a_shared_filter_between_strides_of_millions_is_not_listed():
    assert is_short(Axis(100, 12, 147, 160))
    assert not is_short(Axis(2, 1, 2**24, 3))
    y = polyconv.upfirdn([2.0], mx.ones((1, 2, 2)), up=3, down=2**24, axis=1)
    assert mx.array_equal(y, mx.full((1, 1, 2), 2.0)).item()


def test_a_packed_weight_is_not_cut_for_a_call_without_samples():
    taps = 2**18
    w = polyconv.pack(mx.broadcast_to(mx.zeros((1, 1, 1)), (2, taps, 2)))
    y = polyconv.conv_transpose1d(mx.zeros((0, 6, 2)), w, taps)
    assert y.shape == (0, 6 * taps, 2)
    assert not w._taps  # to name the taps of each phase took minutes, of 2^22


def test_a_list_or_array_set_as_groups_is_seen():
    layer = polyconv.PolyConvTranspose1d(4, 2, 3)
    layer.groups = [1, 1]
    assert "groups must be an int" in refused(layer, X)
    layer.groups = mx.array(2)
    # Before 0.32 MLX's arrays are no index of Python's.
    read = hasattr(mx.array, "__index__")
    assert ("weight's last axis must be" if read else "groups must") in refused(layer, X)
    converted = nn.ConvTranspose1d(4, 2, 3)
    polyconv.convert(converted)
    assert converted.groups == 1
    assert converted.max_workspace is None


def test_layers_refuse_sizes_that_mlx_cannot_count():
    for sizes in ((2**31, 1, 1), (1, 2**31, 1), (1, 1, 2**40), (2**16, 2**16, 1)):
        for kind in (polyconv.PolyConvTranspose1d, polyconv.StreamingConv1d):
            assert "must fit in" in refused(kind, *sizes)
    assert polyconv.PolyConvTranspose(1, 1, 3, ndim=np.int64(2))(mx.ones((1, 2, 2, 1))).ndim == 4


def test_explain_reads_shapes_and_words():
    for x in (3, None, [1, 2.5, 3], [10**5000, 1, 1], "181"):
        refused(polyconv.explain, "conv_transpose1d", x, (2, 3, 4))
    refused(polyconv.explain, np.array(["conv_general"]), (1, 6, 4), (2, 3, 4))
    refused(polyconv.explain_model, 3, (1, 6, 4))
    layer = nn.ConvTranspose1d(4, 2, 3)
    for shape in (0, (-1, 2, 4), (2**31, 2, 4)):
        refused(polyconv.explain_model, layer, shape)
    refused(polyconv.explain_model, layer, (1, 6, 4), dtype=mx.float32)


def test_explain_tells_of_a_call_that_reads_padding_alone():
    told = polyconv.explain("conv_general", (1, 3, 6, 1), (7, 1, 6, 1), stride=(6, 3),
                            padding=1048583, kernel_dilation=(2, 1), input_dilation=3)  # fmt: skip
    assert "per_phase" in str(told)


def test_convert_reads_its_arguments():
    model = nn.Sequential(nn.ConvTranspose1d(4, 2, 3))
    assert "predicate must be callable" in refused(polyconv.convert, model, "layers.0")
    assert "exploit_sparsity" in refused(polyconv.convert, model, exploit_sparsity=1)
    assert "cpu_convs must be True or False" in refused(polyconv.patch, 1)
    for stride in ([2, None], 10**400, (1, [2])):
        odd = nn.ConvTranspose1d(4, 2, 3)
        odd.stride = stride
        assert polyconv.convert(odd)[0].saving is None


def test_groups_that_end_the_process_in_mlx_are_refused_where_patched():
    with polyconv.patched():
        for groups in (0, -1):
            for op, x, w in (("conv_transpose1d", X, W), ("conv1d", X, W), ("conv_general", X, W)):
                text = refused(getattr(mx, op), x, w, groups=groups)
                assert text == f"[{op}] groups must be at least 1; got {groups}"


def test_classes_of_converted_layers_go_with_the_layers():
    collect()
    before = len(converted_classes._CLASSES)
    for _ in range(20):
        made = type("Mine", (nn.ConvTranspose1d,), {})(4, 2, 3)
        polyconv.convert(made)
        made(X)
    del made
    collect()
    assert len(converted_classes._CLASSES) <= before


@pytest.mark.usefixtures("on_cpu")
def test_a_layer_whose_weight_cannot_be_is_refused():
    """MLX would end the process where it is evaluated."""
    with mock.patch("polyconv.execution.memory.memory_here", return_value=2**20):
        for name in ("PolyConvTranspose1d", "StreamingConvTranspose1d", "StreamingConv1d"):
            text = refused(getattr(polyconv, name), 1000, 100, 10)
            assert text == f"[{name}] the weight must fit into 1048576 bytes; got 4000000"


def test_the_samples_of_a_vast_kernel_are_found_at_once():
    taps = 2**28
    axis = Axis(6, taps, input_dilation=2, padding_lo=taps - 1, padding_hi=taps - 1)
    assert read_by(axis, (0, axis.output_size)) == (0, 6)
    assert read_by(axis, (0, 3)) == (0, 2)


def test_what_was_got_is_what_was_given():
    x = mx.ones((1, 9, 4))
    for window in (5.0, b"hann", {1}, None):
        told = refused(polyconv.resample_poly, mx.ones((4,)), 3, 2, window=window)
        assert told.startswith("[resample_poly] window must be an array or a list of real numbers")
        assert told.endswith(f"got {window!r}")
    assert refused(polyconv.upfirdn, 5.0, x).startswith("[upfirdn] h must be an array or a list")
    assert "got {}" in refused(polyconv.ResampleStream(3, 2).resample_chunk, {})
    told = refused(polyconv.explain, "conv_transpose1d", x, mx.ones((2, 3, 4)))
    assert told == (
        "[explain] input must be a shape, ints in a list or tuple; got an array of shape (1, 9, 4)"
    )
    told = refused(polyconv.explain, "conv_transpose1d", (1, 9, 4), np.ones(12, int))
    assert told.endswith(
        "weight must be a shape, ints in a list or tuple; got an array of shape (12,)"
    )
    shape = polyconv.explain("conv_transpose1d", np.array([1, 9, 4]), mx.array([2, 3, 4]))
    assert shape.output_shape == (1, 11, 2)
