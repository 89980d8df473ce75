"""`tune`: which plan of each convolution of a model is the fastest on this machine?"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import mlx.core as mx

from polyconv.bench import tuning
from polyconv.bench.progress import track
from polyconv.execution.device import device_for, is_planned_elsewhere
from polyconv.execution.machine import names
from polyconv.inspection import report
from polyconv.inspection.explain import DTYPES
from polyconv.models.recording import Found, calls_of
from polyconv.planning.choose import plan
from polyconv.planning.tuned import Entry
from polyconv.planning.tuning_file import Section, read_tuning, written
from polyconv.problem import arguments
from polyconv.problem.signatures import OPS, PLAIN, problem_of

_OPS = (*OPS, *PLAIN)
_OF_CASES = ("name", "readme", "shared")  # what a file of cases says for `polyconv bench`
Calls: TypeAlias = "Callable[..., Any] | Sequence[Mapping[str, Any]]"


@dataclass(frozen=True)
class Layer:
    """A convolution that was timed: its first place, how often it is called, and its plans.

    `chosen` is the plan that `auto` takes without tuning, by its label.
    """

    where: str
    op: str
    n_calls: int
    entry: Entry
    chosen: str

    @property
    def gain(self) -> float | None:
        """How many times as long it takes without tuning. None if that plan was not timed."""
        before = self.entry.ms.get(self.chosen)
        return None if before is None else before / min(self.entry.ms.values())


@dataclass(frozen=True)
class Tuned:
    """What `tune` found, on which device. It prints as a table."""

    device: str
    layers: tuple[Layer, ...]

    def __str__(self) -> str:
        if not self.layers:
            return "no convolution was called through mx or polyconv that has more than one plan"
        rows: list[tuple[str, ...]] = [_HEAD, *map(_row, self.layers)]
        return "\n".join(
            [
                *report.table(rows),
                f"The least of all rounds, on {self.device} with MLX {mx.__version__}.",
            ]
        )


_HEAD = ("where", "op", "calls", "x", "weight", "fastest", "time", "without tuning", "time")


def _row(layer: Layer) -> tuple[str, ...]:
    ms, best = layer.entry.ms, layer.entry.labels[0]
    problem = layer.entry.problem
    shape = (problem.batch, *[axis.size for axis in problem.axes], problem.in_channels)
    weight = "packed" if layer.entry.packed else "plain"
    about = (layer.where, layer.op, str(layer.n_calls), str(shape), weight)
    before = ms.get(layer.chosen)
    told = "-" if before is None else f"{before:.3g} ms"
    return (*about, best, f"{ms[best]:.3g} ms", layer.chosen, told)


def tune(
    model_or_calls: Calls,
    *inputs: Sequence[int] | mx.array,
    path: str | os.PathLike[str] | None = None,
    dtype: str = "float32",
    rounds: int = 20,
    seconds: float = 4.0,
    allow_unfold: bool = False,
    progress: bool = True,
) -> Tuned:
    """Times all plans of each convolution of a model on the default device, MLX's own op included.

    The model is run once, on zeros or given arrays, to see which convolutions it calls: those of
    polyconv, and transposed ones of `mx`. Forward passes are timed, gradients are not.

    Args:
        model_or_calls (callable or list(dict)): A model of MLX, or any function of arrays. Or
            calls, each with ``op``, ``input``, ``weight`` and the options of the op, and perhaps
            ``dtype`` and ``packed``.
        inputs (list(int) or array): The arguments of the model. A shape stands for zeros.
        path (str or PathLike, optional): The file to write, for :func:`polyconv.use_tuning`. What
            it holds of other layers, devices and versions of MLX is kept. Default: none.
        dtype (str, optional): The type of the zeros. Default: ``"float32"``.
        rounds (int, optional): In how many rounds at least the plans that may be the fastest are
            timed. On a busy machine there are more, until times repeat. Default: ``20``.
        seconds (float, optional): Start no round of a layer later than this, but for the first
            ones. Default: ``4.0``.
        allow_unfold (bool, optional): Also time plans that allocate a copy of all windows on a GPU.
            `use_tuning` must allow them too. Default: ``False``.
        progress (bool, optional): Show a progress bar where standard error is a terminal.
            Default: ``True``.

    Returns:
        Tuned: Each convolution with its times, to print.

    Raises:
        ValueError: If an argument is wrong, or the file holds something else.
        OSError: If the file cannot be read or written.
    """
    rounds, seconds = _effort(rounds, seconds)
    arguments.choice("tune", "dtype", dtype, DTYPES)
    arguments.switch("tune", "allow_unfold", allow_unfold)
    arguments.switch("tune", "progress", progress)
    _check_place()
    known = [] if path is None else _sections(path)
    calls = _calls(model_or_calls, inputs, dtype)
    counts = Counter((each.problem, each.packed) for each in calls)
    first = {(each.problem, each.packed): each for each in reversed(calls)}
    found = [first[key] for key in counts if not key[0].is_empty]
    layers = []
    for each in track(found, "tuning") if progress else found:
        layer = _layer(each, counts[each.problem, each.packed], rounds, seconds, allow_unfold)
        if layer.entry.ms:
            layers.append(layer)
    tuned = Tuned(_device(), tuple(layers))
    if path is not None:
        _write(Path(path), known, tuned)
    return tuned


def _effort(rounds: object, seconds: object) -> tuple[int, float]:
    """What was given, as numbers."""
    n, limit = arguments.count("tune", "rounds", rounds), arguments.real("tune", "seconds", seconds)
    if not limit > 0:
        arguments.refuse("tune", "seconds must be above 0", str(limit))
    return n, limit


def _check_place() -> None:
    if is_planned_elsewhere():
        must = "the call must stand outside of planning_for, as it times this machine"
        arguments.refuse("tune", must, f"a call inside, for {device_for(None).name}")


def _calls(given: Calls, inputs: Sequence[Any], dtype: str) -> list[Found]:
    if callable(given):
        return calls_of(given, inputs, dtype, plain=True)
    must = "model_or_calls must be callable, or a list of dicts with op, input and weight"
    if inputs:
        arguments.refuse("tune", "inputs must be those of a model", arguments.shown(inputs))
    if not isinstance(given, (list, tuple)):
        arguments.refuse("tune", must, arguments.shown(given))
    return [_call(each, dtype, must) for each in given]


def _call(given: Any, dtype: str, must: str) -> Found:
    if not isinstance(given, Mapping) or not {"op", "input", "weight"} <= given.keys():
        arguments.refuse("tune", must, arguments.shown(given))
    options = {name: value for name, value in given.items() if name not in _OF_CASES}
    op = arguments.choice("tune", "op", options.pop("op"), _OPS)
    packed = arguments.switch("tune", "packed", options.pop("packed", False))
    kind = arguments.choice("tune", "dtype", options.pop("dtype", dtype), DTYPES)
    shapes = options.pop("input"), options.pop("weight")
    problem = problem_of(op, *shapes, kind, options)
    return Found(str(given.get("name", "")), "polyconv", op, problem, packed)


def _layer(found: Found, n: int, rounds: int, seconds: float, allow_unfold: bool) -> Layer:
    problem, packed = found.problem, found.packed
    ms = tuning.milliseconds(
        problem, packed, rounds=rounds, seconds=seconds, allow_unfold=allow_unfold
    )
    untuned = replace(device_for(None), tuning=None)
    chosen = plan(problem, op=found.op, device=untuned, reasons=False, packed=packed).label
    return Layer(found.where, found.op, n, Entry(problem, packed, ms), chosen)


def _device() -> str:
    """What plans are made for here, by the name that times are kept under."""
    return names()[device_for(None).backend.cost_model]


def _sections(path: str | os.PathLike[str]) -> list[Section]:
    """What a file holds already. Asked before anything is timed, so that it can be written."""
    try:
        text = Path(path).read_text()
    except FileNotFoundError:
        if not Path(path).absolute().parent.is_dir():
            raise
        return []
    except ValueError as error:
        arguments.refuse("tune", "path must be that of a text file", f"{path}: {error}")
    except TypeError:
        arguments.refuse("tune", "path must be a str or a path", arguments.shown(path))
    return read_tuning("tune", text)


def _write(path: Path, known: list[Section], tuned: Tuned) -> None:
    here = (tuned.device, mx.__version__)
    before = next((each for each in known if (each.device, each.mlx) == here), Section(*here, ()))
    now = before.with_newer([layer.entry for layer in tuned.layers])
    path.write_text(written([each for each in known if each is not before] + [now]))
