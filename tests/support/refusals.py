"""Errors, which must be one sentence."""

import pytest

from tests.campaigns.fuzz_judge import LONGEST


def refused(call, *args, **kwargs):
    """The error, which must be one sentence."""
    with pytest.raises(ValueError, match=r"^\[[\w.]+\] .+; got .+$") as error:
        call(*args, **kwargs)
    text = str(error.value)
    assert "\n" not in text
    assert len(text) <= LONGEST
    return text
