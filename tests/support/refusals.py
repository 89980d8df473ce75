"""Whether a call is refused clearly."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

from polyconv.execution import unpatched

LONGEST = 300  # characters


def refused(call: Callable[..., object], *args: Any, **kwargs: Any) -> str:
    """The error, which must be one sentence."""
    with pytest.raises(ValueError, match=r"^\[[\w.]+\] .+; got .+$") as error:
        call(*args, **kwargs)
    text = str(error.value)
    assert "\n" not in text
    assert len(text) <= LONGEST
    return text


def file_is_refused(
    program: Callable[[], object], path: Path, reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A command that is given a file must end with 2 and one line, which names file and reason."""
    code = program()
    told = capsys.readouterr()
    assert code == 2
    assert reason in told.err
    assert str(path) in told.err
    assert len(told.err.splitlines()) == 1
    assert told.out == ""


def skip_where_mlx_finds_no_memory(x: tuple[int, ...], w: tuple[int, ...], padding: int) -> None:
    """Skips a test if MLX's own `conv1d` of these shapes asks for more memory than there is."""
    options = (1,), ((padding,), (padding,)), (1,), (1,), 1, False
    try:
        mx.eval(unpatched.conv_general(mx.zeros(x), mx.zeros(w), *options))
    except RuntimeError as error:
        if "out of memory" not in str(error):
            raise
        pytest.skip(f"MLX's own conv1d of {x} by {w} finds no memory here (docs/differences.md)")
