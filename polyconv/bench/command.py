"""The command `polyconv bench`: reads what to time, prints the times and writes them to a file."""

from __future__ import annotations

import argparse
import json
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from polyconv.bench import calibration, cases, frameworks, model_cases, scores
from polyconv.bench.lengths import new_lengths
from polyconv.bench.model_timing import bench_models
from polyconv.bench.progress import track
from polyconv.bench.timing import bench, bench_cases
from polyconv.inspection import explain, report
from polyconv.inspection.command_line import call_of
from polyconv.planning.rates import si
from polyconv.problem import arguments


def add(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of the command, beside those of a call."""
    parser.set_defaults(run=_run)
    _add_effort(parser)
    _add_competitors(parser)
    _add_cases(parser)
    _add_calibration(parser)


def _add_effort(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument(
        "--seconds", type=float, default=4.0, help="start no round of a case later than this"
    )


def _add_competitors(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--rivals",
        type=lambda text: text.split(","),
        default=[],
        metavar="NAMES",
        help=f"also time these, if installed: {','.join(frameworks.PEERS)}",
    )
    parser.add_argument(
        "--methods",
        type=lambda text: [name for name in text.split(",") if name],
        metavar="NAMES",
        help="of polyconv's; default: auto and each",
    )


def _add_cases(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--cases", type=Path, metavar="CASES.TOML", help="time each case of a file, also a CSV one"
    )
    parser.add_argument(
        "--models",
        action="store_true",
        help="time whole models: MLX's own layers, the same converted, and packed",
    )
    parser.add_argument(
        "--most-gmac",
        type=float,
        metavar="GMAC",
        help="of models, those of at most so many billions of multiply-accumulates",
    )
    parser.add_argument(
        "--case", metavar="TEXT", help="of cases or models, the ones named like this"
    )
    parser.add_argument("--train", action="store_true", help="time the output and both gradients")
    parser.add_argument("--no-native", action="store_true", help="leave MLX's own op out")
    parser.add_argument("--out", type=Path, metavar="ROWS.JSON", help="where to write the rows")
    parser.add_argument(
        "--new-lengths",
        action="store_true",
        help="time 200 lengths of the call's input in turn, against one length 200 times",
    )


def _add_calibration(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--calibrate",
        type=Path,
        metavar="RATES.JSON",
        help="measure what auto compares methods by, for polyconv.use_rates or POLYCONV_RATES",
    )
    parser.add_argument(
        "--layers", type=int, default=120, help="how many random layers to calibrate on"
    )
    parser.add_argument("--seed", type=int, default=0, help="which random layers")


def _run(args: argparse.Namespace) -> None:
    if args.calibrate:
        _calibrate(args)
    elif args.models:
        _models(args)
    elif args.cases:
        _cases(args)
    elif args.new_lengths:
        call, options = call_of(args)
        found = new_lengths(*call, rivals=args.rivals, **options)
        _write(args.out, {"new_lengths": found})
        for name, (known, new) in found.items():
            print(f"{name}: {known:.3g} ms a call at one length, {new:.3g} ms at 200 lengths")
    else:
        _call(args)


def _call(args: argparse.Namespace) -> None:
    (op, x, w), options = call_of(args)
    rows = [("", "median", "quartiles", "times auto", "peak", "error")]
    timings = bench(op, x, w, **_more(args), **options)
    auto = next(each.median for each in timings if each.name in ("auto", "packed"))
    for each in timings:
        low, high = each.quartiles
        ratio, peak = f"{each.median / auto:.3g}", f"{si(each.peak_bytes)}B"
        spread = f"{low:.3g} to {high:.3g} ms"
        error = "-" if each.error is None else f"{each.error:.1e}"
        cells = (f"{each.median:.3g} ms", spread, ratio, peak, error)
        rows.append((each.name, *cells))
    print("\n".join(report.table(rows)))


def _more(args: argparse.Namespace) -> dict[str, Any]:
    chosen = {} if args.methods is None else {"methods": args.methods}
    return {
        **chosen,
        "rounds": args.rounds,
        "seconds": args.seconds,
        "rivals": args.rivals,
        "native": not args.no_native,
        "train": args.train,
    }


def _cases(args: argparse.Namespace) -> None:
    chosen = [each for each in cases.read(args.cases) if (args.case or "") in each["name"]]
    if not chosen:
        must = f"--case must be like the name of a case of {args.cases}"
        arguments.refuse("bench", must, arguments.shown(args.case))
    rows = []
    for case in track(chosen, "timing"):
        rows += bench_cases([case], **_more(args))
        print(_in_words(rows[-1]), flush=True)
    print("\n".join(scores.summary(rows, "auto" if args.train else "packed")))
    _write(args.out, {"rounds": args.rounds, "rows": rows})


def _models(args: argparse.Namespace) -> None:
    given = [name for name in ("op", "cases", "train", "methods") if getattr(args, name)]
    if given:
        must = "--models must stand without a call, --cases, --train and --methods"
        arguments.refuse("bench", must, given[0])
    chosen = [each for each in model_cases.MODELS if (args.case or "") in each.name]
    if not chosen:
        must = "--case must be like the name of a model"
        arguments.refuse("bench", must, arguments.shown(args.case))
    most = min(each.macs for each in chosen) / 1e9
    if args.most_gmac is not None and not args.most_gmac >= most:
        arguments.refuse("bench", f"--most-gmac must be at least {most:.3g}", str(args.most_gmac))
    chosen = [each for each in chosen if each.macs / 1e9 <= (args.most_gmac or each.macs)]
    more = {name: getattr(args, name) for name in ("rounds", "seconds", "rivals")}
    rows = []
    for model in track(chosen, "timing"):
        rows += bench_models([model], args.convert, native=not args.no_native, **more)
        print(_in_words(rows[-1]), flush=True)
    print("\n".join(scores.summary(rows)))
    _write(args.out, {"rounds": args.rounds, "rows": rows})


def _in_words(row: dict[str, Any]) -> str:
    told = [f"{name} {each['ms']:.3g}" for name, each in row["timings"].items()]
    return f"{row['name']}: {', '.join(told)} ms"


def _calibrate(args: argparse.Namespace) -> None:
    arguments.positive("bench", "layers", args.layers)
    if not args.calibrate.absolute().parent.is_dir():  # before minutes of measuring
        raise FileNotFoundError(2, "No such directory", str(args.calibrate.parent))
    calibration.check_device()
    calls = list(calibration.layers(args.seed, args.layers))
    with _telling() as tell:
        rows = calibration.sweep(calls, tell)
    rates = calibration.fitted(rows)
    _write(args.calibrate, calibration.as_file(rows, rates))
    print(f"{args.calibrate}: {rates}")


def _write(path: Path | None, found: dict[str, Any]) -> None:
    """Writes figures to a file, but not over those of another kind of machine."""
    if path:
        path = _kept_apart(path)
        found = {"platform": here(), **found}
        rows = found.pop("rows", None)
        text = json.dumps({"what": explain.doctor().splitlines(), **found}, indent=1)
        if rows is not None:  # a line each
            lines = ",\n".join(f"  {json.dumps(row)}" for row in rows)
            text = f'{text[:-2]},\n "rows": [\n{lines}\n ]\n}}'
        path.write_text(f"{text}\n")


# The platform of older files, which do not name theirs.
HEADED = "Linux x86_64"


def here() -> str:
    """The kind of this machine."""
    return f"{platform.system()} {platform.machine()}"


def _kept_apart(path: Path) -> Path:
    """`path`, or a path beside it if it holds figures of another kind of machine. Says so then."""
    try:
        known = json.loads(path.read_text())
        other = known.get("platform", HEADED) if "what" in known else here()
    except (OSError, ValueError, AttributeError):
        return path
    if other == here():
        return path
    apart = path.with_stem(f"{path.stem}-{here().lower().replace(' ', '-')}")
    print(f"{path} holds figures of {other}, so those of {here()} go to {apart}.")
    return apart


@contextmanager
def _telling() -> Iterator[Any]:
    try:
        from rich.console import Console
    except ImportError:
        yield lambda text: None
        return
    with Console().status("measuring") as status:
        yield status.update
