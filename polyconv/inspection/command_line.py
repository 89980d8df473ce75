"""How is a call written on a command line? Its options, what is read of them, and errors."""

from __future__ import annotations

import argparse
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from polyconv.inspection.explain import DTYPES
from polyconv.problem.arguments import refuse
from polyconv.problem.signatures import OPS

_OPTIONS = (
    "stride",
    "padding",
    "dilation",
    "output_padding",
    "kernel_dilation",
    "input_dilation",
    "padding_lo",
    "padding_hi",
)


def add_call(
    command: argparse.ArgumentParser,
    read_input: Callable[[str], Any],
    told: str = "the shape of x",
) -> None:
    """Adds the op, its shapes and its options. `told` says what an `--input` is."""
    command.add_argument("op", nargs="?", choices=OPS)
    command.add_argument("--input", type=read_input, metavar="N,S,C", action="append", help=told)
    command.add_argument("--weight", type=ints, metavar="O,K,C", help="the shape of w")
    for name in _OPTIONS:
        command.add_argument(f"--{name.replace('_', '-')}", type=ints, metavar="INTS")
    command.add_argument("--groups", type=int)
    command.add_argument("--flip", action="store_true", default=None)
    command.add_argument("--dtype", choices=DTYPES, default="float32")


def ints(text: str) -> Any:
    """`4`, or `4,2` as a tuple. argparse calls a value that is neither by this function's name."""
    numbers = [int(part) for part in text.split(",")]
    return numbers[0] if len(numbers) == 1 else tuple(numbers)


def typed(text: str) -> tuple[Any, str | None, tuple[int, int] | None]:
    """`1,128:int32:0..1000`, of which the dtype, or the range behind it, may be left out."""
    shape, *more = text.split(":")
    dtype = more[0] if more else None
    bounds = more[1].split("..") if len(more) > 1 else None
    if len(more) > 2 or (bounds and len(bounds) != 2):
        raise ValueError
    return ints(shape), dtype, (int(bounds[0]), int(bounds[1])) if bounds else None


typed.__name__ = "shape"  # what argparse calls a value that it cannot read


def call_of(args: argparse.Namespace) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The op, the shapes of its input and weight, and its options.

    Raises:
        ValueError: If one of the three is missing, or if `--input` is more than a shape.
    """
    if args.op is None or args.input is None or args.weight is None:
        given = {"op": args.op, "--input": args.input, "--weight": args.weight}
        missing = [name for name, value in given.items() if value is None]
        refuse(
            args.command, "op, --input and --weight must be given", f"no {' and no '.join(missing)}"
        )
    options = {name: getattr(args, name) for name in (*_OPTIONS, "groups", "flip")}
    options = {name: value for name, value in options.items() if value is not None}
    lo, hi = options.pop("padding_lo", None), options.pop("padding_hi", None)
    if lo is not None or hi is not None:
        options["padding"] = (listed(lo), listed(hi))
    given = args.input[-1]
    if args.command != "bench":
        given, *more = given
        if more != [None, None]:
            must = "--input of an op must be a shape alone, as its dtype is that of --dtype"
            refuse(args.command, must, " and ".join(str(each) for each in more if each))
    shapes = (listed(given), listed(args.weight))
    return (args.op, *shapes), {"dtype": args.dtype, **options}


def listed(value: Any) -> list[int]:
    return [] if value is None else [value] if isinstance(value, int) else list(value)


def reason_of(error: Exception) -> str:
    """What is told of an error. What polyconv raised without meaning to is told with its place."""
    if isinstance(error, OSError):
        return f"{error.filename}: {error.strerror}"
    place = traceback.extract_tb(error.__traceback__)[-1]
    file, package = Path(place.filename), Path(__file__).parents[1]
    if str(error).startswith("[") or package not in file.parents:
        return str(error)
    return f"{error} ({type(error).__name__} in {file.name}, line {place.lineno})"
