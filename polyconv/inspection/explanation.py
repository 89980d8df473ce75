"""What would each method do with a convolution on a device, which is taken, and why?

Works out plans and predicted Metal kernels; `report.py` puts them into words. Nothing is run, and
no time is measured or claimed. Standard library only.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from math import prod
from typing import Any

from polyconv.inspection import report
from polyconv.metal.kernels import RULE_SETS, KernelChoice, predict
from polyconv.metal.rules import DeviceLimits
from polyconv.planning.axis_plan import Rejection
from polyconv.planning.devices import Metal
from polyconv.planning.forms import macs
from polyconv.planning.plan import METHODS, ConvPlan, ideal, plan
from polyconv.planning.tiling import Room, arranged, others_than, workspace
from polyconv.planning.workspace import MOST_SUBCONVS, allocated
from polyconv.problem import arguments, spec
from polyconv.problem.spec import ITEMSIZE, Axis, ConvSpec

_SKIPS_ZEROS = "implicit_gemm_2d_general"
_SKIPPING = "this kernel skips the zeros"

TRANSPOSED = {f"conv_transpose{ndim}d": ndim for ndim in (1, 2, 3)}
OPS = (*TRANSPOSED, "conv_general")

_STEPS = ("stride", "kernel_dilation", "input_dilation")
# By whether the op is a transposed one.
_OPTIONS = {
    True: ("stride", "padding", "dilation", "output_padding", "groups"),
    False: ("stride", "padding", "kernel_dilation", "input_dilation", "groups", "flip"),
}


@dataclass(frozen=True, slots=True)
class Line:
    """What one method does; nothing where it cannot. `reason` is why it is not taken.

    `taps` are those of the largest of its convolutions. `macs_on_zeros` are the multiplications
    beyond the ideal: on zeros between samples, zero taps, spare frames and padded channels.
    `temporaries` are bytes by purpose, without the unfold buffer; `peak_bytes` is an upper bound
    for all that lives at a time, input, weight and output included.
    """

    method: str
    reason: str
    n_convs: int = 0
    taps: tuple[int, ...] = ()
    macs: int = 0
    macs_on_zeros: int = 0
    kernels: tuple[tuple[str, int], ...] = ()
    because: str = ""
    source: str = ""
    forms: tuple[str, ...] = ()
    unfold_bytes: int = 0
    temporaries: tuple[tuple[str, int], ...] = ()
    peak_bytes: int = 0
    error: str = ""
    hazard: str = ""

    @property
    def temporary_bytes(self) -> int:
        return sum(size for _, size in self.temporaries)


@dataclass(frozen=True, slots=True)
class Explanation:
    """One convolution, a line per method, and the method taken. Print it, or `to_dict()`."""

    call: str
    output_shape: tuple[int, ...]
    device: str
    rule_set: str
    chosen: str
    n_phases: tuple[int, ...]
    lines: tuple[Line, ...]
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def __str__(self) -> str:
        return report.text(self)


def explain_problem(
    problem: ConvSpec,
    call: str,
    op: str,
    metal: Metal,
    notes: tuple[str, ...] = (),
    max_workspace: int | None = None,
) -> Explanation:
    """Explains a convolution that is validated already, with further notes on the device."""
    chosen = plan(problem, op=op, device=metal)
    try:
        chosen, tiles = _tiles(op, chosen, metal, max_workspace)
    except arguments.NoRoomError as error:
        tiles = (f"There is no room for it: {error}.",)
    lines = _lines(problem, chosen, metal)
    return Explanation(
        call,
        problem.output_shape,
        metal.name,
        metal.rules.name,
        chosen.method,
        tuple(axis.n_phases for axis in chosen.axes),
        lines,
        (*_notes(problem, lines[0], metal), *tiles, *notes),
    )


def _tiles(
    op: str, chosen: ConvPlan, metal: Metal, max_workspace: int | None
) -> tuple[ConvPlan, tuple[str, ...]]:
    """The plan that is computed in tiles, if any is, and a note on these."""
    room = Room(metal.limits.max_buffer_bytes, metal.limits.working_set_bytes)
    limit = workspace(op, chosen.problem, "y", room, max_workspace)
    taken, tiling = arranged(op, chosen, "y", limit, others_than)
    if tiling is None:
        return taken, ()
    if taken.method != chosen.method:
        larger = Rejection(chosen.method, "its smallest tile needs more than max_workspace")
        reasons = {each.method: each for each in (*chosen.rejected, larger)}
        reasons.pop(taken.method, None)
        taken = replace(taken, rejected=tuple(reasons.values()))
    return taken, (report.in_tiles(tiling, limit),)


def predict_row(row: Mapping[str, Any], limits: DeviceLimits) -> KernelChoice:
    """The kernel of one recorded call, as it is: no validation, no plan.

    Args:
        row (dict): The call, alone or as `config`: `x` and `w`, shapes; `dtype`; `groups`; then
            `conv_general`'s options per axis (`stride`, `padding_lo`, `padding_hi`,
            `kernel_dilation`, `input_dilation`, `flip`) or, where `op` is ``"conv_transpose"``,
            `stride`, `padding`, `dilation`, `output_padding`.
        limits (DeviceLimits): The device.
    """
    row = row.get("config", row)
    kernel, ndim = row["w"][1:-1], len(row["x"]) - 2
    if row.get("op") == "conv_transpose":
        stride, dilation, input_dilation, flip = [1] * ndim, row["dilation"], row["stride"], True
        lo, hi = spec.transposed_padding(kernel, row["padding"], dilation, row["output_padding"])
    else:
        stride, dilation, input_dilation = (row[name] for name in _STEPS)
        lo, hi, flip = row["padding_lo"], row["padding_hi"], row["flip"]
    options = (stride, input_dilation, dilation, lo, hi)
    axes = [Axis(*n) for n in zip(row["x"][1:-1], kernel, *options, strict=True)]
    sizes = (row["x"][0], row["x"][-1], row["w"][0])
    return predict(ConvSpec(*sizes, tuple(axes), row["groups"], flip, row["dtype"]), limits)


def problem_of(
    op: str, x: tuple[int, ...], w: tuple[int, ...], dtype: str, options: Mapping[str, Any]
) -> ConvSpec:
    """The convolution of a call of one of `OPS`."""
    for name in options:
        if name not in _OPTIONS[op in TRANSPOSED]:
            must = f"options must be among {', '.join(_OPTIONS[op in TRANSPOSED])}"
            arguments.refuse(op, must, name)
    x, w = arguments.sizes(op, "x", x), arguments.sizes(op, "weight", w)
    ndim = TRANSPOSED.get(op) or spec.spatial_ndim(op, x)
    return read_call(op, ndim, x, w, (dtype, dtype), **options)


def read_call(
    op: str,
    ndim: int,
    x: tuple[int, ...],
    w: tuple[int, ...],
    dtypes: tuple[str, str],
    *args: Any,
    **options: Any,
) -> ConvSpec:
    """The convolution of one of `OPS`, called with these arguments after input and weight."""
    if op in TRANSPOSED:
        read = arguments.transposed_options(op, ndim, *args, **options)
        return spec.transposed(op, x, w, dtypes, *read)
    return spec.general(op, x, w, dtypes, *arguments.general_options(op, ndim, *args, **options))


def _lines(problem: ConvSpec, chosen: ConvPlan, metal: Metal) -> tuple[Line, ...]:
    others = {rejection.method: rejection.reason for rejection in chosen.rejected}
    lowered = {method: lower(problem, metal) for method, lower in METHODS.items()}
    least = ideal(problem)
    lines = []
    for method in sorted(METHODS, key=lambda method: method != "native"):
        reason = others.get(method, "MLX's own op does the same")
        if method == chosen.method:
            reason = ""
        lines.append(_line(lowered[method], reason, least))
        if method == "native" and problem.ndim == 1 and problem.is_input_dilated:
            lines.append(_lifted(problem, lowered[method], least, metal))
    return tuple(lines)


def _line(lowered: ConvPlan | Rejection, reason: str, least: int) -> Line:
    if isinstance(lowered, Rejection):
        return Line(lowered.method, lowered.reason)
    if lowered.is_zero:
        return Line(lowered.method, reason and "every output is zero")
    if lowered.products:
        return _products_line(lowered, reason, least)
    subs = lowered.subconvs if lowered.cost.n_convs <= MOST_SUBCONVS else (lowered.first,)
    kernels = [sub.issued.kernel for sub in subs if sub.issued.kernel]
    paths = Counter[str]()
    for sub in subs:
        paths[sub.issued.kernel.path if sub.issued.kernel else ""] += sub.issued.n_convs
    worst = max(kernels, key=lambda kernel: kernel.unfold_bytes)
    extra = allocated(lowered)
    unfolded = max(kernel.unfold_bytes for kernel in kernels)
    extra.pop("unfold", None)
    problem = lowered.problem
    skips = problem.is_input_dilated and worst.path == _SKIPS_ZEROS
    spent = least if skips and lowered.is_native else lowered.cost.macs
    return Line(
        lowered.method,
        reason,
        n_convs=lowered.cost.n_convs,
        taps=max(tuple(a.kernel_size for a in sub.spec.axes) for sub in subs),
        macs=spent,
        macs_on_zeros=max(spent - least, 0),
        kernels=tuple(sorted(paths.items())),
        because=f"{worst.because}; {_SKIPPING}" if skips else worst.because,
        source=worst.source,
        forms=tuple(sorted({report.form(sub.issued.form) for sub in subs} - {""})),
        unfold_bytes=unfolded,
        temporaries=tuple(sorted(extra.items())),
        peak_bytes=_given_bytes(problem) + unfolded + sum(extra.values()),
        error=worst.error,
        hazard=next((kernel.hazard for kernel in kernels if kernel.hazard), ""),
    )


def _products_line(lowered: ConvPlan, reason: str, least: int) -> Line:
    extra = allocated(lowered)
    return Line(
        lowered.method,
        reason,
        n_convs=lowered.n_taps,
        taps=tuple(block.axis.kernel_size for block in lowered.first.blocks),
        macs=lowered.cost.macs,
        macs_on_zeros=max(lowered.cost.macs - least, 0),
        kernels=(("matmul", lowered.n_taps),),
        because="a matrix product per tap",
        source="matmul.cpp",
        temporaries=tuple(sorted(extra.items())),
        peak_bytes=_given_bytes(lowered.problem) + sum(extra.values()),
    )


def _lifted(problem: ConvSpec, native: ConvPlan | Rejection, least: int, metal: Metal) -> Line:
    """MLX's own op given one more axis of size 1, which reaches its general 2D kernel."""
    name = "native as 2D"
    if isinstance(native, Rejection):
        return Line(name, native.reason)
    if native.is_zero:
        return Line(name, "every output is zero")
    lifted = replace(problem, axes=(*native.first.spec.axes, Axis(size=1, kernel_size=1)))
    kernel = predict(lifted, metal.limits, metal.rules)
    skips = kernel.path == _SKIPS_ZEROS
    spent = least if skips else macs(lifted)
    reason = "only a measurement on the Mac tells whether it is faster (`polyconv bench`)"
    return Line(
        name,
        reason,
        n_convs=1,
        taps=tuple(axis.kernel_size for axis in lifted.axes),
        macs=spent,
        macs_on_zeros=spent - least,
        kernels=((kernel.path, 1),),
        because=f"{kernel.because}; {_SKIPPING}" if skips else kernel.because,
        source=kernel.source,
        unfold_bytes=kernel.unfold_bytes,
        temporaries=kernel.temporaries,
        peak_bytes=_given_bytes(problem) + kernel.temporary_bytes,
        error=kernel.error,
    )


def _given_bytes(problem: ConvSpec) -> int:
    """Input, weight and output."""
    weight = problem.out_channels * (problem.in_channels // problem.groups)
    weight *= prod(axis.kernel_size for axis in problem.axes)
    inputs = problem.batch * problem.in_channels * prod(axis.size for axis in problem.axes)
    return ITEMSIZE[problem.dtype] * (inputs + weight + prod(problem.output_shape))


def _notes(problem: ConvSpec, native: Line, metal: Metal) -> list[str]:
    notes = []
    if native.kernels and native.unfold_bytes:
        whole = predict(problem, metal.limits, RULE_SETS[0]).unfold_bytes
        if whole > metal.limits.max_buffer_bytes:
            notes.append(report.exceeds(whole, metal))
    if problem.ndim == 2 and dict(native.kernels).get(_SKIPS_ZEROS) and problem.is_input_dilated:
        notes.append(report.NO_GAIN)
    return notes
