"""What MLX's dispatch did on a Mac, as recorded: tests/data/metal_golden.md."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

from polyconv.problem.spec import Axis, ConvSpec

DATA = Path(__file__).parents[1] / "data"
GOLDEN = DATA / "metal_golden.jsonl.gz"


def rows_of(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in gzip.decompress(file.read_bytes()).splitlines()]


ROWS = rows_of(GOLDEN)
REAL = rows_of(DATA / "metal_real_layers.jsonl.gz")


def spec_of(row: dict[str, Any]) -> ConvSpec:
    options = ("stride", "input_dilation", "kernel_dilation", "padding_lo", "padding_hi")
    columns = [row["x"][1:-1], row["w"][1:-1], *(row[name] for name in options)]
    axes = tuple(Axis(*numbers) for numbers in zip(*columns, strict=True))
    sizes = (row["x"][0], row["x"][-1], row["w"][0])
    return ConvSpec(*sizes, axes, row["groups"], row["flip"], row["dtype"])
