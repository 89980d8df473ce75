"""Which kernel does a recorded call take? A call is a row of JSON, as in tests/data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from polyconv.metal.calls import DeviceLimits
from polyconv.metal.kernels import NEWEST, KernelChoice, RuleSet, predict
from polyconv.problem import spec
from polyconv.problem.spec import Axis, ConvSpec

_STEPS = ("stride", "kernel_dilation", "input_dilation")


def predict_row(
    row: Mapping[str, Any], limits: DeviceLimits, rules: RuleSet = NEWEST
) -> KernelChoice:
    """The kernel of one recorded call, as it is: no validation, no plan.

    Args:
        row (dict): The call, alone or as `config`: `x` and `w`, shapes; `dtype`; `groups`; then
            `conv_general`'s options per axis (`stride`, `padding_lo`, `padding_hi`,
            `kernel_dilation`, `input_dilation`, `flip`) or, where `op` is ``"conv_transpose"``,
            `stride`, `padding`, `dilation`, `output_padding`.
        limits (DeviceLimits): The device.
        rules (RuleSet, optional): The version of MLX. Default: the newest.
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
    return predict(ConvSpec(*sizes, tuple(axes), row["groups"], flip, row["dtype"]), limits, rules)
