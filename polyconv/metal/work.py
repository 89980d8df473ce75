"""Which kernels does a convolution, a product or a copy run on Metal, and what work do they have?

Tiles and padded channels are those of mlx/backend/metal/conv.cpp and matmul.cpp of 0.32.2. Standard
library only.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from math import ceil, lcm, prod

from polyconv.metal.calls import up16
from polyconv.metal.gpus import Gpu
from polyconv.metal.kernels import KernelChoice
from polyconv.metal.seconds import Family, Kernel
from polyconv.problem.phases import n_phases
from polyconv.problem.spec import ITEMSIZE, Axis, ConvSpec

_UNIT = Axis(size=1, kernel_size=1)


def convolution(spec: ConvSpec, choice: KernelChoice, gpu: Gpu) -> tuple[Kernel, ...]:
    """The kernels of one convolution by the path that MLX takes, with MLX's own copies."""
    kind = _kind(spec, choice.path)
    kernels = tuple([replace(k, kind=kind) for k in _BY_PATH[choice.path](spec, choice, gpu)])
    copied = sum(size for role, size in choice.temporaries if role == "contiguous_copy")
    if copied and choice.path != "small_kd_3d":
        return (copy(2 * copied, ITEMSIZE[spec.dtype]), *kernels)
    return kernels


def _kind(spec: ConvSpec, path: str) -> str:
    """What the kernels of a path are tested as together, if not each by itself."""
    if path == "implicit_gemm_2d_general":
        return "general 2D, transposed" if spec.is_input_dilated else "general 2D"
    if path.startswith("implicit_gemm_2d") and spec.groups > 1:
        return "implicit 2D, one channel a group"
    if path.startswith("implicit_gemm_2d") and (spec.out_channels <= 16 or spec.in_channels <= 4):
        return "implicit 2D, C up to 4 or O up to 16"
    return _KINDS.get(path, "")


_KINDS = {
    "explicit_gemm_nd": "explicit",
    "explicit_gemm_group_nd": "explicit, groups",
    "depthwise_1d": "depthwise 1D",
    "winograd_2d": "winograd",
    "phase_gemms_3d": "a product per phase in 3D",
}


def copy(n_bytes: float, itemsize: int, family: Family | None = None) -> Kernel:
    """Bytes read and written in order, or by another family such as ``"concat"``."""
    return Kernel(family or ("copy_32" if itemsize >= 4 else "copy_16"), n_bytes)


def product(
    rows: int,
    columns: int,
    terms: int,
    gpu: Gpu,
    *,
    batch: int = 1,
    itemsize: int = 4,
    transposed: bool = False,
    n_launches: int = 1,
) -> Kernel:
    """A matrix product, or a batch of them in one launch. With `transposed` B is, as a weight is.

    One row is a product of a vector, which is bound by its bytes. Sums split over many threadgroups
    are not modelled: a product that is deep and small is faster than this. Nor is float32 on the
    accelerators of an M5, where MLX rounds it to TF32.
    """
    n_bytes = itemsize * batch * (rows * terms + columns * terms + rows * columns)
    if min(rows, columns) == 1:
        vector = copy(n_bytes, itemsize)
        return replace(vector, n_launches=n_launches, kind="vector product")
    bm, bn = (64, 32) if gpu.is_small and transposed else (64, 64)
    tiles = batch * ceil(rows / bm) * ceil(columns / bn)
    macs = tiles * bm * bn * up16(terms)
    family: Family = "nax_gemm" if gpu.has_accelerators and itemsize == 2 else "gemm"
    return Kernel(family, n_bytes, macs, macs * (1 / bm + 1 / bn), tiles, n_launches)


def _given_bytes(spec: ConvSpec) -> int:
    """Input, weight and output, each once."""
    return ITEMSIZE[spec.dtype] * (spec.n_inputs + spec.n_weights + spec.n_outputs)


def _tiles_of(rows: int, columns: int, channels: int) -> tuple[int, int]:
    bm = 64 if rows >= 8192 and channels >= 64 else 32
    bn = 64 if bm == 64 or columns >= 64 else 32
    return bm, (8 if columns <= 16 else bn)


def _implicit(family: Family, spec: ConvSpec) -> Kernel:
    """The implicit GEMM kernels. Few channels of 2D are joined with the taps before padding."""
    channels, columns = spec.in_channels // spec.groups, spec.out_channels // spec.groups
    taps, rows = prod(a.kernel_size for a in spec.axes), spec.batch * prod(spec.output_sizes)
    bm, bn = _tiles_of(rows, columns, channels)
    terms = taps * up16(channels)
    if channels <= 2:
        terms = up16(taps * channels)
    elif channels <= 4:
        terms = up16(taps * 4)
    elif channels == 8:
        terms = up16(taps * 8)
    tiles = spec.groups * ceil(rows / bm) * ceil(columns / bn)
    macs = tiles * bm * bn * terms
    return Kernel(family, _given_bytes(spec), macs, macs * (1 / bm + 1 / bn), tiles)


def _implicit_2d(spec: ConvSpec, choice: KernelChoice, gpu: Gpu) -> tuple[Kernel, ...]:
    return (_implicit("implicit_2d", spec),)


def _implicit_3d(spec: ConvSpec, choice: KernelChoice, gpu: Gpu) -> tuple[Kernel, ...]:
    return (_implicit("implicit_3d", spec),)


def _taps_of_phases(axis: Axis) -> tuple[int, int]:
    """Phases of an axis, and how many taps these have together, as the general kernel counts."""
    step = lcm(axis.input_dilation, axis.kernel_dilation) // axis.kernel_dilation
    phases = n_phases(axis)
    total = 0
    for phase in range(phases):
        at = phase * axis.stride - axis.padding_lo
        meets = [
            k
            for k in range(min(step, axis.kernel_size))
            if (at + k * axis.kernel_dilation) % axis.input_dilation == 0
        ]
        total += ceil((axis.kernel_size - meets[0]) / step) if meets else 0
    return phases, total


def _general_2d(spec: ConvSpec, choice: KernelChoice, gpu: Gpu) -> tuple[Kernel, ...]:
    counts = [_taps_of_phases(axis) for axis in spec.axes]
    rows = spec.batch
    for (phases, _), size in zip(counts, spec.output_sizes, strict=True):
        rows *= ceil(size / phases)
    bm = 64 if rows >= 8192 and spec.in_channels >= 64 else 32
    bn = 64 if bm == 64 and spec.out_channels >= 64 else 32
    tiles = ceil(rows / bm) * ceil(spec.out_channels / bn)
    macs = tiles * bm * bn * up16(spec.in_channels) * prod(taps for _, taps in counts)
    tiles *= prod(phases for phases, _ in counts)
    loads = macs * (1 / bm + 1 / bn)
    return (Kernel("general_2d", _given_bytes(spec), macs, loads, tiles),)


def _explicit(spec: ConvSpec, choice: KernelChoice, gpu: Gpu) -> tuple[Kernel, ...]:
    """Windows are copied, then multiplied; both in as many parts as the buffer needs."""
    itemsize, taps = ITEMSIZE[spec.dtype], prod(axis.kernel_size for axis in spec.axes)
    rows = spec.batch * prod(spec.output_sizes)
    family: Family = "unfold_wide" if spec.in_channels >= 32 else "unfold_narrow"
    unfolded = itemsize * (spec.n_inputs + rows * taps * spec.in_channels)
    groups, parts = spec.groups, choice.n_tiles
    multiply = product(
        ceil(rows / parts),
        spec.out_channels // groups,
        taps * spec.in_channels // groups,
        gpu,
        batch=groups * parts,
        itemsize=itemsize,
        transposed=groups == 1,
        n_launches=parts,
    )
    kernels = (Kernel(family, unfolded, n_launches=parts), multiply)
    if groups == 1:
        return kernels
    weights = spec.out_channels * spec.in_channels // groups * taps
    return (copy(2 * itemsize * weights, itemsize), *kernels)


def _depthwise(spec: ConvSpec, choice: KernelChoice, gpu: Gpu) -> tuple[Kernel, ...]:
    return (Kernel("depthwise", _given_bytes(spec)),)


def _winograd(spec: ConvSpec, choice: KernelChoice, gpu: Gpu) -> tuple[Kernel, ...]:
    """Input, filter and output are transformed, with 64 products between. No row tests it."""
    itemsize = ITEMSIZE[spec.dtype]
    inputs, outputs = spec.in_channels, spec.out_channels
    tiles = spec.batch * prod(ceil(size / 6) for size in spec.output_sizes)
    moved = _given_bytes(spec) + itemsize * 64 * (inputs * outputs + tiles * (inputs + outputs))
    transforms = replace(copy(moved, itemsize), n_launches=3)
    return transforms, product(tiles, outputs, inputs, gpu, batch=64, itemsize=itemsize)


def _padded(spec: ConvSpec, choice: KernelChoice, gpu: Gpu) -> tuple[Kernel, ...]:
    """Copies into more channels, then the fast kernel."""
    added = sum(size for role, size in choice.temporaries if role == "channel_pad")
    pads = replace(copy(2 * added, ITEMSIZE[spec.dtype]), n_launches=2)
    spec = replace(spec, in_channels=up16(spec.in_channels))
    if choice.path == "pad_in_channels_2d":
        return pads, _implicit("implicit_2d", spec)
    return pads, _implicit("implicit_3d", replace(spec, out_channels=up16(spec.out_channels)))


def _small_depth(spec: ConvSpec, choice: KernelChoice, gpu: Gpu) -> tuple[Kernel, ...]:
    """One 2D convolution per tap in depth, and sums of what these give."""
    depth, *plane = spec.axes
    itemsize = ITEMSIZE[spec.dtype]
    frames = spec.batch * depth.output_size
    flat = replace(spec, batch=frames, axes=tuple(plane))
    weights = itemsize * spec.out_channels * spec.in_channels * prod(a.kernel_size for a in plane)
    kernels = [copy(2 * weights * depth.kernel_size, itemsize)]
    by_winograd = any(role == "winograd" for role, _ in choice.temporaries)
    of_frames = _winograd if by_winograd else _implicit_2d
    for _ in range(depth.kernel_size):
        kernels += of_frames(flat, choice, gpu)
    sums = depth.kernel_size - 1
    if sums:
        moved = 3 * sums * itemsize * spec.n_outputs
        kernels.append(replace(copy(moved, itemsize), n_launches=sums))
    return tuple(kernels)


def _phase_gemms(spec: ConvSpec, choice: KernelChoice, gpu: Gpu) -> tuple[Kernel, ...]:
    """Eight products, and as many copies to where the outputs lie. No row tests it."""
    itemsize = ITEMSIZE[spec.dtype]
    rows, phases = spec.batch * prod(axis.size for axis in spec.axes), 8
    multiply = product(
        rows,
        spec.out_channels,
        spec.in_channels,
        gpu,
        itemsize=itemsize,
        transposed=True,
    )
    moved = copy(2 * itemsize * rows * spec.out_channels, itemsize, "concat")
    return (multiply, moved) * phases


_BY_PATH: dict[str, Callable[[ConvSpec, KernelChoice, Gpu], tuple[Kernel, ...]]] = {
    "implicit_gemm_2d": _implicit_2d,
    "implicit_gemm_2d_general": _general_2d,
    "implicit_gemm_3d": _implicit_3d,
    "explicit_gemm_nd": _explicit,
    "explicit_gemm_group_nd": _explicit,
    "depthwise_1d": _depthwise,
    "depthwise_2d": _depthwise,
    "winograd_2d": _winograd,
    "pad_in_channels_2d": _padded,
    "pad_and_slice_3d": _padded,
    "small_kd_3d": _small_depth,
    "phase_gemms_3d": _phase_gemms,
}
