"""Writes docs/benchmarks/gpu.md from gpu.json, which holds what the scripts on NVIDIA GPUs wrote.

    python docs/benchmarks/gpu_page.py [--gather FOLDER]

gathers mixed.json, parity.json, suite.json, layers.json, models.json and ranks.json of a folder
into gpu.json first; what is not there stays as it was.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Mapping, Sequence
from math import exp, log
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
PARTS = ("mixed", "parity", "suite", "again", "layers", "models", "ranks")
RESULTS = ("PASSED", "SKIPPED", "FAILED")

ABOUT = """# On NVIDIA GPUs: proof, gradients, whole models, several GPUs

Measured on NVIDIA H200 (MLX 0.32.4 with CUDA 13, PyTorch {torch}). `gpu_page.py` writes this page
from `gpu.json`. [Layers alone, forward](cuda.md), are on a page of their own.

## Right

* **Random calls in one process**: {calls:,} calls of polyconv, forward, gradients and second
  order, with equal shapes and other strides in random order. They were mixed with {own:,} calls of
  MLX's own. {failed} of polyconv's differs from float64 NumPy on integers. Of MLX's own {wrong}
  were wrong and {broken} raised an error, as its plan cache forgets the input dilation
  ([differences](../differences.md)). Of three such runs two had no failure of polyconv's. In the
  third one call of 2,000 was wrong, in a process where MLX's own calls had been wrong before.
* **Parity** of each method with float64, by `==` on integers: {parity}; {parity_failed} differ.
* **The suite with a GPU as default device** (`make test-gpu`): {suite}. These failures were then
  mended. Files that were run again: {again}.

## Gradients

Milliseconds of one evaluated call. *both* is forward and both gradients. *over MLX* and *over
PyTorch* are MLX's and PyTorch's time over polyconv's: above 1 polyconv is faster. PyTorch's is the
faster of its two layouts, float32 by TF32 for all three.

{layers}

In geometric mean over these layers: {means}.

## Whole models

Milliseconds of a call, several in flight, and MiB of peak memory beyond weights and inputs. Rows
with a star are of a run on the same day, before gradients changed.

{models}

## Several GPUs

HiFi-GAN V1 over 30 minutes of mel, float32, under NCCL. It has no send and receive, so halos are
gathered ([distributed](../distributed.md)). Timed is the second call of two.

{ranks}
"""


def page(found: Mapping[str, Any]) -> str:
    mixed, parity = found["mixed"]["mixed"], found["parity"]["parity"]
    counts = mixed["counts"]
    layers = found["layers"]["rows"]
    return ABOUT.format(
        torch=found["torch"],
        calls=counts["calls"],
        own=counts["MLX's own"] + counts["MLX's own of other steps"],
        failed=mixed["failed"],
        wrong=counts["MLX's own wrong"],
        broken=counts["MLX's own failed"],
        parity=", ".join(f"{name} {n:,}" for name, n in parity["agreed"].items()),
        parity_failed=len(parity["failures"]),
        suite=suite(found["suite"]),
        again=suite(found["again"]),
        layers=table(LAYER_HEAD, map(_layer, layers)),
        means=", ".join(f"{name} {geometric(ratios(layers, *pair)):.2f}" for name, pair in MEANS),
        models=table(MODEL_HEAD, map(_model, found["models"]["rows"])),
        ranks=table(RANK_HEAD, _ranks(found["ranks"])),
    )


def kept(name: str, part: Any) -> Any:
    """What is kept of a part: of tests their names, not what they printed."""
    if name not in ("suite", "again"):
        return part
    return [{**each, "failed": [*each["failed"]], "ended": [*each["ended"]]} for each in part]


def suite(files: Sequence[Mapping[str, Any]]) -> str:
    """How many tests passed, failed and were skipped, and how many processes ended."""
    totals = {name: sum(each["counts"].get(name, 0) for each in files) for name in RESULTS}
    ended = sum(len(each["ended"]) for each in files)
    told = f"{totals['PASSED']:,} passed, {totals['FAILED']} failed, {totals['SKIPPED']} skipped"
    return f"{told}; {ended} processes ended or ran out of time"


LAYER_HEAD = (
    "layer",
    "polyconv fwd",
    "dx",
    "dw",
    "both",
    "MLX fwd",
    "dx",
    "dw",
    "both",
    "PyTorch both",
    "over MLX",
    "over PyTorch",
)
MEANS = (
    ("forward over MLX", ("mx fwd", "polyconv fwd")),
    ("dx over MLX", ("mx dx", "polyconv dx")),
    ("dw over MLX", ("mx dw", "polyconv dw")),
    ("both over MLX", ("mx both", "polyconv both")),
    ("both over PyTorch", ("torch both", "polyconv both")),
)


def time_of(row: Mapping[str, Any], name: str) -> float:
    """Of PyTorch the faster of its two layouts."""
    return min(t for each, t in row["ms"].items() if each in (name, f"{name} last"))


def ratios(rows: Iterable[Mapping[str, Any]], other: str, ours: str) -> list[float]:
    return [time_of(row, other) / time_of(row, ours) for row in rows]


def geometric(values: Sequence[float]) -> float:
    return exp(sum(map(log, values)) / len(values))


def _layer(row: Mapping[str, Any]) -> Sequence[str]:
    kinds = ("fwd", "dx", "dw", "both")
    times = [time_of(row, f"{lib} {kind}") for lib in ("polyconv", "mx") for kind in kinds]
    times.append(time_of(row, "torch both"))
    pairs = (("mx both", "polyconv both"), ("torch both", "polyconv both"))
    shares = [f"{ratios([row], *pair)[0]:.2f}" for pair in pairs]
    return (row["name"], *[f"{t:.3g}" for t in times], *shares)


MODEL_HEAD = (
    "model",
    "dtype",
    "MLX",
    "compiled",
    "polyconv",
    "compiled",
    "PyTorch",
    "graph",
    "MiB",
)


def _model(row: Mapping[str, Any]) -> Sequence[str]:
    names = ("MLX", "MLX compiled", "polyconv", "polyconv compiled")
    own = [f"{row['ms'][name]:.4g}" if name in row["ms"] else "-" for name in names]
    others = [
        min((row["ms"][name] for name in pair if name in row["ms"]), default=None)
        for pair in (("torch", "torch last"), ("torch graph", "torch last graph"))
    ]
    peaks = ", ".join(f"{name} {row['peak_mib'][name]}" for name in ("polyconv", "torch"))
    name = row["name"] + (" \\*" if row.get("earlier") else "")
    return (name, row["dtype"], *own, *map(_shown, others), peaks)


def _shown(ms: float | None) -> str:
    return "-" if ms is None else f"{ms:.4g}"


RANK_HEAD = ("GPUs", "halo", "seconds", "times as fast", "bytes sent by a rank", "peak MiB")


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


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gather", type=Path, metavar="FOLDER")
    parser.add_argument("--torch", default=None, help="the version of PyTorch that was timed")
    args = parser.parse_args()
    file = HERE / "gpu.json"
    found = json.loads(file.read_text()) if file.exists() else {}
    if args.gather:
        for name in PARTS:
            part = args.gather / f"{name}.json"
            if part.exists():
                found[name] = kept(name, json.loads(part.read_text()))
        found["torch"] = args.torch or found["torch"]
        file.write_text(json.dumps(found, indent=1) + "\n")
    (HERE / "gpu.md").write_text(page(found))


if __name__ == "__main__":
    main()
