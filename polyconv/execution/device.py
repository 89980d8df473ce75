"""What is true of the MLX that runs here, and what was asked for the calls inside a block?"""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache
from typing import Literal, TypeAlias

import mlx.core as mx

from polyconv.execution import measured
from polyconv.execution.machine import info_of
from polyconv.execution.open_blocks import OpenBlocks
from polyconv.metal.calls import DeviceLimits
from polyconv.metal.gpus import multiplies_by_tf32
from polyconv.metal.kernels import rules_for
from polyconv.metal.rules import Version
from polyconv.planning import devices
from polyconv.planning.devices import Device, Metal
from polyconv.problem import arguments

StreamOrDevice: TypeAlias = "mx.Stream | mx.Device | mx.DeviceType | None"

# Older versions of MLX have no thread-local streams.
STREAM_TYPES = tuple(
    getattr(mx, name)
    for name in ("Stream", "Device", "DeviceType", "ThreadLocalStream")
    if hasattr(mx, name)
)


def pads_explicitly(stream: StreamOrDevice = None, mlx_gradients: bool = False) -> bool:
    """Whether inputs must be padded before a convolution and not by it.

    Up to 0.32.3 they must on a CPU, and anywhere if MLX is to differentiate the convolution. Those
    versions have two faults. The gradient of a convolution whose padding differs between its sides
    has a wrong shape (`Convolution::vjp`, mlx/primitives.cpp). And the CPU kernel for dilated or
    grouped 2D and 3D convolutions writes past an output that is shorter than the padding in front
    (`slow_conv_2D`, mlx/backend/cpu/conv.cpp), which may end the process.
    """
    return is_before_0_32_4() and (mlx_gradients or is_on_cpu(stream))


@cache
def is_before_0_32_4() -> bool:
    """Whether the MLX that runs has the two faults of `pads_explicitly`."""
    return _version(mx.__version__) < (0, 32, 4)


def is_on_cpu(stream: StreamOrDevice) -> bool:
    """Whether what is given to a stream, or by default, runs on the CPU."""
    return kind_of(stream) is mx.cpu


def kind_of(stream: StreamOrDevice) -> mx.DeviceType:
    """Whether what is given to a stream, or by default, runs on the CPU or on a GPU."""
    where = mx.default_device() if stream is None else getattr(stream, "device", stream)
    kind: mx.DeviceType = getattr(where, "type", where)
    return kind


def check_float64(op: str, name: str, dtype: mx.Dtype) -> None:
    """Refuses what no GPU has, before MLX does somewhere on the way."""
    if dtype == mx.float64 and not is_on_cpu(None):
        arguments.refuse(op, f"{name} must be of a type that a GPU has", "float64")


def version() -> Version:
    """The version of the MLX that runs."""
    numbers = (*_version(mx.__version__), 0, 0, 0)
    return numbers[0], numbers[1], numbers[2]


@cache
def present() -> Metal | None:
    """The Apple GPU of this machine, if it has one that MLX can use."""
    if not mx.metal.is_available():
        return None
    # Without an argument this is about the default device, which may be the CPU.
    info = info_of(mx.gpu)
    limits = DeviceLimits(
        int(info["max_buffer_length"]),
        int(info["max_recommended_working_set_size"]),
        str(info["architecture"])[-1],
    )
    by_tf32 = multiplies_by_tf32(str(info["architecture"]), platform.mac_ver()[0])
    return Metal(
        str(info.get("device_name", "this Mac")),
        limits,
        rules_for(version()),
        rounds_products=by_tf32 and "MLX_ENABLE_TF32" not in os.environ,  # else it was asked for
    )


@cache
def memory_of_gpu() -> int | None:
    """Bytes of the memory of a GPU that is not Apple's, if there is one and MLX tells."""
    if mx.metal.is_available() or not hasattr(mx, "device_info"):
        return None
    try:
        told: int | None = mx.device_info(mx.gpu).get("total_memory")
        return told
    except (RuntimeError, ValueError):
        return None


_PLANNING_FOR: OpenBlocks[Device] = OpenBlocks("planning_for")


@contextmanager
def planning_for(device: str) -> Iterator[None]:
    """Plans as if on another device, and runs on the present one.

    Args:
        device (str): One of Apple's, from ``polyconv.planning.devices.DEVICES``, such as
            ``"m4-max"``; ``"cpu"`` or ``"cuda"``.

    Raises:
        ValueError: If there is no such device.
    """
    with _PLANNING_FOR.holding(devices.any_device("planning_for", device, rules_for(version()))):
        yield


Export: TypeAlias = 'Literal["", "computed", "as asked"]'
_EXPORTING: OpenBlocks[Export] = OpenBlocks("exporting")


@contextmanager
def exporting() -> Iterator[None]:
    """Leaves out polyconv's own gradient rules, for `mx.export_function`, which cannot write them.

    What is traced inside holds MLX's operations only. Differentiated, it has MLX's gradients, which
    unfold the weight's. With ``shapeless=True`` it is right for every length, or MLX refuses it.
    It is right where MLX's own op is taken, if the windows read every sample of the length traced.
    """
    with _EXPORTING.holding("computed"):
        yield


@contextmanager
def exporting_as_asked() -> Iterator[None]:
    """As `exporting`, and each convolution is MLX's own op, of whatever length.

    For who reads the graph and computes it in another way: it tells what is asked for.
    """
    with _EXPORTING.holding("as asked"):
        yield


def export_of_now() -> Export:
    """How calls are exported, if they are."""
    return _EXPORTING.innermost() or ""


def is_exporting() -> bool:
    return bool(_EXPORTING.any())


def device_for(stream: StreamOrDevice) -> Device:
    """What to plan for: the device that was asked for, or else the one that the stream runs on."""
    asked = _PLANNING_FOR.innermost()
    if asked is not None:
        return asked
    if is_on_cpu(stream):
        return measured.host("cpu")
    return this_mac() or measured.host("cuda")


def is_planned_elsewhere() -> bool:
    """Whether `planning_for` is in force."""
    return bool(_PLANNING_FOR.any())


def this_mac() -> Metal | None:
    """As `present`, with what was measured on it."""
    metal = present()
    return None if metal is None else measured.mac(metal)


_HERE = nullcontext()


def on(stream: StreamOrDevice) -> AbstractContextManager[None]:
    """As `mx.stream`, but behind the block the device has its old default stream again."""
    return _HERE if stream is None else _on(stream)


@contextmanager
def _on(stream: mx.Stream | mx.Device | mx.DeviceType) -> Iterator[None]:
    before = mx.default_stream(stream.device) if isinstance(stream, mx.Stream) else None
    try:
        with mx.stream(stream):
            yield
    finally:
        if before is not None:
            mx.set_default_stream(before)


def _version(text: str) -> tuple[int, ...]:
    """The leading numbers of a version such as ``0.32.4`` or ``0.33.0.dev20261101+abc``."""
    numbers = []
    for part in text.split("+")[0].split("."):
        if not part.isdigit():
            break
        numbers.append(int(part))
    return tuple(numbers)
