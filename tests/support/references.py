"""MLX's own convolutions, which tests judge by, computed where they are right.

On CUDA MLX 0.32.4 may run the plan of another input dilation, whoever made it, overlook a stride or
a dilation, and fail after a view; so may its gradients (docs/differences.md). A test that compares
with MLX's op, or asks polyconv for it by `method="native"`, would judge by what ran before it. So
MLX's ops are those of the CPU there, and polyconv's calls of `mx.conv_general` too where they are
dilated, flipped or cropped, and not marked. That `auto` and gradients make none of these is shown
by `tests/planning/test_cuda.py`, and on a GPU, without this file, by
`docs/benchmarks/cuda_proof.py`.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Any

import mlx.core as mx

NAMES = ["conv_general"]
NAMES += [f"conv{transposed}{n}d" for transposed in ("", "_transpose") for n in (1, 2, 3)]


class OnCpu:
    """One of MLX's functions, on the CPU where it is `asked` for. No method of a class it is in."""

    def __init__(
        self, function: Callable[..., mx.array], asked: Callable[..., bool] | None = None
    ) -> None:
        functools.update_wrapper(self, function)
        self._function, self._asked = function, asked

    def __call__(self, *args: Any, **named: Any) -> mx.array:
        if named.get("stream") is None and (self._asked is None or self._asked(*args, **named)):
            named["stream"] = mx.cpu
        return self._function(*args, **named)


def install() -> None:
    """Exchanges MLX's functions, also those that polyconv keeps as MLX's own.

    `polyconv run` has imported polyconv before the tests. They import it anew.
    """
    for name in [name for name in sys.modules if name.partition(".")[0] == "polyconv"]:
        del sys.modules[name]
    own = mx.conv_general
    for name in NAMES:
        setattr(mx, name, OnCpu(getattr(mx, name)))
    from polyconv.execution import unpatched
    from polyconv.planning.cudnn_plans import MARK

    unpatched.conv_general = OnCpu(own, functools.partial(_is_doubtful, MARK))


def _is_doubtful(
    mark: int,
    x: mx.array,
    w: mx.array,
    stride: Any,
    padding: Any,
    kernel_dilation: Any,
    input_dilation: Any = (1,),
    groups: int = 1,
    flip: bool = False,
) -> bool:
    """As polyconv calls it, with tuples and in order. A marked call has a plan of its own."""
    is_marked = max(stride) >= mark
    is_other = flip or max(input_dilation) > 1 or min(min(side) for side in padding) < 0
    return is_other and not is_marked
