"""Hostile input, a test for each defect that the campaign (`fuzz.py`) found, and checkpoints."""

import os
import subprocess
import sys
from pathlib import Path
from unittest import mock

import checkpoint
import fuzz_checkpoints
import fuzz_files
import fuzz_inputs
import hifigan
import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
import torch_file
from fuzz_judge import LONGEST
from mlx.utils import tree_flatten

import polyconv
from polyconv.__main__ import main
from polyconv.bench import cases
from polyconv.distributed.sharding import read_by
from polyconv.execution.toeplitz import is_short
from polyconv.models import converted_classes
from polyconv.problem.spec import Axis

ROOT = Path(__file__).parents[1]
X, W = mx.ones((1, 6, 4)), mx.ones((2, 3, 4))


def refused(call, *args, **kwargs):
    """The error, which must be one sentence."""
    with pytest.raises(ValueError, match=r"^\[[\w.]+\] .+; got .+$") as error:
        call(*args, **kwargs)
    text = str(error.value)
    assert "\n" not in text
    assert len(text) <= LONGEST
    return text


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
        assert "dtype must be" in refused(polyconv.conv_general, x, w, groups=2)


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


@pytest.mark.parametrize(
    ("name", "value"),
    [("in_channels", "x" * 99), ("kernel_size", np.ones((2, 0))), ("stride", None), ("bias", 1)],
)
def test_streaming_convolutions_read_their_arguments(name, value):
    refused(
        polyconv.StreamingConv1d,
        **{"in_channels": 1, "out_channels": 1, "kernel_size": 3, name: value},
    )


@pytest.mark.usefixtures("on_cpu")  # whose room is its memory
def test_a_stream_refuses_states_caches_and_resets_that_are_none():
    state = polyconv.stream_init("conv_transpose1d", W, stride=2)
    for field, value in {
        "tail": mx.ones((1, 9, 4)),
        "position": 10**30,
        "timeline": (3, 1, 2, 1, 0, 0),
        "groups": "1",
        "flip": None,
    }.items():
        text = refused(polyconv.stream_step, state._replace(**{field: value}), X, W)
        assert "state must be one that stream_init made" in text
    for reset in (True, mx.array([1]), mx.array([True, False])):
        assert "reset must be" in refused(polyconv.stream_step, state, X, W, reset=reset)
    layer = polyconv.StreamingConv1d(4, 2, 3)
    for cache in (3, "cache"):
        assert "cache must be a StreamCache" in refused(layer.step, X, cache)
    cache = polyconv.StreamCache()
    cache.state = 3
    assert "cache must be a StreamCache" in refused(layer.flush, cache)
    assert "x must be float" in refused(polyconv.stream_init, "conv1d", W, dtype=mx.int32)
    assert "int32" in refused(polyconv.stream_init, "conv1d", W, dilation=2**40)
    assert "int32" in refused(polyconv.stream_init, "conv1d", W[:, :1], batch=10**18)
    with mock.patch("polyconv.execution.memory.memory_here", return_value=2**20):
        text = refused(polyconv.stream_init, "conv1d", W, dilation=2**18)
    assert "must fit into 1048576 bytes" in text


def test_a_model_that_multiplies_by_no_number_is_not_streamed():
    class Mine(nn.Module):
        def __call__(self, x):
            return x * [[2]]

    text = refused(polyconv.stream, Mine())
    assert "combines a signal with [[2]]" in text


@pytest.mark.parametrize(
    ("name", "value"),
    [("up", 2.5), ("mode", np.array(["wrap"])), ("axis", None), ("cval", "1"), ("cval", 10**400)],
)
def test_upfirdn_reads_its_arguments(name, value):
    refused(polyconv.upfirdn, [1.0], mx.ones((4,)), **{name: value})
    refused(polyconv.upfirdn, fuzz_inputs.Endless(), mx.ones((4,)))
    for taps in ([1j], [[0], []], [[1.0]], [10**400], None, "1"):
        refused(polyconv.upfirdn, taps, mx.ones((4,)))
    assert polyconv.upfirdn([1.0], mx.ones((4,)), axis=np.int64(0)).shape == (4,)


def test_resampling_reads_its_arguments():
    for more in ({"window": ("kaiser", "x")}, {"window": {}}, {"padtype": []}, {"cval": "x"}):
        refused(polyconv.resample_poly, mx.ones((4,)), 3, 2, **more)
    assert "must be at most" in refused(polyconv.resample_poly, mx.ones((4,)), 10**7, 3)
    stream = polyconv.ResampleStream(3, 2)
    for chunk in (None, "x", {}, [[1, 2, 3]], [1j]):
        refused(stream.resample_chunk, chunk)
    refused(stream.resample_chunk, [1.0], np.array([1, 2]))


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
    import gc

    gc.collect()
    before = len(converted_classes._CLASSES)
    for _ in range(20):
        made = type("Mine", (nn.ConvTranspose1d,), {})(4, 2, 3)
        polyconv.convert(made)
        made(X)
    del made
    gc.collect()
    assert len(converted_classes._CLASSES) <= before


RATES = ["2.5", "true", "[" * 10**5, '{"rates": 3}', '{"rates": {"cpu": {}}}', "\x00", "{", ""]
RATES += ['{"rates": {"cpu": {"per_mac": 1e-9, "per_conv": "x" , "per_byte_moved": 0}}}']


@pytest.mark.parametrize("text", RATES, ids=lambda text: text[:20])
def test_files_that_hold_no_rates(text, tmp_path):
    path = tmp_path / "rates.json"
    path.write_text(text)
    refused(polyconv.use_rates, path)
    for odd in (3, [str(path)], "\x00"):
        refused(polyconv.use_rates, odd)
    path.write_bytes(b"\xff\xfe\xaa")
    refused(polyconv.use_rates, path)


CASES = {
    "a.csv": [b"model\nx", b"\xff", fuzz_files._CSV.replace(b"1,1,1", b"%d,0,1" % 10**30)],
    "a.toml": [b"", b"\xff", b"case = 3", b"[[case]]\nname = 3", b"x" * 5000, b"[" * 10**5],
}


@pytest.mark.parametrize(("name", "content"), [(n, c) for n in CASES for c in CASES[n]])
def test_files_that_hold_no_cases(name, content, tmp_path):
    pytest.importorskip("tomllib")
    path = tmp_path / name
    path.write_bytes(content)
    refused(cases.read, path)


@pytest.mark.parametrize("command", ["explain", "bench", "doctor"])
def test_the_command_line_answers_in_one_short_line(command, capsys):
    for words in (["9" * 5000], ["a\nb"], ["conv_general", "--input", "9" * 5000]):
        with pytest.raises(SystemExit) as leaves:
            main([command, *words])
        told = capsys.readouterr().err
        assert leaves.value.code == 2
        assert len(told) < 400
        assert told.count("\n") == 1
        assert told.startswith("polyconv")


# ---- checkpoints: those of PyTorch are read without it, and never executed


@pytest.mark.parametrize("write", [fuzz_checkpoints.torch_bytes, fuzz_checkpoints.legacy_bytes])
def test_a_checkpoint_is_read(write, tmp_path):
    data = np.arange(6, dtype=np.float32)
    path = tmp_path / "model.pt"
    path.write_bytes(write({"a": fuzz_checkpoints.tensor("0", (2, 3))}, {"0": data.tobytes()}))
    assert np.array_equal(torch_file.load_torch_file(path)["a"], data.reshape(2, 3))


@pytest.mark.parametrize("write", [fuzz_checkpoints.torch_bytes, fuzz_checkpoints.legacy_bytes])
def test_a_pickle_that_would_run_code_is_refused_and_not_run(write, tmp_path):
    trace = tmp_path / "executed"
    text = f"open({str(trace)!r}, 'w')"
    calls = [(os.system, f"touch {trace}"), (open, str(trace), "w"), (eval, text), (exec, text)]
    calls += [(subprocess.getoutput, f"touch {trace}")]
    for call in calls:
        path = tmp_path / "model.pt"
        evil = fuzz_checkpoints._Runs(*call)
        path.write_bytes(write({"a": evil}, {}))
        with pytest.raises(ValueError, match=r"refused to load: the pickle names") as error:
            torch_file.load_torch_file(path)
        assert "\n" not in str(error.value)
        assert not trace.exists()


def test_such_a_pickle_would_run_if_pickle_read_it(tmp_path):
    """Or the test above could not fail."""
    import pickle

    trace = tmp_path / "executed"
    pickle.loads(fuzz_checkpoints._pickled(fuzz_checkpoints._Runs(open, str(trace), "w"))).close()
    assert trace.exists()


def test_errors_that_quote_the_file_are_one_line(tmp_path):
    path = tmp_path / "model.pt"
    for content in (b"F1\xff\r\x0b2\n.", b"F" + b"\x85\x0b" * 400 + b"\n.", b"c\na\x0bb\nc\n."):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"model\.pt: ") as error:
            torch_file.load_torch_file(path)
        assert len(str(error.value).removeprefix(str(path)).splitlines()) == 1
        assert len(str(error.value).removeprefix(str(path))) < LONGEST


def test_every_truncation_of_a_checkpoint_is_one_error(tmp_path):
    path = tmp_path / "model.pt"
    for write in (fuzz_checkpoints.torch_bytes, fuzz_checkpoints.legacy_bytes):
        whole = write({"a": fuzz_checkpoints.tensor("0", (2, 3))}, {"0": bytes(24)})
        for n in range(0, len(whole) - 1, 3):
            path.write_bytes(whole[:n])
            with pytest.raises(ValueError, match=r"^[^\n]+model\.pt: [^\n]{1,300}$"):
                torch_file.load_torch_file(path)


def test_declared_sizes_allocate_nothing(tmp_path):
    path = tmp_path / "model.pt"
    for size in (2**40, 2**62, 10**30, -1):
        for write in (fuzz_checkpoints.torch_bytes, fuzz_checkpoints.legacy_bytes):
            path.write_bytes(
                write({"a": fuzz_checkpoints.tensor("0", (size,), size)}, {"0": bytes(24)})
            )
            with pytest.raises(ValueError, match=r"model\.pt: "):
                torch_file.load_torch_file(path)
    bomb = fuzz_checkpoints.torch_bytes(
        {"a": fuzz_checkpoints.tensor("0", (2**20,))}, {"0": bytes(2**22)}, True
    )
    path.write_bytes(bomb)
    assert len(bomb) < 2**16
    with pytest.raises(ValueError, match="compressed"):
        torch_file.load_torch_file(path)


def test_names_in_a_checkpoint_that_are_no_text_or_no_line(tmp_path):
    generator = hifigan.Generator(fuzz_checkpoints._GENERATOR)
    path = tmp_path / "model.safetensors"
    arrays = {
        name: mx.zeros(checkpoint._torch_shape(name, value.shape))
        for name, value in tree_flatten(generator.parameters())
    }
    mx.save_safetensors(str(path), {**arrays, "a\nb": mx.ones((2,))})
    for _ in "ab":
        with pytest.raises(ValueError, match=r"^[^\n]+model\.safetensors: [^\n]+$"):
            checkpoint.load_checkpoint(generator, path)
        path.write_bytes(path.read_bytes().replace(b"a\\nb", b"a\xff\xfe\xfd"))


def test_rates_that_the_environment_names_but_that_are_not_there(tmp_path):
    script = "import polyconv, mlx.core as mx\n"
    script += "try: polyconv.conv1d(mx.zeros((1, 3, 1)), mx.zeros((1, 1, 1)))\n"
    script += "except ValueError as error: print(error)"
    known = {**os.environ, "POLYCONV_RATES": str(tmp_path / "none.json"), "PYTHONPATH": str(ROOT)}
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=known)
    assert ran.stdout.startswith("[POLYCONV_RATES] it must name a file of rates that can be read")


@pytest.mark.usefixtures("on_cpu")
def test_a_layer_whose_weight_cannot_be_is_refused():
    """MLX would end the process where it is evaluated."""
    with mock.patch("polyconv.execution.memory.memory_here", return_value=2**20):
        for name in ("PolyConvTranspose1d", "StreamingConvTranspose1d", "StreamingConv1d"):
            text = refused(getattr(polyconv, name), 1000, 100, 10)
            assert text == f"[{name}] the weight must fit into 1048576 bytes; got 4000000"


def test_a_stream_goes_on_with_a_weight_of_its_kind():
    w = mx.ones((4, 6, 1))
    state = polyconv.stream_init("conv1d", w, stride=2, groups=2)
    text = refused(polyconv.stream_step, state, mx.ones((1, 1, 2)), mx.ones((1, 6, 1)))
    assert "output channels must be divisible by groups=2" in text
    text = refused(polyconv.stream_step, state, mx.ones((1, 1, 2)), mx.ones((4, 6, 2)))
    assert "weight must read 1 channels" in text
    none, _ = polyconv.stream_step(state, mx.ones((1, 1, 2)).astype(mx.float32), w)
    half = polyconv.stream_init("conv1d", w, dtype=mx.float16, stride=2, groups=2)
    none, _ = polyconv.stream_step(half, mx.ones((1, 1, 2), mx.float16), w)
    assert none.shape == (1, 0, 4)
    assert none.dtype == mx.float32  # as that of all other chunks


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


def test_arguments_are_called_as_the_caller_calls_them():
    for rates, name in (((44100.0, 16000), "in_rate"), ((44100, 0), "out_rate")):
        assert refused(polyconv.ResampleStream, *rates).startswith(f"[ResampleStream] {name} must")
    told = refused(polyconv.ResampleStream, 10**7, 3)
    assert "out_rate and in_rate, without common divisors, must be at most" in told
    assert refused(polyconv.resample_poly, mx.ones(4), 2, 1.5).startswith("[resample_poly] down")


class Uncalled(nn.Module):
    """What holds layers for others to call. Counts its instances."""

    made = 0

    def __init__(self, *args):
        super().__init__()
        Uncalled.made += 1
        self.inner = nn.Conv1d(4, 4, 3)


class CallingUncalled(nn.Module):
    def __init__(self):
        super().__init__()
        self.block = Uncalled()

    def __call__(self, x):
        return self.block(x)


class ReachingInto(CallingUncalled):
    def __call__(self, x):
        return self.block.inner(x)


def test_a_module_that_cannot_be_called_is_not_made_anew():
    models = [Uncalled(), CallingUncalled(), ReachingInto()]
    before = Uncalled.made
    told = refused(polyconv.stream, models[0])
    assert told == (
        "[stream] model must be an mlx.nn.Module that can be called; "
        "got Uncalled, which has no __call__"
    )
    assert "'Uncalled' object is not callable" in refused(polyconv.stream, models[1])
    x = mx.ones((1, 9, 4))
    streamed = polyconv.stream(models[2])
    assert mx.concatenate([streamed.step(x), streamed.flush()], 1).shape == (1, 7, 4)
    assert Uncalled.made == before
