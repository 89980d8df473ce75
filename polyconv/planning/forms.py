"""In which form is a convolution issued, so that Metal neither unfolds nor reads outside its input?

The forms differ in memory and arguments, not in result. The choice asks the kernel model, never a
table of its own. Standard library only.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from math import prod
from typing import Literal, TypeAlias

from polyconv.metal import work
from polyconv.metal.calls import fits_in, fits_out, up16
from polyconv.metal.gpus import Gpu
from polyconv.metal.kernels import RECORDED, KernelChoice, predict
from polyconv.metal.seconds import Kernel, call_seconds
from polyconv.planning import cudnn_plans
from polyconv.planning.cached_property import cached_property
from polyconv.planning.devices import Backend, Device, Metal
from polyconv.planning.rates import Cost
from polyconv.problem.spec import ITEMSIZE, Axis, ConvSpec

Lift: TypeAlias = Literal["none", "plane", "points", "frames", "marked"]

_UNIT = Axis(size=1, kernel_size=1)


@dataclass(frozen=True, slots=True)
class Form:
    """What is done to a convolution on its way to MLX.

    Each group gets `extra_in` and `extra_out` channels of zeros. The latter are taken off the
    output. A copy, not the convolution, puts `pad_lo` and `pad_hi` zeros around the input on each
    axis. With `whole` it lies row by row in memory, without what negative padding crops, and so
    does a weight that is not `turned`. With the lift "plane" a 1D convolution is issued as a 2D one
    with an axis of 1. With "marked" such an axis is in front, in 2D too, and its stride tells the
    input dilation (`cudnn_plans.py`). If it is `turned`, the weight's channels lie exchanged in
    memory, as cuDNN reads them. With "points" a 3D one of a single tap is issued in 1D, as it does
    not matter where its points lie. With "frames" a 3D one is the sum of one 2D convolution per tap
    in depth, the frames in the batch, in float32.
    """

    extra_in: int = 0
    extra_out: int = 0
    pad_hi: tuple[int, ...] = ()
    lift: Lift = "none"
    whole: bool = False
    pad_lo: tuple[int, ...] = ()
    turned: bool = False

    @property
    def of_weight(self) -> tuple[object, ...]:
        """What is done to the weight."""
        return self.extra_in, self.extra_out, self.lift, self.whole, self.turned


AS_IT_STANDS = Form()


@dataclass(frozen=True)
class Issued:
    """A convolution in a form: what MLX is given, how often, and what Metal does with it.

    `n_copies` are the form's own, and the sums of what it gives.
    """

    form: Form
    spec: ConvSpec
    n_convs: int
    n_copies: int
    kernel: KernelChoice | None
    cost: Cost
    plain_macs: int
    is_safe: bool
    """Whether Metal's kernel is known, unfolds nothing and reads nothing outside its input."""

    @property
    def is_free(self) -> bool:
        """Whether it is one safe convolution with no arithmetic and no copies of the form's."""
        return self.is_safe and self.cost == Cost(self.plain_macs, 1, 0)

    def kernels_on(self, gpu: Gpu) -> Iterator[Kernel]:
        """What Metal runs for it: what the form copies, and each convolution."""
        assert self.kernel is not None  # as it is planned for a Mac
        copied = self.cost.bytes_moved - self.n_convs * self.kernel.temporary_bytes
        if copied:
            moved = work.copy(2 * copied, ITEMSIZE[self.spec.dtype])
            yield replace(moved, n_launches=max(self.n_copies, 1))
        for _ in range(self.n_convs):
            yield from work.convolution(self.spec, self.kernel, gpu)

    @cached_property
    def options(self) -> tuple[object, ...]:
        """The arguments of `mx.conv_general` after input and weight."""
        return options_of(self.spec)


def options_of(spec: ConvSpec) -> tuple[object, ...]:
    """The arguments of `mx.conv_general` for a convolution, after input and weight."""
    axes = spec.axes
    return (
        tuple([axis.stride for axis in axes]),
        (tuple([a.padding_lo for a in axes]), tuple([a.padding_hi for a in axes])),
        tuple([axis.kernel_dilation for axis in axes]),
        tuple([axis.input_dilation for axis in axes]),
        spec.groups,
        spec.flip,
    )


@lru_cache(4096)
def issue(spec: ConvSpec, device: Device) -> Issued:
    """The fastest safe form of an undilated convolution, where its kernel is predicted.

    Elsewhere it is as `_lift` tells. A form is safe if its kernel unfolds nothing and has no
    hazard, by the rules of the device and by those that were recorded. There always is one:
    channels can be padded until they fill the tiles, and every hazard needs padding behind.
    """
    if not device.backend.predicts_kernels:
        return _issued(spec, _unpredicted(spec, device.backend, _lift(spec, device)), device)
    safe = []
    for form in _forms(spec):
        each = _issued(spec, form, device)
        if each.is_free:  # none can be faster
            return each
        if each.is_safe:
            safe.append(each)
    assert isinstance(device, Metal)  # as kernels are predicted
    gpu, parameters = device.gpu, device.parameters
    return min(safe, key=lambda each: call_seconds(each.kernels_on(gpu), gpu, parameters))


def _lift(spec: ConvSpec, device: Device) -> Lift:
    """How a convolution is lifted on a device whose kernels are not predicted."""
    if spec.ndim == 3 and spec.groups > 1:
        return "frames"
    has_points = device.backend.gathers_points and spec.ndim == 3
    return "points" if has_points and all(map(_is_pointwise, spec.axes)) else "none"


def _is_pointwise(axis: Axis) -> bool:
    return axis.kernel_size == axis.stride == 1 and max(axis.padding_lo, axis.padding_hi) <= 0


def as_it_stands(spec: ConvSpec, device: Device, turned: bool = False) -> Issued:
    """A convolution as MLX's own op issues it, safe or not. `turned` says how its weight lies."""
    if device.backend.predicts_kernels:
        return _issued(spec, AS_IT_STANDS, device)
    is_marked = device.backend.shares_cudnn_plans and cudnn_plans.can_be_marked(spec, turned)
    form = _unpredicted(spec, device.backend, "marked" if is_marked else "none")
    return _issued(spec, replace(form, turned=turned and is_marked and spec.groups == 1), device)


def _unpredicted(spec: ConvSpec, backend: Backend, lift: Lift) -> Form:
    """The form for a device whose kernels are not predicted."""
    whole, front = backend.convolves_rows, [0] * spec.ndim
    if backend.shares_cudnn_plans and not (spec.flip or spec.is_input_dilated):
        front = [cudnn_plans.zeros_in_front(_cropped(axis)) for axis in spec.axes]
    if lift == "frames":
        front[0] = 0  # as the depth is padded anyway
    return Form(lift=lift, whole=whole, pad_lo=tuple(front) if any(front) else ())


def apply(spec: ConvSpec, form: Form) -> ConvSpec:
    """The convolution that MLX is given for `spec` in a form."""
    if form is AS_IT_STANDS:
        return spec
    axes = tuple([_cropped(axis) for axis in spec.axes]) if form.whole else spec.axes
    if form.pad_lo:
        axes = tuple(map(cudnn_plans.behind_zeros, axes, form.pad_lo))
    if form.pad_hi:
        axes = tuple(
            replace(axis, size=axis.size + behind, padding_hi=axis.padding_hi - behind)
            for axis, behind in zip(axes, form.pad_hi, strict=True)
        )
    spec = replace(
        spec,
        in_channels=spec.in_channels + spec.groups * form.extra_in,
        out_channels=spec.out_channels + spec.groups * form.extra_out,
        axes=axes,
    )
    if form.lift == "plane":
        return replace(spec, axes=(*axes, _UNIT))
    if form.lift == "points":
        return replace(spec, axes=(replace(_UNIT, size=prod(axis.size for axis in axes)),))
    if form.lift == "marked":
        return replace(spec, axes=(cudnn_plans.marked(axes, form.turned), *axes))
    if form.lift == "frames":
        depth, *plane = axes
        batch = spec.batch * depth.output_size
        return replace(spec, batch=batch, axes=tuple(plane), dtype="float32")
    return spec


def _cropped(axis: Axis) -> Axis:
    lo, hi = axis.padding_lo, axis.padding_hi
    size = axis.size + min(lo, 0) + min(hi, 0)
    return replace(axis, size=size, padding_lo=max(lo, 0), padding_hi=max(hi, 0))


def macs(spec: ConvSpec, kernel: KernelChoice | None = None) -> int:
    """Multiply-accumulates of a convolution. The channels that its kernel adds count."""
    inputs, outputs = spec.in_channels // spec.groups, spec.out_channels
    if kernel and kernel.path in ("pad_in_channels_2d", "pad_and_slice_3d"):
        inputs = up16(inputs)
    if kernel and kernel.path == "pad_and_slice_3d":
        outputs = up16(outputs)
    taps = prod(axis.kernel_size for axis in spec.axes)
    return spec.batch * prod(spec.output_sizes) * outputs * taps * inputs


def _forms(spec: ConvSpec) -> Iterator[Form]:
    """As it stands and lifted, each also with aligned channels, and with its end padded first."""
    lifts: dict[int, tuple[Lift, ...]] = {1: ("none", "plane"), 2: ("none",), 3: ("none", "frames")}
    if spec.ndim < 3 or spec.groups == 1:  # MLX has no groups in 3D
        yield AS_IT_STANDS
    inputs, outputs = spec.in_channels // spec.groups, spec.out_channels // spec.groups
    extra_in = next(n for n in range(16) if fits_in(inputs + n))
    extra_out = next(n for n in range(16) if fits_out(outputs + n))
    behind = tuple(max(axis.padding_hi, 0) for axis in spec.axes)
    for lift in lifts[spec.ndim]:
        if lift == "none" and spec.ndim == 3 and spec.groups > 1:
            continue
        for pad_hi in ((), behind) if any(behind) else ((),):
            if pad_hi or lift != "none":
                yield Form(0, 0, pad_hi, lift)
            if extra_in or extra_out:
                yield Form(extra_in, extra_out, pad_hi, lift)


def _issued(spec: ConvSpec, form: Form, device: Device) -> Issued:
    given = apply(spec, form)
    depth = spec.axes[0]
    n_convs = depth.kernel_size if form.lift == "frames" else 1
    kernel = _kernel(given, device, is_whole=not _crops_inside(spec))
    itemsize = ITEMSIZE[given.dtype]
    outputs, inputs = n_convs * given.n_outputs, given.n_inputs
    moved = n_convs * kernel.temporary_bytes if kernel else 0
    n_copies = bool(form.extra_in) + bool(form.pad_lo or form.pad_hi) + bool(form.extra_out)
    if form.extra_in or form.pad_lo or form.pad_hi:
        moved += itemsize * inputs
    if form.extra_out:
        moved += itemsize * outputs
    if form.lift == "frames":  # frames cut out per tap, and the sum
        in_place = spec.batch == 1 and depth.stride == 1
        moved += itemsize * (2 * outputs + (0 if in_place else n_convs * inputs))
        n_copies += n_convs - 1 + (0 if in_place else n_convs)
        if depth.padding_lo or depth.padding_hi or spec.dtype != given.dtype:
            moved += itemsize * inputs
            n_copies += 1
    cost = Cost(n_convs * macs(given, kernel), n_convs, moved)
    is_safe = kernel is not None and _is_safe(kernel, given, device)
    return Issued(form, given, n_convs, n_copies, kernel, cost, macs(spec), is_safe)


def _is_safe(kernel: KernelChoice, given: ConvSpec, device: Device) -> bool:
    """Whether it is by the rules of the device, and also by those that were recorded.

    What newer rules alone call safe is not issued: they were read, and may have been misread.
    """
    assert isinstance(device, Metal)  # as a kernel is predicted
    kernels = [kernel]
    if device.rules.version > RECORDED.version:
        kernels.append(predict(given, device.limits, RECORDED))
    return not any(each.is_explicit or each.hazard for each in kernels)


def _kernel(given: ConvSpec, device: Device, is_whole: bool) -> KernelChoice | None:
    """The kernel that MLX takes, where it is predicted. `is_whole`: the input is contiguous."""
    if not device.backend.predicts_kernels:
        return None
    assert isinstance(device, Metal)  # no other device has limits and rules to predict by
    return predict(given, device.limits, device.rules, contiguous=(is_whole, True))


def _crops_inside(spec: ConvSpec) -> bool:
    """Whether what negative padding leaves of the input is a view that is not contiguous."""
    before = spec.batch
    for axis in spec.axes:
        if before > 1 and min(axis.padding_lo, axis.padding_hi) < 0:
            return True
        before *= axis.size
    return False
