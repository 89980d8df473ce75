"""Output and gradients of eleven layers on an NVIDIA GPU: MLX's own, polyconv and PyTorch.

    python docs/benchmarks/cuda_layers.py [--out cuda_layers.json] [--dtype float32] [--seconds 240]

Milliseconds of the forward pass, each gradient alone, and all together, also compiled and by
PyTorch's captured graph, calls in flight, in interleaved rounds. The layers are those of HiFi-GAN
V1 in training, DCGAN, 2D and 3D decoders. With `--ways` also other ways to compute the gradient of
the weight, by which a rule was chosen.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from cuda_models import captured

import polyconv
from polyconv.bench.frameworks import Run
from polyconv.bench.stopwatch import rounded
from polyconv.bench.timing import interleaved
from polyconv.gradients.unfolded import unfolded
from polyconv.inspection import explain
from polyconv.planning.devices import CUDA
from polyconv.planning.methods import lower_ordinary
from polyconv.planning.plan import ConvPlan
from polyconv.problem.signatures import problem_of

HERE = Path(__file__).parent
Layer = tuple[str, tuple[int, ...], tuple[int, ...], dict[str, Any]]
LAYERS: dict[str, Layer] = {
    "up1 16x32 512->256 K16 s8": (
        *("conv_transpose1d", (16, 32, 512), (256, 16, 512)),
        {"stride": 8, "padding": 4},
    ),
    "up2 16x256 256->128 K16 s8": (
        *("conv_transpose1d", (16, 256, 256), (128, 16, 256)),
        {"stride": 8, "padding": 4},
    ),
    "up3 16x2048 128->64 K4 s2": (
        *("conv_transpose1d", (16, 2048, 128), (64, 4, 128)),
        {"stride": 2, "padding": 1},
    ),
    "up4 16x4096 64->32 K4 s2": (
        *("conv_transpose1d", (16, 4096, 64), (32, 4, 64)),
        {"stride": 2, "padding": 1},
    ),
    "conv1d 256 K7 d3, 16x256": (
        *("conv1d", (16, 256, 256), (256, 7, 256)),
        {"padding": 9, "dilation": 3},
    ),
    "conv1d 128 K11 d5, 16x2048": (
        *("conv1d", (16, 2048, 128), (128, 11, 128)),
        {"padding": 25, "dilation": 5},
    ),
    "conv1d 32 K11, 16x8192": ("conv1d", (16, 8192, 32), (32, 11, 32), {"padding": 5}),
    "DCGAN3 64x16x16 256->128 4x4 s2": (
        *("conv_transpose2d", (64, 16, 16, 256), (128, 4, 4, 256)),
        {"stride": 2, "padding": 1},
    ),
    "2D 2x2 s2 8x64x64 128->64": (
        *("conv_transpose2d", (8, 64, 64, 128), (64, 2, 2, 128)),
        {"stride": 2},
    ),
    "3D 2x2x2 s2 32^3 64->32": (
        *("conv_transpose3d", (1, 32, 32, 32, 64), (32, 2, 2, 2, 64)),
        {"stride": 2},
    ),
    "strided conv2d 3x3 s2 32x64x64 64->128": (
        *("conv2d", (32, 64, 64, 64), (128, 3, 3, 64)),
        {"stride": 2, "padding": 1},
    ),
}


# The residual convolutions of HiFi-GAN V1 in training, by which the weight's rule was chosen.
RESIDUAL: dict[str, Layer] = {
    f"conv1d {c} K{k} d{d}, 16x{n}": (
        *("conv1d", (16, n, c), (c, k, c)),
        {"padding": d * (k - 1) // 2, "dilation": d},
    )
    for c, n in ((256, 256), (128, 2048), (64, 4096), (32, 8192))
    for k in (3, 7, 11)
    for d in (1, 3, 5)
}


def arrays(layer: Layer, dtype: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    op, x_shape, w_shape, options = layer
    rng = np.random.default_rng(0)
    x, w = [rng.standard_normal(shape).astype(np.float32) for shape in (x_shape, w_shape)]
    w /= np.sqrt(np.prod(w_shape[1:]))
    with mx.stream(mx.cpu):  # the shape alone
        y = getattr(polyconv, op)(*[mx.zeros(s) for s in (x_shape, w_shape)], **options).shape
    return x, w, rng.standard_normal(y).astype(np.float32)


def of_mlx(lib: Any, layer: Layer, given: Any, dtype: str) -> dict[str, Run]:
    """Forward, each gradient and both with the output, of `mx` or polyconv."""
    op, _, _, options = layer
    x, w, dy = [mx.array(a).astype(getattr(mx, dtype)) for a in given]
    mx.eval(x, w, dy)
    call = lambda x, w: getattr(lib, op)(x, w, **options)  # noqa: E731

    def step(x: mx.array, w: mx.array, dy: mx.array) -> list[mx.array]:
        (y,), gradients = mx.vjp(call, [x, w], [dy])
        return [y, *gradients]

    def all_of(step: Callable[..., list[mx.array]]) -> Run:
        def run() -> mx.array:
            found = step(x, w, dy)
            mx.async_eval(found)
            return found[-1]

        return run

    return {
        "fwd": lambda: call(x, w),
        "dx": lambda: mx.vjp(lambda x: call(x, w), [x], [dy])[1][0],
        "dw": lambda: mx.vjp(lambda w: call(x, w), [w], [dy])[1][0],
        "both": all_of(step),
        "both compiled": all_of(mx.compile(step)),
    }


def of_torch(layer: Layer, given: Any, dtype: str) -> dict[str, Run]:
    """The same in PyTorch, contiguous and channels last; in 1D the latter as a picture."""
    import torch

    torch.backends.cudnn.benchmark = torch.backends.cudnn.allow_tf32 = True
    torch.backends.cuda.matmul.allow_tf32 = True
    runs: dict[str, Run] = {}
    for layout in ("", " last"):
        for what, run in _torch_layout(layer, given, getattr(torch, dtype), bool(layout)).items():
            runs[what + layout] = run
    return runs


def _torch_layout(layer: Layer, given: Any, dtype: Any, last: bool) -> dict[str, Run]:
    import torch

    op, _, _, options = layer
    ndim = given[0].ndim - 2
    x, w, dy = [torch.from_numpy(np.ascontiguousarray(np.moveaxis(a, -1, 1))) for a in given]
    w = w.transpose(0, 1) if "transpose" in op else w
    more = {**options}
    if last and ndim == 1:  # as a picture of one column, which has a layout for channels last
        x, w, dy = x[..., None], w[..., None], dy[..., None]
        more = {name: (value, {"padding": 0}.get(name, 1)) for name, value in options.items()}
        op, ndim = op.replace("1d", "2d"), 2
    layout = {1: torch.contiguous_format, 2: torch.channels_last, 3: torch.channels_last_3d}[ndim]
    layout = layout if last else torch.contiguous_format
    x, w, dy = [
        a.to("cuda" if torch.cuda.is_available() else "cpu", dtype).contiguous(memory_format=layout)
        for a in (x, w, dy)
    ]
    function = getattr(torch.nn.functional, op)

    def gradients(*wanted: str) -> Callable[[], Any]:
        a, b = x.detach().clone(), w.detach().clone()
        a.requires_grad, b.requires_grad = "x" in wanted, "w" in wanted
        inputs = [each for each, name in ((a, "x"), (b, "w")) if name in wanted]

        def run() -> Any:
            return torch.autograd.grad(function(a, b, **more), inputs, dy)[-1]

        return run

    def forward() -> Any:
        with torch.no_grad():
            return function(x, w, **more)

    runs = {"fwd": forward, "both": gradients("x", "w")}
    if x.is_cuda:
        runs["both graph"] = captured(runs["both"])
    return runs


def ways(layer: Layer, given: Any, dtype: str) -> dict[str, Run]:
    """Other ways to the weight's gradient of an ordinary convolution, or of its transpose."""
    op, _, _, options = layer
    x, w, dy = [mx.array(a).astype(getattr(mx, dtype)) for a in given]
    plain = f"conv{w.ndim - 2}d"
    if "transpose" in op:  # that of the ordinary convolution of `dy`, with cotangent `x`
        x, dy, w = dy, x, mx.contiguous(w.swapaxes(0, -1))
    mx.eval(x, w, dy)
    call = lambda w: getattr(mx, plain)(x, w, **options)  # noqa: E731
    plan = ordinary_plan(plain, x, w, options, dtype)
    ndim = w.ndim - 2
    stride, padding, dilation = [
        [options.get(name, default)] * ndim
        for name, default in (("stride", 1), ("padding", 0), ("dilation", 1))
    ]

    def turned(a: mx.array, lifted: bool) -> mx.array:
        return (mx.expand_dims(a, 1) if lifted else a).swapaxes(0, -1)

    def by_cudnn(lifted: bool) -> Run:
        """cuDNN's gradient of the weight, which MLX asks for by this convolution."""
        front = [1] if lifted else []
        size, taps = x.shape[1:-1], w.shape[1:-1]
        hi = [
            d * (k - 1) + 1 + s * (m - 1) - n - p
            for d, k, s, m, n, p in zip(dilation, taps, stride, dy.shape[1:-1], size, padding)
        ]
        pads = [0] * len(front) + padding, [0] * len(front) + hi
        steps = front + dilation, front + stride

        def run() -> mx.array:
            read, made = turned(x, lifted), turned(dy, lifted)
            found = mx.conv_general(read, made, steps[0], pads, steps[1])
            return (found.squeeze(1) if lifted else found).swapaxes(0, -1)

        return run

    runs: dict[str, Run] = {
        "dw by MLX's rule": lambda: mx.vjp(call, [w], [dy])[1][0],
        "dw by a product": lambda: unfolded(plan)(x, dy).astype(w.dtype),
        "dw by cuDNN": by_cudnn(False),
    }
    if ndim == 1:
        runs["dw by cuDNN in 2D"] = by_cudnn(True)
    return runs


def ordinary_plan(op: str, x: mx.array, w: mx.array, options: Any, dtype: str) -> ConvPlan:
    found = lower_ordinary(problem_of(op, x.shape, w.shape, dtype, options), CUDA)
    assert found is not None
    return found


def row_of_ways(name: str, layer: Layer, dtype: str, seconds: float) -> dict[str, Any]:
    """The gradient of the weight alone, by polyconv and in other ways."""
    given = arrays(layer, dtype)
    ours = of_mlx(polyconv, layer, given, dtype)["dw"]
    runs = {"polyconv dw": ours, **ways(layer, given, dtype)}
    timings = interleaved(runs, rounds=9, seconds=seconds)
    told = {each.name: rounded(each.median) for each in timings}
    print(name, told, flush=True)
    return {"name": name, "dtype": dtype, "ms": told}


def row(
    name: str, layer: Layer, dtype: str, seconds: float, with_ways: bool, has_torch: bool
) -> dict[str, Any]:
    given = arrays(layer, dtype)
    runs = {f"mx {k}": run for k, run in of_mlx(mx, layer, given, dtype).items()}
    runs |= {f"polyconv {k}": run for k, run in of_mlx(polyconv, layer, given, dtype).items()}
    if with_ways:
        runs |= ways(layer, given, dtype)
    if has_torch:
        runs |= {f"torch {k}": run for k, run in of_torch(layer, given, dtype).items()}
    timings = interleaved(runs, rounds=15, seconds=seconds)
    told = {each.name: rounded(each.median) for each in timings}
    peaks = {each.name: each.peak_bytes for each in timings if each.peak_bytes}
    print(name, told, flush=True)
    return {"name": name, "dtype": dtype, "ms": told, "peak_bytes": peaks, "differs": apart(runs)}


def apart(runs: dict[str, Run]) -> dict[str, float]:
    """How far MLX's and polyconv's results are apart, over their scale."""
    found = {}
    pairs = [(f"mx {what}", f"polyconv {what}") for what in ("fwd", "dx", "dw")]
    pairs += [("dw by MLX's rule", name) for name in runs if name.startswith("dw by cuDNN")]
    for first, second in pairs:
        a, b = [runs[name]().astype(mx.float32) for name in (first, second)]
        found[second] = rounded((mx.abs(a - b).max() / mx.abs(a).max()).item())
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=HERE / "cuda_layers.json")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--seconds", type=float, default=240, help="for all layers")
    parser.add_argument("--ways", action="store_true")
    parser.add_argument("--residual", action="store_true", help="other layers, the weight's alone")
    parser.add_argument("--small", action="store_true", help="an item of each batch, as a trial")
    parser.add_argument("--alone", action="store_true", help="without PyTorch")
    given = parser.parse_args()
    has_torch = not given.alone and find_spec("torch") is not None
    gpu = mx.device_info(mx.gpu).get("device_name") if mx.default_device() == mx.gpu else None
    rows: list[dict[str, Any]] = []
    until = time.monotonic() + given.seconds
    layers = RESIDUAL if given.residual else LAYERS
    for name, (op, x, w, options) in layers.items():
        if time.monotonic() > until:
            break
        layer = (op, (1, *[min(n, 16) for n in x[1:-1]], x[-1]) if given.small else x, w, options)
        each = given.seconds / len(layers) / 2
        if given.residual:
            rows.append(row_of_ways(name, layer, given.dtype, each))
        else:
            rows.append(row(name, layer, given.dtype, each, given.ways, has_torch))
        what = [*explain.doctor().splitlines(), f"GPU: {gpu}"]
        lines = ",\n".join(f"  {json.dumps(each)}" for each in rows)
        head = json.dumps({"what": what}, indent=1)[:-2]
        given.out.write_text(f'{head},\n "rows": [\n{lines}\n ]\n}}\n')


if __name__ == "__main__":
    main()
