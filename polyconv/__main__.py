"""The command line: `polyconv explain`. Parses, calls, prints."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from polyconv.explanation import OPS, Explanation, explain, predict_row
from polyconv.kernels import DEVICES

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


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """One line, where argparse prints the usage as well."""
        print(f"{self.prog}: {message}", file=sys.stderr)
        raise SystemExit(2)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line.

    Args:
        argv: Arguments without the program's name. Default: ``sys.argv[1:]``.

    Returns:
        int: The exit code, 2 for a usage error.
    """
    parser = _parser()
    args = parser.parse_args(argv)
    try:
        if args.batch:
            _print_batch(args.batch, args.device)
        else:
            _print(_explained(args), args.json)
    except (ValueError, OSError, KeyError, TypeError) as error:
        reason = f"{error.filename}: {error.strerror}" if isinstance(error, OSError) else error
        print(f"polyconv explain: {reason}", file=sys.stderr)
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="polyconv", description="Transposed convolutions for MLX.")
    command = parser.add_subparsers(required=True, metavar="explain").add_parser(
        "explain", help="what each method does with a convolution, which is taken, and why"
    )
    command.add_argument("op", nargs="?", choices=OPS)
    command.add_argument("--input", type=_ints, metavar="N,S,C", help="the shape of x")
    command.add_argument("--weight", type=_ints, metavar="O,K,C", help="the shape of w")
    for name in _OPTIONS:
        command.add_argument(f"--{name.replace('_', '-')}", type=_ints, metavar="INTS")
    command.add_argument("--groups", type=int)
    command.add_argument("--flip", action="store_true", default=None)
    command.add_argument("--dtype", default="float32")
    command.add_argument("--device", choices=DEVICES, default="m4-max")
    command.add_argument("--json", action="store_true", help="print a JSON object")
    command.add_argument(
        "--batch",
        type=Path,
        metavar="ROWS.JSONL",
        help="predict the kernel of each recorded call, one JSON object a line",
    )
    return parser


def _ints(text: str) -> Any:
    numbers = [int(part) for part in text.split(",")]
    return numbers[0] if len(numbers) == 1 else tuple(numbers)


_ints.__name__ = "ints"  # what argparse calls a value that it cannot read


def _explained(args: argparse.Namespace) -> Explanation:
    if args.op is None or args.input is None or args.weight is None:
        raise ValueError("needs an op, --input and --weight, or --batch")
    options = {name: getattr(args, name) for name in (*_OPTIONS, "groups", "flip")}
    options = {name: value for name, value in options.items() if value is not None}
    lo, hi = options.pop("padding_lo", None), options.pop("padding_hi", None)
    if lo is not None or hi is not None:
        options["padding"] = (_listed(lo), _listed(hi))
    shapes = (_listed(args.input), _listed(args.weight))
    return explain(args.op, *shapes, dtype=args.dtype, device=args.device, **options)


def _listed(value: Any) -> list[int]:
    return [] if value is None else [value] if isinstance(value, int) else list(value)


def _print_batch(path: Path, device: str) -> None:
    with path.open() as lines:
        for line in lines:
            choice = predict_row(json.loads(line), DEVICES[device])
            print(json.dumps({"path": choice.path, "unfold_bytes": choice.unfold_bytes}))


def _print(explanation: Explanation, as_json: bool) -> None:
    if as_json:
        print(json.dumps(explanation.to_dict()))
    elif not sys.stdout.isatty() or not _print_rich(explanation):
        print(explanation)


def _print_rich(explanation: Explanation) -> bool:
    """Prints a table that fits the terminal, if `rich` (an extra) is there."""
    try:
        from rich import box
        from rich.console import Console
        from rich.table import Table
    except ImportError:
        return False
    headings, *rows = explanation.rows()
    table = Table(*headings, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for row in rows:
        table.add_row(*row, style="bold" if row[0].startswith("->") else None)
    console = Console(highlight=False)
    console.print(explanation.call, "->", str(explanation.output_shape), markup=False)
    console.print(table)
    for note in (*explanation.notes(), explanation.footnote):
        console.print(note, markup=False)
    return True


if __name__ == "__main__":
    raise SystemExit(main())
