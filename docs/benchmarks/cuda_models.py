"""Whole models on an NVIDIA GPU: MLX, polyconv, both compiled, PyTorch eager and as a graph.

    python docs/benchmarks/cuda_models.py [--out cuda_models.json] [--seconds 500] [--only NAME ...]

Milliseconds of a call, calls in flight, medians of interleaved rounds, and the peak of memory
beyond weights and inputs. The networks are alike in both frameworks, with random weights. PyTorch
may use TF32, and cuDNN's fastest algorithms; pictures and volumes it takes channels last too.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
import numpy as np

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parents[1]), str(HERE.parents[1] / "examples")]

from hifigan import VARIANTS, Generator  # noqa: E402

import polyconv  # noqa: E402
from polyconv.bench.frameworks import Run  # noqa: E402
from polyconv.bench.stopwatch import rounded, timed  # noqa: E402
from polyconv.bench.timing import interleaved  # noqa: E402
from polyconv.inspection import explain  # noqa: E402

# Layers behind each other: "up" and "conv" with channels in and out, taps, stride and padding, a
# "skip" of so many channels that is joined, and activations.
Steps = list[tuple[Any, ...]]
RELU, TANH = ("relu",), ("tanh",)


def dcgan() -> Steps:
    widths = (512, 256, 128, 64)
    steps: Steps = [("up", 100, 512, 4, 1, 0), RELU]
    for a, b in zip(widths, (*widths[1:], 3)):
        steps += [("up", a, b, 4, 2, 1), RELU if b > 3 else TANH]
    return steps


def decoder_2d() -> Steps:
    steps: Steps = []
    for a in (512, 256, 128):
        steps += [("up", a, a // 2, 2, 2, 0), ("skip", a // 2), ("conv", a, a // 2, 3, 1, 1), RELU]
    return [*steps, ("conv", 64, 3, 1, 1, 0)]


def decoder_3d() -> Steps:
    steps: Steps = []
    for a, b in zip((256, 128, 64, 32), (128, 64, 32, 1)):
        steps += [("up", a, b, 4, 2, 1), RELU if b > 1 else TANH]
    return steps


# The layers, or HiFi-GAN's variant; the shape of the input, channels last; those of skips.
MODELS: dict[str, tuple[Any, tuple[int, ...], tuple[tuple[int, ...], ...]]] = {
    "HiFi-GAN V1, 1 x 862": ("v1", (1, 862, 80), ()),
    "HiFi-GAN V1, 16 x 862": ("v1", (16, 862, 80), ()),
    "DCGAN 64, batch 64": (dcgan(), (64, 1, 1, 100), ()),
    "2D U-Net decoder, 8 x 16x16": (
        decoder_2d(),
        (8, 16, 16, 512),
        ((8, 32, 32, 256), (8, 64, 64, 128), (8, 128, 128, 64)),
    ),
    "3D decoder 8^3 -> 128^3": (decoder_3d(), (1, 8, 8, 8, 256), ()),
}
# What is timed of a model, whether it is converted, and whether its weights are packed.
CONVERTED = (("MLX", False, False), ("polyconv", True, False), ("polyconv packed", True, True))
TRAINED = {"train step HiFi-GAN V1, 4 x 32": 4, "train step HiFi-GAN V1, 16 x 32": 16}


class Chain(nn.Module):
    """Steps in MLX."""

    def __init__(self, steps: Steps, ndim: int) -> None:
        super().__init__()
        self._steps, self.layers = steps, []
        up = {2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}[ndim]
        conv = {2: nn.Conv2d, 3: nn.Conv3d}[ndim]
        for kind, *given in steps:
            if kind in ("up", "conv"):
                a, b, k, s, p = given
                self.layers.append((up if kind == "up" else conv)(a, b, k, stride=s, padding=p))

    def __call__(self, x: mx.array, *skips: mx.array) -> mx.array:
        layers, rest = iter(self.layers), iter(skips)
        for kind, *_ in self._steps:
            if kind in ("up", "conv"):
                x = next(layers)(x)
            elif kind == "skip":
                x = mx.concatenate([x, next(rest)], -1)
            else:
                x = nn.relu(x) if kind == "relu" else mx.tanh(x)
        return x


def mlx_model(what: Any, ndim: int, dtype: str, ours: bool, packed: bool = False) -> nn.Module:
    mx.random.seed(0)
    model = Generator(VARIANTS[what]) if isinstance(what, str) else Chain(what, ndim)
    model.set_dtype(getattr(mx, dtype))
    mx.eval(model.parameters())
    if ours:
        polyconv.convert(model, packed=packed)
    return model


def mlx_runs(what: Any, inputs: list[np.ndarray], dtype: str) -> dict[str, Run]:
    arrays = [mx.array(a).astype(getattr(mx, dtype)) for a in inputs]
    mx.eval(arrays)
    runs: dict[str, Run] = {}
    for name, ours, packed in CONVERTED:
        model = mlx_model(what, arrays[0].ndim - 2, dtype, ours, packed)
        compiled = mx.compile(lambda *a, model=model: model(*a))
        runs[name] = lambda model=model: model(*arrays)
        runs[f"{name} compiled"] = lambda compiled=compiled: compiled(*arrays)
    return runs


def mlx_steps(batch: int) -> dict[str, Run]:
    """A step of Adam on a mean of squares, for HiFi-GAN with all its convolutions converted."""
    x, target = mx.random.normal((batch, 32, 80)), mx.random.normal((batch, 8192, 1))
    runs: dict[str, Run] = {}
    for name, ours in (("MLX", False), ("polyconv", True)):
        for compiled in (False, True):
            model = mlx_model("v1", 1, "float32", False)
            if ours:
                polyconv.convert(model, cpu_convs=True)
            adam = optim.Adam(1e-4)
            gradient = nn.value_and_grad(model, lambda m, x, y: ((m(x) - y) ** 2).mean())
            runs[name + " compiled" * compiled] = _step(model, adam, gradient, x, target, compiled)
    return runs


def _step(
    model: nn.Module, adam: Any, gradient: Any, x: mx.array, target: mx.array, compiled: bool
) -> Run:
    state = [model.state, adam.state]

    def step(x: mx.array, target: mx.array) -> mx.array:
        loss, grads = gradient(model, x, target)
        adam.update(model, grads)
        return loss

    called: Callable[..., mx.array] = step
    if compiled:
        called = mx.compile(step, inputs=state, outputs=state)

    def run() -> mx.array:
        loss = called(x, target)
        mx.async_eval(loss, state)
        return loss

    return run


def torch_runs(what: Any, inputs: list[np.ndarray], dtype: str) -> dict[str, Run]:
    """Eager and as a captured graph; channels last too in 2D and 3D."""
    import torch

    device, kind = _device(), getattr(torch, dtype)
    ndim = inputs[0].ndim - 2
    first = [torch.from_numpy(np.ascontiguousarray(np.moveaxis(a, -1, 1))) for a in inputs]
    runs: dict[str, Run] = {}
    layouts = {2: torch.channels_last, 3: torch.channels_last_3d}
    for name, layout in (("torch", torch.contiguous_format), ("torch last", layouts.get(ndim))):
        if layout is None:
            continue
        model = _torch_model(what, ndim).to(device, kind, memory_format=layout)
        arrays = [a.to(device, kind).contiguous(memory_format=layout) for a in first]

        def run(model: Any = model, arrays: Any = arrays) -> Any:
            with torch.no_grad():
                return model(*arrays)

        runs[name] = run
        if device == "cuda":
            runs[f"{name} graph"] = captured(run)
    return runs


def torch_steps(batch: int) -> dict[str, Run]:
    import torch

    device = _device()
    model = _torch_model("v1", 1).to(device)
    x, target = [torch.randn(*s, device=device) for s in ((batch, 80, 32), (batch, 1, 8192))]
    adam = torch.optim.Adam(model.parameters(), 1e-4, fused=device == "cuda")

    def run() -> Any:
        adam.zero_grad(set_to_none=True)
        loss = ((model(x) - target) ** 2).mean()
        loss.backward()
        adam.step()
        return loss.detach()

    return {"torch": run}


def _device() -> str:
    import torch

    torch.backends.cudnn.benchmark = torch.backends.cudnn.allow_tf32 = True
    torch.backends.cuda.matmul.allow_tf32 = True
    return "cuda" if torch.cuda.is_available() else "cpu"


def captured(run: Run) -> Run:
    """The same, replayed from one CUDA graph."""
    import torch

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            run()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y = run()

    def replay() -> Any:
        graph.replay()
        return y

    return replay


def _torch_model(what: Any, ndim: int) -> Any:
    import torch
    from torch.nn import functional as f

    def conv(a: int, b: int, k: int, s: int = 1, p: int = 0, d: int = 1, up: bool = False) -> Any:
        kind = getattr(torch.nn, f"Conv{'Transpose' if up else ''}{ndim}d")
        return kind(a, b, k, s, p) if up else kind(a, b, k, s, p, d)

    class TorchChain(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            made = [conv(*each[1:], up=each[0] == "up") for each in what if len(each) == 6]
            self.layers = torch.nn.ModuleList(made)

        def forward(self, x: Any, *skips: Any) -> Any:
            layers, rest = iter(self.layers), iter(skips)
            for kind, *_ in what:
                if kind in ("up", "conv"):
                    x = next(layers)(x)
                elif kind == "skip":
                    x = torch.cat([x, next(rest)], 1)
                else:
                    x = torch.relu(x) if kind == "relu" else torch.tanh(x)
            return x

    class TorchGenerator(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            sizes = VARIANTS[what]
            widths = [sizes.upsample_initial_channel >> i for i in range(5)]
            self.pre, self.post = conv(80, widths[0], 7, p=3), conv(widths[-1], 1, 7, p=3)
            steps = zip(widths, widths[1:], sizes.upsample_kernel_sizes, sizes.upsample_rates)
            ups = [conv(a, b, k, s, (k - s) // 2, up=True) for a, b, k, s in steps]
            self.ups = torch.nn.ModuleList(ups)
            blocks = [
                [conv(c, c, k, p=each * (k - 1) // 2, d=each) for d in ds for each in (d, 1)]
                for c in widths[1:]
                for k, ds in zip(sizes.resblock_kernel_sizes, sizes.resblock_dilation_sizes)
            ]
            self.blocks = torch.nn.ModuleList([torch.nn.ModuleList(each) for each in blocks])

        def forward(self, x: Any) -> Any:
            x = self.pre(x)
            for i, up in enumerate(self.ups):
                x = up(f.leaky_relu(x, 0.1))
                total = 0
                for block in self.blocks[3 * i : 3 * i + 3]:
                    y = x
                    for dilated, plain in zip(block[::2], block[1::2]):
                        y = y + plain(f.leaky_relu(dilated(f.leaky_relu(y, 0.1)), 0.1))
                    total = total + y
                x = total / 3
            return torch.tanh(self.post(f.leaky_relu(x, 0.01)))

    return TorchGenerator() if isinstance(what, str) else TorchChain()


def torch_peak(run: Run) -> int:
    """Bytes beyond what lives before."""
    import torch

    if not torch.cuda.is_available():
        return 0
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    run()
    torch.cuda.synchronize()
    return int(torch.cuda.max_memory_allocated() - before)


def row(
    name: str, dtype: str, runs: dict[str, Run], theirs: dict[str, Run], seconds: float
) -> dict[str, Any]:
    peaks = {each: torch_peak(run) for each, run in theirs.items() if "graph" not in each}
    for each, run in runs.items():
        mx.clear_cache()
        timed(run)
        peaks[each] = timed(run)[2]
    timings = interleaved({**runs, **theirs}, rounds=9, seconds=seconds)
    told = {each.name: rounded(each.median) for each in timings}
    mib = {each: round(size / 2**20) for each, size in peaks.items()}
    print(name, dtype, told, mib, flush=True)
    return {"name": name, "dtype": dtype, "ms": told, "peak_mib": mib}


def rows(only: list[str], seconds: float, small: bool, has_torch: bool) -> Any:
    until, each = time.monotonic() + seconds, max(2.0, seconds / 30)
    rng = np.random.default_rng(0)
    for name, (what, shape, skips) in MODELS.items():
        for dtype in ("float32", "float16"):
            if not _asked(only, name) or time.monotonic() > until:
                continue
            n = min(shape[1], 16) if small and isinstance(what, str) else shape[1]
            shapes = [(1 if small else shape[0], n, *shape[2:])]
            shapes += [((1 if small else s[0]), *s[1:]) for s in skips]
            inputs = [rng.standard_normal(s).astype(np.float32) for s in shapes]
            theirs = torch_runs(what, inputs, dtype) if has_torch else {}
            yield row(name, dtype, mlx_runs(what, inputs, dtype), theirs, each)
            mx.clear_cache()
    for name, batch in TRAINED.items():
        if _asked(only, name) and time.monotonic() < until:
            theirs = torch_steps(batch) if has_torch else {}
            yield row(name, "float32", mlx_steps(batch), theirs, each)
            mx.clear_cache()


def _asked(only: list[str], name: str) -> bool:
    return not only or any(each in name for each in only)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=HERE / "cuda_models.json")
    parser.add_argument("--seconds", type=float, default=500)
    parser.add_argument("--only", nargs="*", default=[], help="parts of names of models")
    parser.add_argument("--alone", action="store_true", help="without PyTorch")
    parser.add_argument("--small", action="store_true", help="one item of few samples, as a trial")
    given = parser.parse_args()
    gpu = mx.device_info(mx.gpu).get("device_name") if mx.default_device() == mx.gpu else None
    what = [*explain.doctor().splitlines(), f"GPU: {gpu}"]
    has_torch = False
    with contextlib.suppress(ImportError):
        import torch

        what.append(f"PyTorch {torch.__version__}, cuDNN {torch.backends.cudnn.version()}")
        has_torch = not given.alone
    found: list[dict[str, Any]] = []
    for each in rows(given.only, given.seconds, given.small, has_torch):
        found.append(each)
        lines = ",\n".join(f"  {json.dumps(each)}" for each in found)
        head = json.dumps({"what": what}, indent=1)[:-2]
        given.out.write_text(f'{head},\n "rows": [\n{lines}\n ]\n}}\n')


if __name__ == "__main__":
    main()
