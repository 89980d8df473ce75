"""What would each method do with a convolution on a device, which is taken, and why?

Renders plans and predicted Metal kernels as text and as a dict; decides nothing. Standard library
only: no time is measured or claimed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from math import prod
from typing import Any

from polyconv import arguments, spec
from polyconv.axisplan import Rejection
from polyconv.kernels import DEVICES, RULE_SET, DeviceLimits, KernelChoice, predict
from polyconv.plan import METHODS, ConvPlan, SubConv, plan
from polyconv.spec import Axis, ConvSpec

TRANSPOSED = {f"conv_transpose{ndim}d": ndim for ndim in (1, 2, 3)}
OPS = (*TRANSPOSED, "conv_general")

_OP = "explain"
_DTYPES = ("float16", "bfloat16", "float32")  # what Metal computes
_STEPS = ("stride", "kernel_dilation", "input_dilation")
# By whether the op is a transposed one.
_OPTIONS = {
    True: ("stride", "padding", "dilation", "output_padding", "groups"),
    False: ("stride", "padding", "kernel_dilation", "input_dilation", "groups", "flip"),
}


@dataclass(frozen=True, slots=True)
class Line:
    """What one method does; nothing where it cannot. `reason` is why it is not taken."""

    method: str
    n_convs: int
    macs: int
    macs_on_zeros: int
    kernels: tuple[tuple[str, int], ...]
    because: str
    unfold_bytes: int
    reason: str


@dataclass(frozen=True, slots=True)
class Explanation:
    """One convolution, a line per method, and the method taken. Print it, or `to_dict()`."""

    call: str
    output_shape: tuple[int, ...]
    device: str
    rule_set: str
    chosen: str
    lines: tuple[Line, ...]

    @property
    def footnote(self) -> str:
        kernels = f"Kernels are predicted for {self.device} from the source of {self.rule_set}"
        return f"{kernels}, not measured; costs are estimated with a CPU's constants."

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def rows(self) -> list[tuple[str, ...]]:
        """The table, headings first."""
        return [_HEADINGS, *[_cells(line, self.chosen) for line in self.lines]]

    def notes(self) -> list[str]:
        """Why each method gets its kernel, and why it is not taken."""
        return [_note(line) for line in self.lines]

    def __str__(self) -> str:
        rows = self.rows()
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        table = ["  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) for row in rows]
        lines = [f"{self.call} -> {self.output_shape}", "", *[row.rstrip() for row in table], ""]
        return "\n".join([*lines, *self.notes(), self.footnote])


def explain(
    op: str,
    input: Sequence[int],
    weight: Sequence[int],
    *,
    dtype: str = "float32",
    device: str = "m4-max",
    **options: Any,
) -> Explanation:
    """Explains what polyconv does with a call, and what MLX's own op would.

    Args:
        op (str): ``"conv_transpose1d"``, ``2d``, ``3d`` or ``"conv_general"``.
        input (list(int)): The shape of ``x``, ``(N, *S, C)``.
        weight (list(int)): The shape of ``w``, ``(O, *K, C / groups)``.
        dtype (str, optional): Of both. Default: ``"float32"``.
        device (str, optional): One of ``polyconv.kernels.DEVICES``. Default: ``"m4-max"``.
        options: The call's own, such as ``stride=2``.

    Returns:
        Explanation: To print, or as a dict.

    Raises:
        ValueError: As the op itself would, or if the op or device is not known.
    """
    if op not in OPS:
        arguments.refuse(_OP, f"op must be one of {', '.join(OPS)}", arguments.shown(op))
    if device not in DEVICES:
        known = ", ".join(DEVICES)
        arguments.refuse(_OP, f"device must be one of {known}", arguments.shown(device))
    if dtype not in _DTYPES:
        arguments.refuse(_OP, f"dtype must be one of {', '.join(_DTYPES)}", arguments.shown(dtype))
    problem = _problem(op, tuple(input), tuple(weight), dtype, options)
    given = ", ".join(f"{name}={value}" for name, value in options.items())
    call = f"{op}({tuple(input)}, {tuple(weight)}{', ' if given else ''}{given}) {dtype}"
    chosen = plan(problem, op=op)
    lines = _lines(problem, chosen, DEVICES[device])
    return Explanation(call, problem.output_shape, device, RULE_SET, chosen.method, lines)


def predict_row(row: Mapping[str, Any], limits: DeviceLimits) -> KernelChoice:
    """The kernel of one recorded call, as it is: no validation, no plan.

    Args:
        row (dict): `x` and `w`, shapes; `dtype`; `groups`; then `conv_general`'s options per axis
            (`stride`, `padding_lo`, `padding_hi`, `kernel_dilation`, `input_dilation`, `flip`) or,
            where `op` is ``"conv_transpose"``, `stride`, `padding`, `dilation`, `output_padding`.
        limits (DeviceLimits): The device.
    """
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


def subconv_spec(chosen: ConvPlan, sub: SubConv) -> ConvSpec:
    """The convolution that MLX is given for one subconv of a plan."""
    problem = chosen.problem
    axes = tuple(block.axis for block in sub.blocks)
    out_channels = problem.out_channels * prod(sub.n_phases)
    if problem.groups == 1 or len(axes) < 3:
        return replace(problem, out_channels=out_channels, axes=axes, flip=chosen.flip)
    depth, *plane = axes  # as execute lowers it: frames to the batch, taps to the channels
    return replace(
        problem,
        batch=problem.batch * depth.output_size,
        in_channels=problem.in_channels * depth.kernel_size,
        out_channels=out_channels,
        axes=tuple(plane),
        flip=False,
    )


def _problem(
    op: str, x: tuple[int, ...], w: tuple[int, ...], dtype: str, options: Mapping[str, Any]
) -> ConvSpec:
    for name in options:
        if name not in _OPTIONS[op in TRANSPOSED]:
            must = f"options must be among {', '.join(_OPTIONS[op in TRANSPOSED])}"
            arguments.refuse(op, must, name)
    dtypes = (dtype, dtype)
    if op in TRANSPOSED:
        read = arguments.transposed_options(op, TRANSPOSED[op], **options)
        return spec.transposed(op, x, w, dtypes, *read)
    ndim = spec.spatial_ndim(op, x)
    return spec.general(op, x, w, dtypes, *arguments.general_options(op, ndim, **options))


def _lines(problem: ConvSpec, chosen: ConvPlan, limits: DeviceLimits) -> tuple[Line, ...]:
    others = {rejection.method: rejection.reason for rejection in chosen.rejected}
    lowered = {method: lower(problem) for method, lower in METHODS.items()}
    ideal = min(each.cost.macs for each in lowered.values() if isinstance(each, ConvPlan))
    lines = []
    for method in sorted(METHODS, key=lambda method: method != "native"):
        reason = others.get(method, "MLX's own op does the same")
        if method == chosen.method:
            reason = ""
        lines.append(_line(lowered[method], reason, ideal, limits))
    return tuple(lines)


def _line(lowered: ConvPlan | Rejection, reason: str, ideal: int, limits: DeviceLimits) -> Line:
    if isinstance(lowered, Rejection):
        return Line(lowered.method, 0, 0, 0, (), "", 0, lowered.reason)
    if lowered.is_zero:
        reason = reason and "every output is zero"
        return Line(lowered.method, 0, 0, 0, (), "", 0, reason)
    choices = [predict(subconv_spec(lowered, sub), limits) for sub in lowered.subconvs]
    worst = max(choices, key=lambda choice: choice.unfold_bytes)
    return Line(
        lowered.method,
        len(choices),
        lowered.cost.macs,
        lowered.cost.macs - ideal,
        tuple(sorted(Counter(choice.path for choice in choices).items())),
        worst.because,
        worst.unfold_bytes,
        reason,
    )


_HEADINGS = ("   method", "convs", "MACs", "on zeros", "Metal kernel", "unfolds")


def _cells(line: Line, chosen: str) -> tuple[str, ...]:
    name = f"{'->' if line.method == chosen else '  '} {line.method}"
    if not line.n_convs:
        return (name, "-", "-", "-", "-", "-")
    kernels = ", ".join(path for path, _ in line.kernels)
    zeros = f"{line.macs_on_zeros / line.macs:.1%}"
    return (name, str(line.n_convs), _si(line.macs), zeros, kernels, _bytes(line))


def _note(line: Line) -> str:
    refusal = f"not taken: {line.reason}" if line.reason else ""
    said = "; ".join(filter(None, (line.because, refusal)))
    return f"{line.method}: {said or 'nothing to compute'}."


def _bytes(line: Line) -> str:
    return f"{_si(line.unfold_bytes)}B" if line.unfold_bytes else "nothing"


def _si(number: float) -> str:
    for unit in ("", "k", "M", "G", "T"):
        if number < 1000:
            return f"{number:.3g} {unit}" if unit else str(int(number))
        number /= 1000
    return f"{number:.3g} P"
