"""The timings of metal_published_timings.csv as kernels of the model, for metal_fit.py."""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import ceil, prod
from pathlib import Path
from statistics import median

from polyconv.metal import work
from polyconv.metal.gpus import Gpu
from polyconv.metal.kernels import KernelChoice
from polyconv.metal.seconds import Kernel
from polyconv.problem.spec import ITEMSIZE, Axis, ConvSpec

ROWS = Path(__file__).parent / "metal_published_timings.csv"
DTYPES = {"f32": "float32", "f16": "float16", "bf16": "bfloat16", "f16/bf16": "float16"}

# Cores, float32 TFLOP/s, GB/s. A name that does not tell the cores is taken for the larger model.
GPUS = {
    "m1-8c": Gpu(8, 2.617, 68.2),
    "m1-pro-14c": Gpu(14, 4.645, 204.8),
    "m1-pro-16c": Gpu(16, 5.308, 204.8),
    "m1-max": Gpu(32, 10.617, 409.6),
    "m1-ultra-48c": Gpu(48, 15.925, 819.2),
    "m2-8c": Gpu(8, 2.863, 102.4),
    "m2": Gpu(10, 3.579, 102.4),
    "m2-pro-16c": Gpu(16, 5.726, 204.8),
    "m2-max-38c": Gpu(38, 13.6, 409.6),
    "m2-ultra": Gpu(76, 27.2, 800.0),
    "m2-ultra-76c": Gpu(76, 27.2, 800.0),
    "m3": Gpu(10, 4.1, 100.0),
    "m3-10c": Gpu(10, 4.1, 100.0),
    "m3-pro-14c": Gpu(14, 4.97, 150.0),
    "m3-max": Gpu(40, 14.2, 409.6),
    "m3-max-40c": Gpu(40, 14.2, 409.6),
    "m3-ultra-60c": Gpu(60, 21.3, 819.0),
    "m4-10c": Gpu(10, 4.6, 120.0),
    "m4-pro": Gpu(20, 9.2, 273.0),
    "m4-pro-16c": Gpu(16, 7.36, 273.0),
    "m4-pro-20c": Gpu(20, 9.2, 273.0),
    "m4-max": Gpu(40, 18.4, 546.0),
    "m4-max-40c": Gpu(40, 18.4, 546.0),
    "m5-max": Gpu(40, 22.8, 614.0, has_accelerators=True),
}
PATHS = {
    "explicit_unfold_gemm": "explicit_gemm_nd",
    "implicit_gemm_2d": "implicit_gemm_2d",
    "implicit_gemm_2d grouped C/g=1": "implicit_gemm_2d",
    "implicit_gemm_2d_general": "implicit_gemm_2d_general",
    "implicit_gemm_3d": "implicit_gemm_3d",
    "depthwise_2d": "depthwise_2d",
}


@dataclass(frozen=True)
class Timing:
    """What was timed, the seconds published (the median of repeats), and its kernels."""

    source: str
    device: str
    family: str
    what: str
    n_repeats: int
    seconds: float
    kernels: tuple[Kernel, ...]

    @property
    def is_convolution(self) -> bool:
        return self.family not in ("matmul", "matmul, NAX", "copy", "concat", "vector product")


def read() -> list[Timing]:
    """All rows, with those of one thing on one device from one source together."""
    repeats: dict[tuple[str, ...], list[Timing]] = defaultdict(list)
    with ROWS.open(newline="") as lines:
        for row in csv.DictReader(lines):
            timing = _timing(row)
            key = (timing.source, timing.device, timing.family, timing.what)
            repeats[key].append(timing)
    return list(_collapsed(repeats))


def _collapsed(repeats: dict[tuple[str, ...], list[Timing]]) -> Iterator[Timing]:
    for alike in repeats.values():
        seconds = median(each.seconds for each in alike)
        yield replace(alike[0], n_repeats=len(alike), seconds=seconds)


def _timing(row: dict[str, str]) -> Timing:
    gpu, op = GPUS[row["device"]], row["op"]
    make = _convolution if "conv" in op else _product if _is_product(op) else _moved
    family, kernels, flops, n_bytes = make(row, gpu)
    measured = float(row["measured"])
    seconds = {
        "ms": measured / 1e3,
        "GFLOP/s": flops / measured / 1e9,
        "TFLOP/s": flops / measured / 1e12,
        "GB/s": n_bytes / measured / 1e9,
    }[row["unit"].split(" ")[0]]
    shapes = " by ".join(each for each in (row["input_shape"], row["weight_shape"]) if each)
    stride = f", stride {row['stride']}" if row["stride"] not in ("", "1") else ""
    what = f"{op} {shapes}{stride}, {row['dtype']}"
    source = row["source"].split(":")[0].split("@")[0]
    return Timing(source, row["device"], family, what, 1, seconds, kernels)


_Read = tuple[str, tuple[Kernel, ...], float, float]


def _shape(text: str) -> list[int]:
    return [int(n) for n in text.split("+")[0].split("x")]


def _is_product(op: str) -> bool:
    return op.startswith("matmul") or op == "linear(addmm)"


def _convolution(row: dict[str, str], gpu: Gpu) -> _Read:
    x, w = _shape(row["input_shape"]), _shape(row["weight_shape"])
    stride, transposed = int(row["stride"] or 1), "transpose" in row["op"]
    axes = []
    for size, kernel in zip(x[1:-1], w[1:-1], strict=True):
        if transposed:
            axes.append(Axis(size, kernel, 1, stride, 1, kernel - 1, kernel - 1))
            continue
        outputs = ceil(size / stride) if row["padding"] == "same" else 0
        padding = max((outputs - 1) * stride + kernel - size, 0) if outputs else 0
        lo = padding // 2
        axes.append(Axis(size, kernel, stride, padding_lo=lo, padding_hi=padding - lo))
    groups = int(row["groups"] or 1)
    spec = ConvSpec(x[0], x[-1], w[0], tuple(axes), groups, transposed, DTYPES[row["dtype"]])
    path = PATHS[row["family"]]
    if path == "implicit_gemm_2d" and spec.ndim == 1:
        spec = ConvSpec(
            x[0], x[-1], w[0], (*axes, Axis(1, 1)), groups, transposed, DTYPES[row["dtype"]]
        )
    kernels = work.convolution(spec, KernelChoice(path, "", ""), gpu)
    return kernels[-1].tested_as, kernels, 0.0, 0.0


def _product(row: dict[str, str], gpu: Gpu) -> _Read:
    """A weight that has no batch takes all rows of the input as one matrix, as MLX does."""
    (*batch, rows, terms), (*others, inner, columns) = (
        _shape(row[name]) for name in ("input_shape", "weight_shape")
    )
    if inner != terms:
        raise ValueError(f"{row['id']}: {terms} terms against {inner}")
    if not others:
        rows, batch = rows * prod(batch), []
    dtype = DTYPES[row["dtype"]]
    transposed = row["op"] in ("linear(addmm)", "matmul nt")
    kernel = work.product(
        rows,
        columns,
        terms,
        gpu,
        batch=prod(batch),
        itemsize=ITEMSIZE[dtype],
        transposed=transposed,
    )
    flops = 2.0 * prod(batch) * rows * terms * columns
    return kernel.tested_as, (kernel,), flops, 0.0


def _moved(row: dict[str, str], gpu: Gpu) -> _Read:
    """Elementwise ops, copies and concatenations: bytes read and written."""
    op, itemsize = row["op"], ITEMSIZE[DTYPES[row["dtype"]]]
    shape = row["input_shape"]
    size = 64 * 2**20 if shape.startswith("N=64M") else prod(_shape(shape))
    if op.startswith("concat"):
        n_bytes = 2 * itemsize * (size + prod(_shape(row["weight_shape"])))
        return "concat", (work.copy(n_bytes, itemsize, "concat"),), 0.0, n_bytes
    arrays = 3 if op.startswith("binary") or op == "add" else 1 if op == "sum_all" else 2
    n_bytes = arrays * itemsize * size
    return "copy", (work.copy(n_bytes, itemsize),), 0.0, n_bytes
