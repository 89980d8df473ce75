"""Records what is handed to MLX: the specs of convolutions that Metal would see, or all of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple
from unittest import mock

import mlx.core as mx

from polyconv.execution import unpatched
from polyconv.problem.spec import Axis, ConvSpec
from tests.support.threading_tools import forget

_CONVOLUTIONS = [f"conv{t}{n}d" for t in ("", "_transpose") for n in (1, 2, 3)]


@contextmanager
def traced() -> Iterator[list[ConvSpec]]:
    """The convolutions that polyconv issues inside, in order. Any but `conv_general` fails."""
    calls: list[ConvSpec] = []
    conv_general = unpatched.conv_general

    def spy(
        x: mx.array,
        w: mx.array,
        stride: Any,
        padding: Any,
        kernel_dilation: Any,
        input_dilation: Any,
        groups: int,
        flip: bool,
    ) -> mx.array:
        options = (stride, input_dilation, kernel_dilation, *padding)
        axes = zip(x.shape[1:-1], w.shape[1:-1], *options, strict=True)
        sizes = (x.shape[0], x.shape[-1], w.shape[0])
        dtype = str(x.dtype).removeprefix("mlx.core.")
        assert x.dtype == w.dtype
        calls.append(ConvSpec(*sizes, tuple(Axis(*a) for a in axes), groups, flip, dtype))
        return conv_general(x, w, stride, padding, kernel_dilation, input_dilation, groups, flip)

    def refuse(*_: Any, **__: Any) -> mx.array:
        raise AssertionError("a convolution of MLX other than mx.conv_general")

    kept = {name: getattr(mx, name) for name in _CONVOLUTIONS}
    for name in _CONVOLUTIONS:
        setattr(mx, name, refuse)
    unpatched.conv_general = spy
    try:
        yield calls
    finally:
        unpatched.conv_general = conv_general
        for name, function in kept.items():
            setattr(mx, name, function)


class Issued(NamedTuple):
    """One of MLX's operations in a graph, and the types that it reads and makes."""

    name: str
    reads: tuple[mx.Dtype, ...]
    makes: tuple[mx.Dtype, ...]


def issued(call: Callable[..., Any], *arrays: mx.array, opened: bool = False) -> list[Issued]:
    """The operations of a call. Nothing is computed.

    Copies that make an array contiguous are left out, as MLX cannot write them, and so are
    functions with gradient rules, which may be called in such a rule alone: in place of the
    inner one are its own operations. With `opened` so it is in place of each.
    """
    found: list[Issued] = []

    def note(told: dict[str, Any]) -> None:
        if told["type"] == "primitive":
            types = [tuple([dtype for _, _, dtype in told[k]]) for k in ("inputs", "outputs")]
            found.append(Issued(told["name"], *types))

    custom = mock.patch("mlx.core.custom_function", _WrittenOut)
    _WrittenOut._depth += opened
    forget()  # or functions that were made before would be found again, and these afterwards
    try:
        with mock.patch("polyconv.execution.arrays.is_exporting", return_value=True), custom:
            mx.export_function(note, call, *arrays)
    finally:
        _WrittenOut._depth -= opened
        forget()
    return found


class _WrittenOut:
    """A function with a gradient rule, in which others are plain functions."""

    _custom_function = mx.custom_function
    _depth = 0

    def __init__(self, function: Callable[..., Any]) -> None:
        self._plain, self._ruled = function, self._custom_function(function)
        self.vmap = self._ruled.vmap

    def __call__(self, *given: mx.array) -> Any:
        return (self._plain if _WrittenOut._depth else self._ruled)(*given)

    def vjp(self, rule: Callable[..., Any]) -> None:
        def inside(*given: Any) -> Any:
            _WrittenOut._depth += 1
            try:
                return rule(*given)
            finally:
                _WrittenOut._depth -= 1

        self._ruled.vjp(inside)
