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
from polyconv.kernels import DEVICES, ITEMSIZE, RULE_SET, DeviceLimits, KernelChoice, predict
from polyconv.plan import METHODS, ConvPlan, SubConv, plan
from polyconv.spec import Axis, ConvSpec

TRANSPOSED = {f"conv_transpose{ndim}d": ndim for ndim in (1, 2, 3)}
OPS = (*TRANSPOSED, "conv_general")

_OP = "explain"
_STEPS = ("stride", "kernel_dilation", "input_dilation")


@dataclass(frozen=True, slots=True)
class Line:
    """What one method does. `reason` is why it is not taken, or what takes part of it away."""

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
    if dtype not in ITEMSIZE:
        arguments.refuse(_OP, f"dtype must be one of {', '.join(ITEMSIZE)}", arguments.shown(dtype))
    problem = _problem(op, tuple(input), tuple(weight), dtype, options)
    given = ", ".join(f"{name}={value}" for name, value in options.items())
    call = f"{op}({tuple(input)}, {tuple(weight)}{', ' if given else ''}{given}) {dtype}"
    chosen = plan(problem, op=op)
    others = {rejection.method: rejection.reason for rejection in chosen.rejected}
    limits = DEVICES[device]
    lines = []
    for method in ("native", *[name for name in METHODS if name != "native"]):
        line = _line(problem, method, limits)
        reason = others.get(method, line.reason or "MLX's own op does the same")
        reason = "" if method == chosen.method else reason
        lines.append(replace(line, reason=reason))
    shape = problem.output_shape
    return Explanation(call, shape, device, RULE_SET, chosen.method, tuple(lines))


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
        lo = [d * (k - 1) - p for d, k, p in zip(dilation, kernel, row["padding"], strict=True)]
        hi = [a + b for a, b in zip(lo, row["output_padding"], strict=True)]
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
    dtypes = (dtype, dtype)
    ndim = TRANSPOSED.get(op) or spec.spatial_ndim(op, x)
    names = {"stride": 1, "padding": 0, "dilation": 1, "output_padding": 0, "groups": 1}
    if op == "conv_general":
        names = {"stride": 1, "padding": 0, "kernel_dilation": 1, "input_dilation": 1, "groups": 1}
        names["flip"] = False
    for name in options:
        if name not in names:
            arguments.refuse(op, f"options must be among {', '.join(names)}", name)
    given: dict[str, Any] = {**names, **options}
    groups = arguments.count(op, "groups", given.pop("groups"))
    if op in TRANSPOSED:
        stride, padding, dilation, output_padding = [
            arguments.per_axis(op, name, value, ndim) for name, value in given.items()
        ]
        return spec.transposed(op, x, w, dtypes, stride, padding, dilation, output_padding, groups)
    flip = arguments.switch(op, "flip", given.pop("flip"))
    pair = arguments.padding_pair(op, given.pop("padding"), ndim)
    stride, kernel_dilation, input_dilation = [
        arguments.broadcast_axes(op, name, value, ndim, 1) for name, value in given.items()
    ]
    rest = (kernel_dilation, input_dilation, groups, flip)
    return spec.general(op, x, w, dtypes, stride, pair, *rest)


def _line(problem: ConvSpec, method: str, limits: DeviceLimits) -> Line:
    try:
        lowered = plan(problem, method, _OP)
    except ValueError as error:
        return Line(method, 0, 0, 0, (), "", 0, str(error).split(": ", 1)[1])
    if lowered.is_zero:
        return Line(method, 0, 0, 0, (), "", 0, "every output is zero")
    choices = [predict(subconv_spec(lowered, sub), limits) for sub in lowered.subconvs]
    worst = max(choices, key=lambda choice: choice.unfold_bytes)
    ideal = plan(problem, "per_phase").cost.macs
    return Line(
        method,
        len(choices),
        lowered.cost.macs,
        max(lowered.cost.macs - ideal, 0),
        tuple(sorted(Counter(choice.path for choice in choices).items())),
        worst.because,
        worst.unfold_bytes,
        "",
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
