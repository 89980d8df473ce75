"""The command line: `polyconv explain`, `bench`, `tune`, `doctor`, `run`. Parses, calls, prints."""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from polyconv.bench import cases, running
from polyconv.bench import command as benching
from polyconv.inspection import blas, report, terminal
from polyconv.inspection import explain as inspection
from polyconv.inspection.command_line import add_call, call_of, ints, listed, reason_of, typed
from polyconv.metal.recorded import predict_row
from polyconv.models import converting, recording
from polyconv.models.tuning import tune
from polyconv.planning.devices import Metal
from polyconv.problem.arguments import one_line, refuse

_LONGEST = 320
_SLOW = "timed on the slow BLAS of MLX's wheel; on a fast one by: polyconv run -m polyconv"
_TOLD = "the shape of x; with --model of each argument, also of ints, as 1,128:int32:0..1000"
_OF_MODEL = "run what the factory makes, once, on zeros, or ints, as each --input says"


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """One line, where argparse prints the usage as well."""
        print(f"{self.prog}: {one_line(message, _LONGEST)}", file=sys.stderr)
        raise SystemExit(2)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line.

    Args:
        argv: Arguments without the program's name. Default: ``sys.argv[1:]``.

    Returns:
        int: The exit code, 2 for a usage error.
    """
    args = _parser().parse_args(argv)
    try:
        args.run(args)
    except BrokenPipeError:
        return 0
    except (ValueError, OSError, KeyError, TypeError, ImportError, AttributeError) as error:
        print(f"polyconv {args.command}: {one_line(reason_of(error), _LONGEST)}", file=sys.stderr)
        return 2
    if args.command in ("bench", "tune") and blas.is_slow():
        print(f"polyconv {args.command}: {_SLOW} {args.command} ...", file=sys.stderr)
    args.then(args)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="polyconv", description="Transposed convolutions for MLX.")
    commands = parser.add_subparsers(required=True, metavar="command", dest="command")
    explain = commands.add_parser(
        "explain", help="what each method does with a convolution, which is taken, and why"
    )
    explain.set_defaults(run=_explain)
    add_call(explain, typed, _TOLD)
    explain.add_argument(
        "--device",
        type=_names,
        default=[None],
        metavar="NAMES",
        help="such as m2 or m2,m4-max; default: this Mac, elsewhere an M4 Max",
    )
    explain.add_argument(
        "--max-workspace", type=int, metavar="BYTES", help="besides arguments and result"
    )
    explain.add_argument("--json", action="store_true", help="print JSON")
    explain.add_argument(
        "--plot",
        type=Path,
        metavar="FILE.SVG",
        help="also draw time, bytes and MACs by method; of one call on one device",
    )
    explain.add_argument(
        "--batch",
        type=Path,
        metavar="ROWS.JSONL",
        help="predict the kernel of each recorded call, one JSON object a line",
    )
    explain.add_argument("--model", metavar="MODULE:FACTORY", help=_OF_MODEL)
    timing = commands.add_parser("bench", help="time MLX's own op and each method, here")
    timing.set_defaults(convert=converting.convert)
    add_call(timing, ints)
    benching.add(timing)
    _add_tuning(commands.add_parser("tune", help="time all plans of a model here, for auto"))
    doctor = commands.add_parser("doctor", help="what polyconv finds on this machine")
    doctor.set_defaults(run=lambda args: print(inspection.doctor()))
    running.add(commands.add_parser("run", help="run a program of yours on a fast BLAS"))
    parser.set_defaults(then=lambda args: None)
    return parser


def _add_tuning(command: argparse.ArgumentParser) -> None:
    add_call(command, typed, _TOLD)
    command.add_argument("--packed", action="store_true", help="the weight of the op is packed")
    command.add_argument("--model", metavar="MODULE:FACTORY", help=_OF_MODEL)
    command.add_argument(
        "--cases", type=Path, metavar="CASES.TOML", help="time each case of a file, also a CSV one"
    )
    command.add_argument(
        "--out",
        type=Path,
        metavar="TUNING.JSON",
        default=Path("tuning.json"),
        help="the file for polyconv.use_tuning or POLYCONV_TUNING; what it holds of other layers "
        "is kept (default: tuning.json)",
    )
    command.add_argument("--rounds", type=int, default=20)
    command.add_argument(
        "--seconds", type=float, default=4.0, help="start no round of a layer later than this"
    )
    command.add_argument(
        "--allow-unfold",
        action="store_true",
        help="on a GPU also time plans that allocate a copy of all windows",
    )
    command.set_defaults(run=_tune)


def _argument(shape: Any, dtype: str | None, bounds: tuple[int, int] | None) -> Any:
    """An argument of a model: its shape, if it says no more."""
    return listed(shape) if dtype is None else recording.example(listed(shape), dtype, bounds)


def _names(text: str) -> list[str]:
    return text.split(",")


def _explain(args: argparse.Namespace) -> None:
    names = args.device
    if len(names) > 1 and (args.batch or args.model):
        refuse("explain", "--device must be one with --batch or --model", ",".join(names))
    if args.plot and (args.batch or args.model or len(names) > 1):
        got = (
            "--batch" if args.batch else "--model" if args.model else f"--device {','.join(names)}"
        )
        refuse("explain", "--plot must be of one call on one --device", got)
    if args.batch:
        _print_batch(args.batch, inspection.metal_named(names[0]))
    elif args.model:
        _print_model(args)
    else:
        call, options = call_of(args)
        options["max_workspace"] = args.max_workspace
        told = [inspection.explain(*call, device=name, **options) for name in names]
        if len(told) == 1:
            if args.plot:
                terminal.draw(told[0], args.plot)
                print(f"drawn: {args.plot}", file=sys.stderr)
            terminal.show(told[0], args.json)
        elif args.json:
            print(json.dumps([each.to_dict() for each in told]))
        else:
            print(report.side_by_side(told))


def _print_batch(path: Path, metal: Metal) -> None:
    with path.open() as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                choice = predict_row(json.loads(line), metal.limits, metal.rules)
            except (LookupError, TypeError, ValueError, ArithmeticError) as error:
                reason = f"no field or value {error}" if isinstance(error, LookupError) else error
                refuse("explain", f"{path}, line {number}, must be a recorded call", str(reason))
            print(json.dumps({"path": choice.path, "unfold_bytes": choice.unfold_bytes}))


def _model_of(args: argparse.Namespace) -> tuple[Callable[..., Any], list[Any]]:
    """What `--model` makes, and its arguments."""
    module, _, factory = args.model.partition(":")
    if not factory or not args.input:
        must = "--model must be MODULE:FACTORY, and --input given for each argument"
        refuse(args.command, must, f"{args.model} and {'an' if args.input else 'no'} --input")
    if args.op or args.weight:
        refuse(
            args.command,
            "op and --weight must be left out with --model",
            str(args.op or args.weight),
        )
    sys.path.insert(0, "")  # as `python -m` finds modules of the current directory
    model = getattr(importlib.import_module(module), factory)()
    return model, [_argument(*each) for each in args.input]


def _refuse_model(args: argparse.Namespace, error: Exception) -> NoReturn:
    must = f"{args.model or args.cases or args.op} must run with what is given"
    refuse(args.command, must, f"{type(error).__name__}: {error}")


def _tune(args: argparse.Namespace) -> None:
    given: list[Any] = []
    calls: Any
    if args.model:
        calls, given = _model_of(args)
    elif args.cases:
        calls = cases.read(args.cases)
    else:
        (op, x, w), options = call_of(args)
        calls = [{"op": op, "input": x, "weight": w, "packed": args.packed, **options}]
    effort = {name: getattr(args, name) for name in ("rounds", "seconds", "allow_unfold")}
    try:
        print(tune(calls, *given, path=args.out, dtype=args.dtype, **effort))
    except (ValueError, OSError):
        raise
    except Exception as error:  # the model's own, of any kind
        _refuse_model(args, error)
    print(f'{args.out} is for polyconv.use_tuning("{args.out}"), or POLYCONV_TUNING={args.out}')


def _print_model(args: argparse.Namespace) -> None:
    model, given = _model_of(args)
    try:
        told = recording.explain_model(model, *given, dtype=args.dtype, device=args.device[0])
    except Exception as error:  # the model's own, of any kind
        _refuse_model(args, error)
    if args.json:
        calls = [{"where": f.where, "calls": n, **each.to_dict()} for f, n, each in told]
        print(json.dumps(calls))
        return
    print("\n".join(report.summary([(f.where, f.lib, n, each) for f, n, each in told])))
    for _, _, each in told:
        print()
        terminal.show(each, as_json=False)


if __name__ == "__main__":
    raise SystemExit(main())
