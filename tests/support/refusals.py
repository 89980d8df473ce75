"""Whether a call is refused clearly."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

LONGEST = 300  # characters


def refused(call: Callable[..., object], *args: Any, **kwargs: Any) -> str:
    """The error, which must be one sentence."""
    with pytest.raises(ValueError, match=r"^\[[\w.]+\] .+; got .+$") as error:
        call(*args, **kwargs)
    text = str(error.value)
    assert "\n" not in text
    assert len(text) <= LONGEST
    return text
