"""What docs/macs.md holds: the guarantee, and what is planned and predicted for real layers."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from statistics import median

from polyconv.inspection.report import form, interval
from polyconv.metal.seconds import Prediction, predicted
from polyconv.planning.choose import ideal, plan
from polyconv.planning.devices import Metal, device
from polyconv.planning.metal_seconds import kernels_of
from polyconv.planning.methods import lower_native
from polyconv.planning.plan import ConvPlan
from polyconv.problem.signatures import problem_of
from polyconv.problem.spec import ConvSpec, adjoint

LAYERS = Path(__file__).parents[1] / "tests" / "data" / "real_layers.csv"
DEVICES = {
    "M1": device("macs_page", "m1"),
    "M2 Pro": device("macs_page", "m2-pro"),
    "M4 Max": device("macs_page", "m4-max"),
    "M5 Max": device("macs_page", "m5-max"),
}
METAL = DEVICES["M4 Max"]

PAGE = """# Metal: what is guaranteed, and how that is known

You will get three promises for a Mac's GPU, how they are known without a Mac, and what real layers are predicted
to gain. [Words](words.md) explains *window*, *unfold* and the others. To ask about a layer of your own, on a Mac of your choice:

```sh
polyconv explain conv_transpose1d --input 1,128,512 --weight 256,16,512 --stride 8 --padding 4 --device m2
```

## The guarantee

It holds for all that polyconv issues there, by whatever method `auto` takes, forward and in gradients:

* **No convolution unfolds its input.** MLX takes no path that copies every window before it multiplies.
* **No convolution reads outside its input.** Some of MLX's kernels do for some shapes, and these are avoided.
* **float32 is not rounded.** On an M5 MLX makes products of float32 by TF32, to 1e-3. `auto` makes none
  there, unless `MLX_ENABLE_TF32` is set. The weight's gradient is made of products on every device.

Many plans keep this promise, MLX's own op among them. `auto` takes the one of the least predicted time. Of two within
5 % it takes the one that allocates less.

For some calls no path of MLX's holds the promise. Then polyconv fills channels up with zeros, or issues a 1D
convolution as a 2D one, or a 3D one as several 2D ones. The last column below says which.
`method="native"` asks for MLX's own op and gets it, whatever it does.

## How it is known

There was no Mac. A model of MLX's dispatch code says which kernel MLX takes. It agrees with 2,646 recorded calls of
that code ([explain](explain.md)).

* `make guarantee` traces every convolution of 10,000 random calls and of all layers below, with their gradients,
  under the rules of every version from 0.31.2 to 0.32.4.
* `make test-metal` on a Mac checks results, peak memory and MLX's own hazards, and prints a report.
* Times are predicted by [a model of timings that others published](benchmarks/metal_fit.md).

Nothing was measured on Metal by us, and no speed is promised. `polyconv bench` times a layer on your Mac.

## Predicted gain

Over MLX's own op, for the transposed convolutions of the models in `tests/data/real_layers.csv`,
float32, one call with a plain weight. *native* counts the layers for which MLX's own op is taken, and
so nothing is gained. A gain below 1 is a small depthwise layer that MLX unfolds: that path has no published
timing. The bounds hold nine times in ten, as far as published timings tell.

| device | layers | native | gain: median, least to most | of the median layer |
|---|---:|---:|---|---|
"""

LAYER_TABLE = """
## Layer by layer

Under each Mac stand the method that `auto` takes, its predicted time, and that of MLX's own op. **native** marks the
layers where MLX's own op is taken. *MACs* are the multiply-accumulates of the plan for an M4 Max against the
ideal. The ideal is all taps on all samples, edges aside, and the channels as they are. *dx* and *dw* are those
of the gradients of input and weight.

"""


def real_layers() -> Iterator[tuple[str, str, ConvSpec]]:
    """Models, call and convolution of each layer, equal ones together."""
    found: dict[tuple[str, ConvSpec], list[str]] = {}
    for row in csv.DictReader(LAYERS.read_text().splitlines()):
        ndim = int(row["dims"])
        axes = {k: tuple(map(int, row[k].split("x"))) for k in ("S", "K", *_NAMES)}
        options = {k: v[0] if len(set(v)) == 1 else v for k, v in axes.items() if k in _NAMES}
        n, c, o, groups = (int(row[name]) for name in ("N", "C", "O", "groups"))
        x, w = (n, *axes["S"], c), (o, *axes["K"], c // groups)
        given = {k: v for k, v in {**options, "groups": groups}.items() if v != _DEFAULTS[k]}
        op = f"conv_transpose{ndim}d"
        problem = problem_of(op, x, w, "float32", given)
        call = f"{op}({x}, {w}, {', '.join(f'{k}={v}' for k, v in given.items())})"
        models = found.setdefault((call, problem), [])
        if row["model"] not in models:
            models.append(row["model"])
    for (call, problem), models in found.items():
        yield ", ".join(models), call, problem


_NAMES = ("stride", "padding", "output_padding", "dilation")
_DEFAULTS = {"stride": 1, "padding": 0, "output_padding": 0, "dilation": 1, "groups": 1}


def ratios(problem: ConvSpec) -> tuple[float, float, float]:
    """Of the plan's multiply-accumulates to the ideal, forward, for the input, for the weight."""
    chosen, back = plan(problem, device=METAL), adjoint(problem)
    backward = plan(back, device=METAL)
    by_weight = plan(problem, "per_phase" if chosen.is_native else chosen.method)
    return (
        _useful(chosen) / ideal(problem),
        _useful(backward) / ideal(back),
        by_weight.cost.macs / ideal(problem),
    )


def _useful(chosen: ConvPlan) -> int:
    """Multiply-accumulates. MLX's own op, where it is taken for its time, passes over zeros."""
    return ideal(chosen.problem) if chosen.is_native else chosen.cost.macs


def time_of(made: ConvPlan, metal: Metal) -> Prediction:
    return predicted(kernels_of(made, metal.gpu), metal.gpu, metal.parameters)


def _native(problem: ConvSpec, metal: Metal) -> ConvPlan:
    own = lower_native(problem, metal)
    assert isinstance(own, ConvPlan)  # none of these layers is what MLX refuses
    return own


def _gains(metal: Metal) -> list[tuple[float, float, float, bool]]:
    """Of each layer the predicted gain over MLX's own op, its bounds, and whether it is that one."""
    found = []
    for _, _, problem in real_layers():
        chosen = plan(problem, device=metal)
        ours, own = time_of(chosen, metal), time_of(_native(problem, metal), metal)
        bounds = (own.least / ours.most, own.most / ours.least)
        found.append((own.seconds / ours.seconds, *bounds, chosen.is_native))
    return sorted(found)


def _summary(name: str, metal: Metal) -> str:
    found = _gains(metal)
    gains = [gain for gain, *_ in found]
    _, least, most, _ = found[len(found) // 2]
    natives = sum(is_native for *_, is_native in found)
    told = f"{median(gains):.1f}, {gains[0]:.1f} to {gains[-1]:.0f}"
    return f"| {name} | {len(found)} | {natives} | {told} | {least:.1f} to {most:.0f} |\n"


def _cell(problem: ConvSpec, metal: Metal) -> str:
    chosen = plan(problem, device=metal)
    own = interval(time_of(_native(problem, metal), metal))
    if chosen.is_native:
        return f"**native** {own}"
    return f"{chosen.method} {interval(time_of(chosen, metal))}; native {own}"


def _what_is_done(problem: ConvSpec) -> str:
    issued = plan(problem, device=METAL).first.issued
    path = issued.kernel.path if issued.kernel else ""
    pads = f"MLX pads ({path})" if path.startswith("pad") else ""
    return form(issued.form) or pads


def page() -> str:
    head = ("models", "call", *DEVICES, "MACs", "dx", "dw", "what alignment does")
    lines = [f"| {' | '.join(head)} |\n", "|---" * len(head) + "|\n"]
    for models, call, problem in real_layers():
        cells = [_cell(problem, metal) for metal in DEVICES.values()]
        counts = [f"{ratio:.2f}" for ratio in ratios(problem)]
        row = (models, f"`{call}`", *cells, *counts, _what_is_done(problem))
        lines.append(f"| {' | '.join(row)} |\n")
    gains = "".join(_summary(name, metal) for name, metal in DEVICES.items())
    return PAGE + gains + LAYER_TABLE + "".join(lines)
