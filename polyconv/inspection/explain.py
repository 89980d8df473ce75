"""What would polyconv do with a call, and is this machine in order?"""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from importlib import metadata
from typing import Any

import mlx.core as mx

from polyconv.execution import device, machine, measured
from polyconv.inspection import blas, report
from polyconv.inspection.explanation import explain_problem
from polyconv.inspection.report import Explanation
from polyconv.metal.gpus import multiplies_by_tf32
from polyconv.metal.kernels import NEWEST, rules_for
from polyconv.planning import devices
from polyconv.planning.devices import Metal
from polyconv.planning.rates import si
from polyconv.problem import arguments
from polyconv.problem.signatures import OPS, problem_of

DTYPES = ("float16", "bfloat16", "float32")  # what Metal computes


def explain(
    op: str,
    input: Sequence[int],
    weight: Sequence[int],
    *,
    dtype: str = "float32",
    device: str | None = None,
    max_workspace: int | None = None,
    **options: Any,
) -> Explanation:
    """Explains what polyconv does with a call on a device, and what MLX's own op would.

    Args:
        op (str): ``"conv_transpose1d"``, ``2d``, ``3d`` or ``"conv_general"``.
        input (list(int)): The shape of ``x``, ``(N, *S, C)``.
        weight (list(int)): The shape of ``w``, ``(O, *K, C / groups)``.
        dtype (str, optional): Of both. Default: ``"float32"``.
        device (str, optional): One of ``polyconv.planning.devices.DEVICES``. Default: this Mac,
            elsewhere ``"m4-max"``.
        max_workspace (int, optional): Bytes that the call may allocate besides arguments and
            result. Default: what the device allows.
        options: The call's own, such as ``stride=2``.

    Returns:
        Explanation: To print, or as a dict, by the kernel rules of the MLX that runs.

    Raises:
        ValueError: As the op itself would, or if the op, dtype or device is not known.
    """
    arguments.choice("explain", "op", op, OPS)
    arguments.choice("explain", "dtype", dtype, DTYPES)
    metal = metal_named(device)
    x, w = arguments.sizes("explain", "input", input), arguments.sizes("explain", "weight", weight)
    problem = problem_of(op, x, w, dtype, options)
    given = ", ".join(f"{name}={value}" for name, value in options.items())
    call = f"{op}({x}, {w}{', ' if given else ''}{given}) {dtype}"
    if max_workspace is not None:
        max_workspace = arguments.count("explain", "max_workspace", max_workspace)
    return explain_problem(problem, call, op, metal, staleness(), max_workspace)


def gpu_told() -> str:
    """The GPU that is the default device, and how it multiplies float32, as text."""
    metal = device.present()
    if metal is None:
        return "CUDA"
    info = machine.info_of(mx.gpu)
    macos = platform.mac_ver()[0]
    told = f"{metal.name}, macOS {macos}" if macos else metal.name
    return f"{told}, {products_told(str(info['architecture']), macos)}"


def products_told(architecture: str, macos: str) -> str:
    """Whether products of float32 are made by TF32, on a Mac of an architecture and a macOS."""
    asked = os.environ.get("MLX_ENABLE_TF32")
    if asked == "0":
        return "float32 products in float32 (MLX_ENABLE_TF32=0)"
    if not multiplies_by_tf32(architecture, macos):
        return "float32 products in float32"
    if asked is not None:
        return f"float32 products by TF32, to 1e-3, as MLX_ENABLE_TF32={asked} allows"
    return (
        "MLX's float32 products by TF32, to 1e-3; `auto` makes none "
        "(MLX_ENABLE_TF32=0 makes them exact, 1 allows them)"
    )


_ENOUGH_CACHE = 1 << 30  # bytes: a layer's input, output and copies, for all but the largest


def metal_named(name: str | None) -> Metal:
    """The device of this name. Without a name: this Mac, or elsewhere an M4 Max."""
    here = device.this_mac()
    if name is None and here is not None:
        return here
    name = "m4-max" if name is None else name
    return devices.device("explain", name, rules_for(device.version()))


def staleness() -> tuple[str, ...]:
    """A notice if the MLX that runs is newer than the rules."""
    return (report.newer(mx.__version__),) if device.version() > NEWEST.version else ()


def doctor() -> str:
    """What polyconv finds here: MLX, backend, device limits, BLAS and kernel rules, as text.

    Returns:
        str: Some ten lines, and what to do about what is slow.
    """
    rules = rules_for(device.version())
    lines = [
        f"polyconv {_version()}, MLX {mx.__version__}, Python {platform.python_version()}",
        f"default device: {mx.default_device()}; {_backend()}",
        f"kernel rules in force: {rules.name}",
        measured.rates_told(),
        measured.tuning_told(),
        *staleness(),
        *_cache(),
    ]
    if mx.default_device() == mx.gpu:
        lines += [f"GPU: {gpu_told()}", *_graphs()]
    if platform.system() == "Linux":
        lines += _blas()
    return "\n".join(lines)


def _version() -> str:
    try:
        return metadata.version("polyconv")
    except metadata.PackageNotFoundError:  # a folder of its source
        return "(not installed)"


def _backend() -> str:
    metal = device.present()
    if metal is None:
        if mx.default_device().type == mx.gpu:
            return "CUDA; plans are made for it. polyconv's own rates were set by hand to an H200"
        return "no Metal; plans are made for the CPU (polyconv.planning_for(...) for a Mac's)"
    limits = metal.limits
    return (
        f"Metal on {metal.name}, largest buffer {si(limits.max_buffer_bytes)}B, "
        f"working set {si(limits.working_set_bytes)}B"
    )


def _cache() -> list[str]:
    """MLX's limit on freed memory that it keeps, where that is too little for large outputs."""
    if mx.default_device().type != mx.cpu:
        return []
    limit = mx.set_cache_limit(1 << 40)  # there is no way to read it but to set it
    mx.set_cache_limit(limit)
    lines = [f"MLX keeps up to {si(limit)}B of freed buffers"]
    if limit < _ENOUGH_CACHE:
        lines.append(
            "  what is above is given back and faulted in anew at each call: for large outputs "
            "try mx.set_cache_limit(2 << 30), as `polyconv run script.py` does"
        )
    return lines


def _graphs() -> list[str]:
    """What to try on CUDA, where MLX builds graphs of kernels (docs/benchmarks/gpu.md)."""
    if device.present() is not None or "MLX_USE_CUDA_GRAPHS" in os.environ:
        return []
    return [
        "  try MLX_USE_CUDA_GRAPHS=0 in the environment: so HiFi-GAN was up to 1.9 times as fast "
        "on an H200"
    ]


def _blas() -> list[str]:
    """Which BLAS MLX's products on the CPU run on, and how to start Python with a fast one."""
    here = blas.in_force()
    if here is not None:
        return [f"BLAS: {here}"]
    first = [] if blas.find() else [f"  first: {blas.INSTALL}"]
    return [
        "BLAS: the reference one of MLX's wheel, some 30 times slower than OpenBLAS",
        *first,
        "  run your program on a fast one: polyconv run script.py",
    ]
