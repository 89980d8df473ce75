"""Checkpoints of PyTorch, written and read without it: what is in them is never executed."""

from __future__ import annotations

import os
import pickle
import subprocess

import checkpoint
import hifigan
import mlx.core as mx
import numpy as np
import pytest
import torch_file
from mlx.utils import tree_flatten

from tests.campaigns import fuzz_checkpoints
from tests.support.refusals import LONGEST


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
