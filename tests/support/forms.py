"""A case of each form that Metal is given, and calls for which MLX reads outside its input."""

from dataclasses import replace

from polyconv.planning.devices import DEVICES, Metal
from polyconv.planning.forms import Form
from polyconv.problem.spec import Axis, ConvSpec
from tests.support.cases import named

METAL = Metal("m4-max", DEVICES["m4-max"])
_T1, _T2, _T3 = (f"conv_transpose{n}d" for n in (1, 2, 3))

# A case, a method, and the form in which its first convolution is issued.
CASES = {
    "input channels padded": (
        named(_T1, (1, 7, 5), (3, 4, 5), stride=2),
        "stacked",
        Form(11),
    ),
    "output channels padded": (
        named(_T1, (1, 7, 2), (5, 8, 2), stride=4),
        "stacked",
        Form(extra_out=12),
    ),
    "both, per group": (
        named(_T1, (2, 6, 10), (14, 6, 5), stride=3, groups=2),
        "stacked",
        Form(11, 11),
    ),
    "2d, few outputs": (
        named(_T2, (1, 3, 3, 5), (5, 4, 4, 5), stride=2, padding=1),
        "stacked",
        Form(11, 12),
    ),
    "1d as 2d": (
        named(_T1, (1, 300, 5), (3, 4, 5), stride=2),
        "auto",
        Form(lift="plane"),
    ),
    "depthwise, padded behind only": (
        named(_T1, (2, 9, 3), (3, 4, 1), stride=2, padding=3, output_padding=3, groups=3),
        "per_phase",
        Form(lift="plane"),
    ),
    "3d, groups": (
        named(_T3, (1, 2, 3, 2, 4), (2, 3, 3, 3, 2), groups=2),
        "auto",
        Form(0, 0, (), "frames"),
    ),
    "3d halves, padded behind": (
        replace(
            named(
                _T3,
                (1, 11, 10, 12, 32),
                (32, 2, 2, 1, 32),
                padding=(1, 0, 0),
                output_padding=(1, 2, 1),
            ),
            dtype="float16",
        ),
        "per_phase",
        Form(pad_hi=(1, 3, 1)),
    ),
}


def undilated(
    x: tuple[int, ...], w: tuple[int, ...], padding: tuple[list[int], list[int]], groups: int = 1
) -> ConvSpec:
    known = zip(x[1:-1], w[1:-1], *padding, strict=True)
    axes = tuple(Axis(n, k, padding_lo=lo, padding_hi=hi) for n, k, lo, hi in known)
    return ConvSpec(x[0], x[-1], w[0], axes, groups)


HAZARDS = {
    "depthwise_1d": undilated((2, 50, 8), (8, 3, 1), ([0], [2]), groups=8),
    "winograd_2d": undilated((1, 62, 68, 128), (128, 3, 3, 128), ([0, 0], [2, 2])),
    "small_kd_3d": undilated((1, 8, 8, 8, 32), (32, 3, 3, 3, 32), ([0, 1, 1], [2, 1, 1])),
}
