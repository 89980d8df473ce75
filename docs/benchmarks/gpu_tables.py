"""The tables of docs/benchmarks/gpu.md, from rows of gpu.json, and ratios of their times."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from statistics import geometric_mean
from typing import Any

LAYER_HEAD = (
    "layer",
    "polyconv fwd",
    "dx",
    "dw",
    "both",
    "compiled",
    "MLX fwd",
    "dx",
    "dw",
    "both",
    "compiled",
    "PyTorch both",
    "graph",
    "over MLX",
    "over PyTorch",
    "compiled over MLX",
    "over PyTorch",
)
PAIRS = (
    ("mx both", "polyconv both"),
    ("torch both", "polyconv both"),
    ("mx both compiled", "polyconv both compiled"),
    ("torch both", "polyconv both compiled"),
)
MEANS = (
    ("forward over MLX", ("mx fwd", "polyconv fwd")),
    ("dx over MLX", ("mx dx", "polyconv dx")),
    ("dw over MLX", ("mx dw", "polyconv dw")),
    ("both over MLX", PAIRS[0]),
    ("both over PyTorch", PAIRS[1]),
    ("both compiled over MLX compiled", PAIRS[2]),
    ("over PyTorch", PAIRS[3]),
    ("over PyTorch's graph", ("torch both graph", "polyconv both compiled")),
)


def layers(rows: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """A row for each layer, and geometric means over them."""
    means = [f"{name} {geometric_mean(ratios(rows, *pair)):.2f}" for name, pair in MEANS]
    return {"layers": table(LAYER_HEAD, map(_layer, rows)), "means": ", ".join(means)}


def time_of(row: Mapping[str, Any], name: str) -> float:
    """Of PyTorch the faster of its two layouts."""
    ms: Mapping[str, float] = row["ms"]
    return min(t for each, t in ms.items() if each in (name, f"{name} last"))


def ratios(rows: Iterable[Mapping[str, Any]], other: str, ours: str) -> list[float]:
    return [time_of(row, other) / time_of(row, ours) for row in rows]


def _layer(row: Mapping[str, Any]) -> Sequence[str]:
    kinds = ("fwd", "dx", "dw", "both", "both compiled")
    times = [time_of(row, f"{lib} {kind}") for lib in ("polyconv", "mx") for kind in kinds]
    times += [time_of(row, "torch both"), time_of(row, "torch both graph")]
    shares = [f"{ratios([row], *pair)[0]:.2f}" for pair in PAIRS]
    return (row["name"], *[f"{t:.3g}" for t in times], *shares)


MODEL_HEAD = (
    "model",
    "dtype",
    "MLX",
    "compiled",
    "polyconv",
    "compiled",
    "packed",
    "compiled",
    "PyTorch",
    "graph",
    "MiB",
)


OWN = [name for lib in ("MLX", "polyconv", "polyconv packed") for name in (lib, f"{lib} compiled")]


def _own(row: Mapping[str, Any]) -> Sequence[str]:
    """Of which model, and the times of MLX and polyconv."""
    return (row["name"], row["dtype"], *[_shown(row["ms"].get(name)) for name in OWN])


def models(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """A row for each model, and how polyconv compares with PyTorch over them."""
    over = [_over(row, "torch") for row in rows]
    return {
        "models": table(MODEL_HEAD, map(_model, rows)),
        "models_mean": geometric_mean(over),
        "models_least": min(over),
    }


def _model(row: Mapping[str, Any]) -> Sequence[str]:
    others = [
        min((row["ms"][name] for name in pair if name in row["ms"]), default=None)
        for pair in (("torch", "torch last"), ("torch graph", "torch last graph"))
    ]
    peaks = ", ".join(f"{name} {row['peak_mib'][name]}" for name in ("polyconv", "torch"))
    return (*_own(row), *map(_shown, others), peaks)


def _compiled(row: Mapping[str, Any]) -> float:
    """polyconv compiled, and packed for inference."""
    ms = row["ms"]
    return float(ms.get("polyconv packed compiled", ms["polyconv compiled"]))


def _over(row: Mapping[str, Any], other: str) -> float:
    return time_of(row, other) / _compiled(row)


MACHINE_HEAD = (
    *("machine", "both compiled over MLX compiled", "least", "over PyTorch"),
    *("models over MLX", "least", "over PyTorch", "train step ms", "MLX", "PyTorch"),
)


def machines(found: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """A row for each machine: means over layers, means over models, and a train step."""
    return {"machines": table(MACHINE_HEAD, [_machine(*each) for each in found.items()])}


def _machine(where: str, found: Mapping[str, Any]) -> Sequence[str]:
    layers, models = found["layers"]["rows"], found["models"]["rows"]
    over_mlx, over_torch = (ratios(layers, *pair) for pair in PAIRS[2:])
    models_mlx, models_torch = (
        [_over(row, other) for row in models] for other in ("MLX compiled", "torch")
    )
    (step,) = [row for row in models if row["name"].startswith("train")]
    times = (_compiled(step), time_of(step, "MLX compiled"), time_of(step, "torch"))
    told = [geometric_mean(over_mlx), min(over_mlx), geometric_mean(over_torch)]
    told += [geometric_mean(models_mlx), min(models_mlx), geometric_mean(models_torch)]
    return (where, *[f"{each:.2f}" for each in told], *[f"{ms:.1f}" for ms in times])


DIRECT_HEAD = (
    *("model", "dtype", "MLX", "compiled", "polyconv", "compiled", "packed", "compiled"),
    *("over MLX", "gain"),
)


def direct(found: Mapping[str, Any], with_graphs: Mapping[str, Any]) -> dict[str, Any]:
    """The same without CUDA graphs."""
    models = {(each["name"], each["dtype"]): each for each in with_graphs["models"]["rows"]}
    rows = []
    for each in found["models"]:
        gain = _compiled(models[each["name"], each["dtype"]]) / _compiled(each)
        rows.append((*_own(each), f"{_over(each, 'MLX compiled'):.2f}", f"{gain:.2f}"))
    pairs = [*zip(found["layers"], with_graphs["layers"]["rows"], strict=True)]
    shares = [
        geometric_mean([one["ms"][name] / other["ms"][name] for one, other in pairs])
        for name in ("polyconv both", "polyconv both compiled")
    ]
    return {
        "direct": table(DIRECT_HEAD, rows),
        "direct_own": shares[0],
        "direct_compiled": shares[1],
        "direct_least": min(ratios(found["layers"], *PAIRS[2])),
    }


MEMORY_HEAD = ("setting", "MLX ms", "peak MiB", "cache MiB", "polyconv ms", "peak MiB", "cache MiB")


def memory(found: Mapping[str, Any]) -> dict[str, str]:
    """What MLX holds while a model runs, by setting."""
    rows = table(MEMORY_HEAD, map(_memory, found["rows"]))
    return {"memory_model": found["model"], "memory": rows}


def _memory(row: Mapping[str, Any]) -> Sequence[str]:
    told = [f"{row[lib][kind]:,}" for lib in ("MLX", "polyconv") for kind in row[lib]]
    return (f"`{row['setting']}`" if "(" in row["setting"] else row["setting"], *told)


RANK_HEAD = ("GPUs", "halo", "seconds", "times as fast", "bytes sent by a rank", "peak MiB")


def ranks(found: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """A row for each number of GPUs and each kind of halo."""
    return {"ranks": table(RANK_HEAD, _ranks(found))}


def _ranks(found: Sequence[Mapping[str, Any]]) -> Iterable[Sequence[str]]:
    alone = {name: _slowest(found[0][name]) for name in ("once", "layers")}
    for each in found:
        for name, told in (("once", "once"), ("layers", "per layer")):
            seconds = _slowest(each[name])
            sent = max(rank["bytes_sent"] for rank in each[name])
            peak = max(rank["peak_mib"] for rank in each[name])
            speed = f"{alone[name] / seconds:.2f}"
            yield (str(each["ranks"]), told, f"{seconds:.2f}", speed, f"{sent:,}", f"{peak:,}")


def _slowest(ranks: Sequence[Mapping[str, Any]]) -> float:
    return max(float(rank["seconds"][-1]) for rank in ranks)


def _shown(ms: float | None) -> str:
    return "-" if ms is None else f"{ms:.4g}"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
