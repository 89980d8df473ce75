"""Does the vocoder example read PyTorch's checkpoints exactly, and only them?

The reference generator is written here in PyTorch, with weight normalisation, from the
paper and the authors' configs; it shares no code with the example.
"""

from __future__ import annotations

import io
import os
import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs PyTorch, which writes the checkpoints")

import checkpoint  # noqa: E402
import hifigan  # noqa: E402
import torch_file  # noqa: E402

from polyconv import PolyConvTranspose1d  # noqa: E402

F = torch.nn.functional
CONFIGS = {
    1: hifigan.GeneratorConfig((4, 2), (8, 4), 16, 1, (3, 5), ((1, 3), (1, 3))),
    2: hifigan.GeneratorConfig((4, 3), (8, 7), 16, 2, (3, 5), ((1, 2), (2, 6))),
}
NORMS = {
    "weight_g": torch.nn.utils.weight_norm,
    "parametrizations": torch.nn.utils.parametrizations.weight_norm,
    "folded": lambda layer: layer,
}


class TorchBlock(torch.nn.Module):
    def __init__(self, kind, channels, kernel, dilations, norm) -> None:
        super().__init__()

        def stack(steps):
            return torch.nn.ModuleList(
                norm(torch.nn.Conv1d(channels, channels, kernel, dilation=d, padding="same"))
                for d in steps
            )

        if kind == 1:
            self.convs1, self.convs2 = stack(dilations), stack([1] * len(dilations))
        else:
            self.convs = stack(dilations)
        self.kind = kind

    def forward(self, x):
        if self.kind == 2:
            for conv in self.convs:
                x = x + conv(F.leaky_relu(x, 0.1))
            return x
        for first, second in zip(self.convs1, self.convs2, strict=True):
            x = x + second(F.leaky_relu(first(F.leaky_relu(x, 0.1)), 0.1))
        return x


class TorchGenerator(torch.nn.Module):
    def __init__(self, config: hifigan.GeneratorConfig, norm) -> None:
        super().__init__()
        width = config.upsample_initial_channel
        self.conv_pre = norm(torch.nn.Conv1d(80, width, 7, padding=3))
        self.ups, self.resblocks = torch.nn.ModuleList(), torch.nn.ModuleList()
        for rate, kernel in zip(config.upsample_rates, config.upsample_kernel_sizes, strict=True):
            layer = torch.nn.ConvTranspose1d(
                width, width // 2, kernel, rate, padding=(kernel - rate) // 2
            )
            self.ups.append(norm(layer))
            width //= 2
            for size, dilations in zip(
                config.resblock_kernel_sizes, config.resblock_dilation_sizes, strict=True
            ):
                self.resblocks.append(TorchBlock(config.resblock, width, size, dilations, norm))
        self.conv_post = norm(torch.nn.Conv1d(width, 1, 7, padding=3))

    def forward(self, mel):
        x = self.conv_pre(mel)
        blocks = len(self.resblocks) // len(self.ups)
        for i, up in enumerate(self.ups):
            x = up(F.leaky_relu(x, 0.1))
            stage = self.resblocks[i * blocks : (i + 1) * blocks]
            x = torch.stack([block(x) for block in stage]).mean(0)
        return torch.tanh(self.conv_post(F.leaky_relu(x)))


def _torch_generator(config: hifigan.GeneratorConfig, norm: str) -> TorchGenerator:
    torch.manual_seed(0)
    model = TorchGenerator(config, NORMS[norm]).eval()
    # Away from g = ||v||, where folding would be the identity, and loud enough to compare.
    with torch.no_grad():
        for name, value in model.named_parameters():
            if name.endswith(("weight_g", "original0")):
                value.mul_(1.5 + torch.rand_like(value))
            elif norm == "folded" and name.endswith("weight"):
                value.mul_(2)
    return model


def _write(state: object, path: Path) -> Path:
    if path.suffix == ".safetensors":
        mx.save_safetensors(str(path), {k: mx.array(v.numpy()) for k, v in state.items()})
    else:
        torch.save(state, path, _use_new_zipfile_serialization=path.suffix != ".legacy")
    return path


def _match(model: TorchGenerator, config: hifigan.GeneratorConfig, path: Path) -> None:
    generator = hifigan.Generator(config, PolyConvTranspose1d)
    checkpoint.load_checkpoint(generator, path)
    mel = 2 * torch.randn(1, 80, 12, generator=torch.Generator().manual_seed(2)) - 5
    with torch.no_grad():
        want = model(mel)[0, 0].numpy()
    got = np.array(generator(mx.array(mel.transpose(1, 2).numpy())))[0, :, 0]
    assert got.shape == want.shape
    assert want.std() > 0.01
    np.testing.assert_allclose(got, want, atol=1e-4)


@pytest.mark.filterwarnings("ignore:.*weight_norm")
@pytest.mark.parametrize("suffix", [".pt", ".legacy", ".safetensors", ""])
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("block", CONFIGS)
def test_waveform_is_torchs(block: int, norm: str, suffix: str, tmp_path: Path) -> None:
    model = _torch_generator(CONFIGS[block], norm)
    path = _write(model.state_dict(), tmp_path / f"generator{suffix}")
    _match(model, CONFIGS[block], path)


@pytest.mark.filterwarnings("ignore:.*weight_norm")
@pytest.mark.parametrize("suffix", [".pt", ".legacy"])
def test_generator_nested_as_train_py_saves_it(suffix: str, tmp_path: Path) -> None:
    model = _torch_generator(CONFIGS[1], "weight_g")
    path = _write({"generator": model.state_dict()}, tmp_path / f"g_02500000{suffix}")
    _match(model, CONFIGS[1], path)


@pytest.mark.parametrize("suffix", [".pt", ".legacy"])
def test_every_dtype_and_stride(suffix: str, tmp_path: Path) -> None:
    base = torch.arange(24.0).reshape(2, 3, 4)
    wanted = {
        "half": base.half(),
        "bfloat16": base.bfloat16() / 3,
        "double": base.double() / 7,
        "long": base.long(),
        "transposed": base.transpose(0, 2),
        "slice": base[1, :, 1:3],
        "scalar": torch.tensor(3.5),
        "none": torch.zeros(0, 4),
    }
    got = torch_file.load_torch_file(_write(wanted, tmp_path / f"all{suffix}"))
    for name, tensor in wanted.items():
        reference = tensor.float() if name == "bfloat16" else tensor
        np.testing.assert_array_equal(got[name], reference.numpy(), err_msg=name, strict=True)


class Evil:
    def __init__(self, call: object, *arguments: object) -> None:
        self.call, self.arguments = call, arguments

    def __reduce__(self) -> tuple[object, ...]:
        return self.call, self.arguments


@pytest.mark.parametrize("suffix", [".pt", ".legacy"])
@pytest.mark.parametrize("call", [os.mkdir, open, eval, getattr])
def test_malicious_pickle_is_refused(call: object, suffix: str, tmp_path: Path) -> None:
    created = tmp_path / "created"
    arguments = {
        os.mkdir: (str(created),),
        open: (str(created), "w"),
        eval: (f"__import__('os').mkdir({str(created)!r})",),
        getattr: (OrderedDict, "fromkeys"),
    }[call]
    path = _write({"generator": Evil(call, *arguments)}, tmp_path / f"evil{suffix}")
    module = getattr(call, "__module__", "")
    name = f"{module}.{call.__name__}".replace("builtins.", "").replace("_io.", "")
    with pytest.raises(ValueError, match=rf"refused to load: the pickle names .*{name}"):
        checkpoint.load_checkpoint(hifigan.Generator(CONFIGS[1]), path)
    assert not created.exists()


def test_bare_pickle_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "bare.pt"
    path.write_bytes(pickle.dumps(Evil(os.mkdir, str(tmp_path / "created"))))
    with pytest.raises(ValueError, match="refused to load"):
        torch_file.load_torch_file(path)
    assert not (tmp_path / "created").exists()


class Rebuilt:
    """A tensor that pickles with a state, which the unpickler is told to set on it."""

    def __init__(self, tensor: object, state: object) -> None:
        self.tensor, self.state = tensor, state

    def __reduce__(self) -> tuple[object, ...]:
        return (*self.tensor.__reduce_ex__(2), self.state)


@pytest.mark.parametrize("state", [{"shape": (4096,)}, (None, {"shape": (4096,)})])
@pytest.mark.parametrize("suffix", [".pt", ".legacy"])
def test_tensor_cannot_be_changed_after_its_check(
    suffix: str, state: object, tmp_path: Path
) -> None:
    path = _write({"x": Rebuilt(torch.arange(6.0), state)}, tmp_path / f"x{suffix}")
    with pytest.raises(ValueError, match="damaged or not a PyTorch checkpoint"):
        torch_file.load_torch_file(path)


def test_compressed_zip_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "bomb.pt"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bomb/data.pkl", b"\0" * 10000)
    with pytest.raises(ValueError, match="compressed"):
        torch_file.load_torch_file(path)


def _tamper(path: Path, change: dict[str, bytes]) -> None:
    """Rewrite entries of a zip checkpoint, stored as torch.save stores them."""
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in entries.items():
            archive.writestr(name, change.get(name.partition("/")[2], content))


def test_tensor_beyond_its_storage_is_refused(tmp_path: Path) -> None:
    path = _write({"x": torch.arange(6.0)[2:]}, tmp_path / "x.pt")
    buffer = io.BytesIO()
    # The same pickle with the offset moved past the end: BININT1 2, then the shape (4,).
    with zipfile.ZipFile(path) as archive:
        content = archive.read("x/data.pkl")
    assert content.count(b"K\x02K\x04") == 1
    buffer.write(content.replace(b"K\x02K\x04", b"K\x03K\x04"))
    _tamper(path, {"data.pkl": buffer.getvalue()})
    with pytest.raises(ValueError, match="beyond its storage"):
        torch_file.load_torch_file(path)


def test_short_storage_is_refused(tmp_path: Path) -> None:
    path = _write({"x": torch.arange(6.0)}, tmp_path / "x.pt")
    _tamper(path, {"data/0": b"\0" * 20})
    with pytest.raises(ValueError, match="20 bytes where 6 elements"):
        torch_file.load_torch_file(path)


@pytest.mark.parametrize("suffix", [".pt", ".legacy", ".safetensors"])
@pytest.mark.parametrize("kept", [0.0, 0.01, 0.5, 0.99])
def test_truncated_file_is_refused(suffix: str, kept: float, tmp_path: Path) -> None:
    model = _torch_generator(CONFIGS[1], "folded")
    path = _write(model.state_dict(), tmp_path / f"cut{suffix}")
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content))])
    with pytest.raises(ValueError, match=f"cut{suffix}: "):
        checkpoint.load_checkpoint(hifigan.Generator(CONFIGS[1]), path)


def test_wrong_tensors_are_named(tmp_path: Path) -> None:
    state = _torch_generator(CONFIGS[1], "folded").state_dict()

    def refuse(change: dict, match: str, drop: str = "") -> None:
        changed = {k: v for k, v in state.items() if k != drop} | change
        path = _write(changed, tmp_path / "wrong.pt")
        with pytest.raises(ValueError, match=match):
            checkpoint.load_checkpoint(hifigan.Generator(CONFIGS[1]), path)

    refuse(
        {"ups.0.weight": torch.zeros(8, 16, 8)},
        r"ups\.0\.weight has shape \(8, 16, 8\) where \(16, 8, 8\) was expected",
    )
    refuse({"conv_pre.bias": torch.zeros(3)}, r"conv_pre\.bias has shape \(3,\) where \(16,\)")
    refuse({}, r"conv_post\.weight of shape \(1, 4, 7\) is missing", drop="conv_post.weight")
    refuse({"ups.9.bias": torch.zeros(2)}, r"ups\.9\.bias of shape \(2,\) is unexpected")
    refuse({"ups.1.bias": torch.full((4,), np.nan)}, r"ups\.1\.bias holds values that are not")
    refuse({"ups.1.weight_g": torch.ones(8, 1, 1)}, r"ups\.1\.weight_v is missing")
    halves = {"ups.1.weight_g": torch.ones(4, 1, 1), "ups.1.weight_v": torch.ones(8, 4, 4)}
    refuse(halves, r"ups\.1\.weight_g has shape \(4, 1, 1\) where \(8, 1, 1\)")
    refuse({"steps": 3}, "'steps' is not a tensor")


def test_what_no_float32_holds_is_refused(tmp_path: Path) -> None:
    """A float64 is finite, and infinite once it is cast."""
    state = _torch_generator(CONFIGS[1], "folded").state_dict()
    generator = hifigan.Generator(CONFIGS[1])
    before = np.array(generator.conv_pre.weight)

    def load(change: dict) -> None:
        changed = {name: value.numpy() for name, value in state.items()} | change
        path = tmp_path / "large.pt"
        torch.save({name: torch.from_numpy(value) for name, value in changed.items()}, path)
        checkpoint.load_checkpoint(generator, path)

    for value in (1e39, -1e39, 1e300):
        with pytest.raises(ValueError, match=r"ups\.1\.bias holds values that are not finite in"):
            load({"ups.1.bias": np.full(4, value)})
    assert np.array_equal(np.array(generator.conv_pre.weight), before)  # nothing was loaded
    largest = float(np.finfo(np.float32).max)
    load({"ups.1.bias": np.full(4, largest)})
    assert np.array_equal(np.array(generator.ups[1].bias), np.full(4, largest, np.float32))


def test_a_direction_too_long_for_float64_is_refused(tmp_path: Path) -> None:
    """Divided by an infinite length it would be zero."""
    v = np.full((2, 3, 4), 1e200)
    for g, told in ((1.0, "a direction of a length that is not finite"), (1e41, "not finite in f")):
        pair = {"a.weight_g": np.full((2, 1, 1), g), "a.weight_v": v if g == 1 else np.ones_like(v)}
        with pytest.raises(ValueError, match=f"a.weight_g .*{told}"):
            checkpoint.fold_weight_norm(pair)


def test_a_complex_tensor_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "complex.safetensors"
    mx.save_safetensors(str(path), {"conv_pre.bias": mx.array([1j])})
    with pytest.raises(ValueError, match=r"conv_pre\.bias is complex"):
        checkpoint.load_checkpoint(hifigan.Generator(CONFIGS[1]), path)


def test_checkpoint_of_another_variant_is_refused(tmp_path: Path) -> None:
    path = _write(_torch_generator(CONFIGS[2], "folded").state_dict(), tmp_path / "other.pt")
    with pytest.raises(ValueError, match=r"other\.pt: resblocks\.0\.convs1\.0\.weight .*missing"):
        checkpoint.load_checkpoint(hifigan.Generator(CONFIGS[1]), path)
