"""Which calls does `polyconv bench` time? Read from files. Standard library only."""

from __future__ import annotations

import csv
import importlib
import platform
from collections.abc import Iterator, Mapping
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
    try:
        text = path.read_text()
    except ValueError as error:  # bytes that are no text
        refuse("bench", f"{path.name} must be a text file", str(error))
    if path.suffix == ".csv":
        return list(_rows(text, path.name))
    try:
        tomllib = importlib.import_module("tomllib")
    except ImportError:
        must = "--cases must be CSV, or TOML on Python 3.11 or later"
        refuse("bench", must, f"{path.name} on Python {platform.python_version()}")
    try:
        found = tomllib.loads(text).get("case", [])
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


def _rows(text: str, file: str) -> Iterator[dict[str, Any]]:
    """The rows of a table of layers, each shape once. `file` is its name, for errors."""
    must = f"{file} must hold a layer in each row, as tests/data/real_layers.csv"
    try:
        table = [*csv.DictReader(text.splitlines())]
    except csv.Error as error:
        refuse("bench", must, str(error))
    seen = set()
    for number, row in enumerate(table, 1):
        try:
            case = _layer(row)
        except (ValueError, LookupError, TypeError, AttributeError, ArithmeticError):
            refuse("bench", must, f"{shown(row)} in row {number}")
        key = tuple(value for name, value in case.items() if name != "name")
        if key not in seen:
            seen.add(key)
            yield case


def _layer(row: Mapping[str, str]) -> dict[str, Any]:
    ndim, groups = int(row["dims"]), int(row["groups"])
    options = {name: _per_axis(row[name], ndim) for name in _OPTIONS}
    shape = (int(row["N"]), *_per_axis(row["S"], 1), int(row["C"]))
    weight = (int(row["O"]), *_per_axis(row["K"], 1), int(row["C"]) // groups)
    name = f"{row['model']} {row['S']}x{row['C']} to {row['O']}, K{row['K']} s{row['stride']}"
    call = {"op": f"conv_transpose{ndim}d", "input": shape, "weight": weight, **options}
    return {"name": name, **call, "groups": groups}


def _per_axis(text: str, ndim: int) -> tuple[int, ...]:
    """`8` or `8x8x8`; one number stands for all axes."""
    numbers = tuple(map(int, text.split("x")))
    return numbers * ndim if len(numbers) == 1 else numbers
