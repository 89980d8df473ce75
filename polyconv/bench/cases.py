"""Which calls does `polyconv bench` time? Read from files. Standard library only."""

from __future__ import annotations

import csv
import importlib
import platform
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from polyconv.problem.arguments import refuse, shown

_OPTIONS = ("stride", "padding", "output_padding", "dilation")


def read(path: Path) -> list[dict[str, Any]]:
    """The cases of a file: `name`, `op`, `input`, `weight` and the options of the call.

    Args:
        path (Path): TOML with one ``[[case]]`` for each case, or CSV with one transposed
            convolution in each row, as ``tests/data/real_layers.csv``.

    Raises:
        ValueError: If it is neither, or if it is TOML on Python 3.10.
        OSError: If it cannot be read.
    """
    if path.suffix == ".csv":
        try:
            return list(rows(path.read_text()))
        except (ValueError, LookupError, TypeError, AttributeError, ArithmeticError) as error:
            must = f"{path.name} must hold a layer in each row, as tests/data/real_layers.csv"
            refuse("bench", must, f"{type(error).__name__}: {error}")
    try:
        tomllib = importlib.import_module("tomllib")
    except ImportError:
        must = "--cases must be CSV, or TOML on Python 3.11 or later"
        refuse("bench", must, f"{path.name} on Python {platform.python_version()}")
    try:
        found = tomllib.loads(path.read_text()).get("case", [])
    except (ValueError, RecursionError) as error:
        refuse("bench", f"{path.name} must be TOML", str(error))
    if not isinstance(found, list) or not found or not all(map(_is_case, found)):
        must = f"{path.name} must hold cases as [[case]] with name, op, input and weight"
        refuse("bench", must, shown(found))
    return [dict(case) for case in found]


def _is_case(case: Any) -> bool:
    if not isinstance(case, dict) or not {"name", "op", "input", "weight"} <= case.keys():
        return False
    return isinstance(case["name"], str) and isinstance(case["op"], str)


def rows(text: str) -> Iterator[dict[str, Any]]:
    """The rows of a table of layers, each shape once."""
    seen = set()
    for row in csv.DictReader(text.splitlines()):
        ndim, groups = int(row["dims"]), int(row["groups"])
        options = {name: _per_axis(row[name], ndim) for name in _OPTIONS}
        shape = (int(row["N"]), *_per_axis(row["S"], 1), int(row["C"]))
        weight = (int(row["O"]), *_per_axis(row["K"], 1), int(row["C"]) // groups)
        call = {"op": f"conv_transpose{ndim}d", "input": shape, "weight": weight, **options}
        key = (*call.values(), groups)
        if key not in seen:
            seen.add(key)
            name = f"{row['model']} {row['S']}x{row['C']} to {row['O']}, K{row['K']}"
            yield {"name": f"{name} s{row['stride']}", **call, "groups": groups}


def _per_axis(text: str, ndim: int) -> tuple[int, ...]:
    """`8` or `8x8x8`; one number stands for all axes."""
    numbers = tuple(map(int, text.split("x")))
    return numbers * ndim if len(numbers) == 1 else numbers
