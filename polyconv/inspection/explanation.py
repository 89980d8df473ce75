"""What would each method do with a convolution on a device, which is taken, and why?

Works out plans, and predicts Metal's kernels and their times; `report.py` puts them into words.
Nothing is run, and no time is measured. Standard library only.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from polyconv.inspection import report
from polyconv.inspection.report import Explanation, Line
from polyconv.metal import work
from polyconv.metal.kernels import RULE_SETS, predict
from polyconv.metal.seconds import predicted
from polyconv.planning.axis_plan import Rejection
from polyconv.planning.choose import ideal, plan
from polyconv.planning.devices import Metal
from polyconv.planning.forms import macs
from polyconv.planning.metal_seconds import kernels_of
from polyconv.planning.methods import METHODS
from polyconv.planning.plan import ConvPlan
from polyconv.planning.tiling import Room, arranged, others_than, workspace
from polyconv.planning.workspace import MOST_SUBCONVS, allocated
from polyconv.problem import arguments
from polyconv.problem.spec import ITEMSIZE, Axis, ConvSpec

_SKIPS_ZEROS_2D = "implicit_gemm_2d_general"
_SKIP_ZEROS = (_SKIPS_ZEROS_2D, "phase_gemms_3d")
_SKIPPING = "this kernel skips the zeros"


def explain_problem(
    problem: ConvSpec,
    call: str,
    op: str,
    metal: Metal,
    notes: tuple[str, ...] = (),
    max_workspace: int | None = None,
    packed: bool = False,
) -> Explanation:
    """Explains a problem. `call` is how it was asked for; `notes` come last."""
    chosen = plan(problem, op=op, device=metal, packed=packed)
    try:
        chosen, tiles = _tiles(op, chosen, metal, max_workspace)
    except arguments.NoRoomError as error:
        tiles = (f"There is no room for it: {error}.",)
    lines = _lines(problem, chosen, metal)
    other = plan(problem, op=op, device=metal, reasons=False, packed=True).method
    if not packed and other != chosen.method:
        tiles = (f"With a packed weight {other} is taken.", *tiles)
    return Explanation(
        call,
        problem.output_shape,
        metal.name,
        metal.rules.name,
        chosen.method,
        tuple(axis.n_phases for axis in chosen.axes),
        lines,
        (*_notes(problem, lines[0], metal), *_tuned(chosen), *tiles, *notes),
    )


def _tiles(
    op: str, chosen: ConvPlan, metal: Metal, max_workspace: int | None
) -> tuple[ConvPlan, tuple[str, ...]]:
    """The plan that is taken, and a note if it is computed in tiles."""
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


def _lines(problem: ConvSpec, chosen: ConvPlan, metal: Metal) -> tuple[Line, ...]:
    others = {rejection.method: rejection.reason for rejection in chosen.rejected}
    lowered = {method: lower(problem, metal) for method, lower in METHODS.items()}
    lowered[chosen.method] = chosen  # of several forms the one that is taken
    least = ideal(problem)
    lines = []
    for method in sorted(METHODS, key=lambda method: method != "native"):
        reason = others.get(method, "MLX's own op does the same")
        if method == chosen.method:
            reason = ""
        lines.append(_line(lowered[method], reason, least, metal))
        if method == "native" and problem.ndim == 1 and problem.is_input_dilated:
            lines.append(_lifted(problem, lowered[method], least, metal))
    return tuple(lines)


def _line(lowered: ConvPlan | Rejection, reason: str, least: int, metal: Metal) -> Line:
    if isinstance(lowered, Rejection):
        return Line(lowered.method, lowered.reason)
    if lowered.is_zero:
        return Line(lowered.method, reason and "every output is zero")
    line = (_products_line if lowered.products else _line_of)(lowered, reason, least)
    gpu, times = metal.gpu, metal.parameters
    plain, packed = [
        predicted(kernels_of(lowered, gpu, packed=packed), gpu, times) for packed in (False, True)
    ]
    return replace(line, time=plain, packed_time=packed)


def _line_of(lowered: ConvPlan, reason: str, least: int) -> Line:
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
    skips = problem.is_input_dilated and worst.path in _SKIP_ZEROS
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
    skips = kernel.path in _SKIP_ZEROS
    spent = least if skips else macs(lifted)
    time = predicted(work.convolution(lifted, kernel, metal.gpu), metal.gpu, metal.parameters)
    return Line(
        name,
        "it is no method of polyconv's, but a call of MLX's own op that you can write",
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
        time=time,
        packed_time=time,
    )


def _tuned(chosen: ConvPlan) -> tuple[str, ...]:
    """A note on times that were measured, where they chose."""
    return (f"{chosen.label}: {chosen.tuned}.",) if chosen.tuned else ()


def _given_bytes(problem: ConvSpec) -> int:
    """Input, weight and output."""
    return ITEMSIZE[problem.dtype] * (problem.n_inputs + problem.n_weights + problem.n_outputs)


def _notes(problem: ConvSpec, native: Line, metal: Metal) -> list[str]:
    notes = []
    if metal.gpu.is_assumed:
        notes.append(report.assumed(metal))
    if native.kernels and native.unfold_bytes:
        whole = predict(problem, metal.limits, RULE_SETS[0]).unfold_bytes
        if whole > metal.limits.max_buffer_bytes:
            notes.append(report.exceeds(whole, metal))
    if problem.ndim == 2 and dict(native.kernels).get(_SKIPS_ZEROS_2D) and problem.is_input_dilated:
        notes.append(report.NO_GAIN)
    return notes
