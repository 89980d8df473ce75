"""What does a file of `polyconv tune` hold? Standard library only."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import astuple, dataclass, fields, replace
from typing import Any, NoReturn

from polyconv.planning.methods import METHODS
from polyconv.planning.tuned import Entry
from polyconv.problem import spec as problems
from polyconv.problem.arguments import refuse, shown
from polyconv.problem.spec import ITEMSIZE, Axis, ConvSpec

_MUST = "the file must hold timings as `polyconv tune` writes them"
_NUMBERS = ("batch", "in_channels", "out_channels", "groups")
_AXIS = tuple(field.name for field in fields(Axis))
_KNOWN = {*_NUMBERS, "flip", "dtype", "packed", "axes", "ms"}
_BY_PRODUCTS = re.compile(r"( own| shared){1,3} (flat|gathered|scaled)")
_MOST_MS = 1e7  # hours: nobody waits so long for a call


@dataclass(frozen=True)
class Section:
    """What a file holds of one device under one version of MLX."""

    device: str
    mlx: str
    entries: tuple[Entry, ...]

    @property
    def told(self) -> str:
        return f"{self.device} with MLX {self.mlx}"

    def with_newer(self, entries: Iterable[Entry]) -> Section:
        """The same, where entries of the same convolution are exchanged."""
        found = {(entry.problem, entry.packed): entry for entry in (*self.entries, *entries)}
        return replace(self, entries=tuple(found.values()))


def _as_json(entry: Entry) -> dict[str, Any]:
    problem = entry.problem
    found: dict[str, Any] = {name: getattr(problem, name) for name in _NUMBERS}
    found |= {"flip": problem.flip, "dtype": problem.dtype, "packed": entry.packed}
    ms = {label: float(f"{entry.ms[label]:.4g}") for label in entry.labels}
    return found | {"axes": [astuple(axis) for axis in problem.axes], "ms": ms}


def is_label(text: str) -> bool:
    """Whether a plan may have this label: a method's name, of products with how they read."""
    method, space, more = text.partition(" ")
    return method in METHODS and bool(_BY_PRODUCTS.fullmatch(space + more)) == (method == "taps")


def written(sections: Iterable[Section]) -> str:
    """The text of a file, with a line for each convolution."""
    import json

    parts = []
    for section in sections:
        lines = ",\n".join(f"   {json.dumps(_as_json(entry))}" for entry in section.entries)
        head = f'"device": {json.dumps(section.device)}, "mlx": {json.dumps(section.mlx)}'
        parts.append(f'  {{{head}, "layers": [\n{lines}\n  ]}}')
    return '{{"tuned": [\n{}\n]}}\n'.format(",\n".join(parts))


def read_tuning(op: str, text: str) -> list[Section]:
    """What a file of `polyconv tune` holds.

    Raises:
        ValueError: If it is no such file.
    """
    import json  # when it is needed: it takes long to import

    try:
        tree = json.loads(text)
    except (ValueError, RecursionError) as error:
        refuse(op, _MUST, f"no JSON: {error}")
    given = tree.get("tuned") if isinstance(tree, dict) else None
    if not isinstance(given, list):
        refuse(op, _MUST, shown(given))
    sections = [_section(op, each) for each in given]
    names = [each.device for each in sections]
    if len({(each.device, each.mlx) for each in sections}) < len(sections):
        refuse(op, "each device must stand in a file once", f"twice one of {shown(names)}")
    return sections


def _section(op: str, given: Any) -> Section:
    if not isinstance(given, dict) or given.keys() != {"device", "mlx", "layers"}:
        refuse(op, _MUST, shown(given))
    device, mlx, layers = given["device"], given["mlx"], given["layers"]
    if not isinstance(device, str) or not isinstance(mlx, str) or not isinstance(layers, list):
        refuse(op, _MUST, shown(given))
    entries = tuple([_entry(op, each) for each in layers])
    if len({(each.problem, each.packed) for each in entries}) < len(entries):
        refuse(op, "each layer of a device must stand in a file once", f"twice one of {device}")
    return Section(device, mlx, entries)


def _entry(op: str, given: Any) -> Entry:
    if not isinstance(given, dict) or given.keys() != _KNOWN:
        refuse(op, _MUST, shown(given))
    axes, ms, flags = given["axes"], given["ms"], (given["flip"], given["packed"])
    if not isinstance(axes, list) or not 1 <= len(axes) <= 3 or given["dtype"] not in [*ITEMSIZE]:
        _refuse_layer(op, given)
    if not all(isinstance(axis, list) and len(axis) == len(_AXIS) for axis in axes):
        _refuse_layer(op, given)
    numbers = [*[given[name] for name in _NUMBERS], *[n for axis in axes for n in axis]]
    if {*map(type, numbers)} != {int} or {*map(type, flags)} != {bool}:
        _refuse_layer(op, given)
    problem = _problem(op, given, [Axis(*axis) for axis in axes])
    return Entry(problem, given["packed"], _times(op, ms))


def _problem(op: str, given: dict[str, Any], axes: list[Axis]) -> ConvSpec:
    """The convolution of an entry, judged as one that is asked for."""
    groups = given["groups"]
    if min(given["batch"], given["in_channels"], given["out_channels"], groups) < 1:
        _refuse_layer(op, given)
    x = (given["batch"], *[axis.size for axis in axes], given["in_channels"])
    kernel = [axis.kernel_size for axis in axes]
    if min(*x, *kernel) < 1 or x[-1] % groups:
        _refuse_layer(op, given)
    w = (given["out_channels"], *kernel, x[-1] // groups)
    padding = tuple([a.padding_lo for a in axes]), tuple([a.padding_hi for a in axes])
    return problems.general(
        op,
        x,
        w,
        (given["dtype"],) * 2,
        tuple([axis.stride for axis in axes]),
        padding,
        tuple([axis.kernel_dilation for axis in axes]),
        tuple([axis.input_dilation for axis in axes]),
        groups,
        given["flip"],
    )


def _times(op: str, given: Any) -> dict[str, float]:
    if not isinstance(given, dict) or not given:
        refuse(op, _MUST, f"times {shown(given)}")
    for label, ms in given.items():
        if not is_label(label):
            refuse(op, "each time must be that of a plan that polyconv knows", shown(label))
        if type(ms) not in (int, float) or not 0 < ms < _MOST_MS:
            must = "each time must be a number of milliseconds above 0"
            refuse(op, must, f"{shown(ms)} for {shown(label)}")
    return {label: float(ms) for label, ms in given.items()}


def _refuse_layer(op: str, given: Any) -> NoReturn:
    refuse(
        op,
        "each layer of the file must be a convolution as `polyconv tune` writes it",
        shown(given),
    )
