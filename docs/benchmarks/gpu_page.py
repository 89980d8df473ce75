"""Writes docs/benchmarks/gpu.md from gpu.json, which holds what the scripts on NVIDIA GPUs wrote.

    python docs/benchmarks/gpu_page.py [--gather FOLDER]

gathers proof.json, seeds.json, suite.json, layers.json, models.json and what else is in `PARTS` of
a folder into gpu.json first; what is not there stays as it was.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import gpu_tables

HERE = Path(__file__).parent
PARTS = (
    *("proof", "seeds", "suite", "layers", "models", "elsewhere", "direct", "memory"),
    *("tuned", "tried", "ranks"),
)
RESULTS = ("PASSED", "SKIPPED", "FAILED")

ABOUT = """# On NVIDIA GPUs: proof, gradients, whole models, several GPUs

Measured on NVIDIA H200 (MLX 0.32.4 with CUDA 13, PyTorch {torch}). `gpu_page.py` writes this page
from `gpu.json`. [Layers alone, forward](cuda.md), are on a page of their own.

## Right

* **Random calls in one process**: {calls:,} calls of polyconv, forward, gradients and second
  order, with equal shapes and other strides in random order, views among them and
  {halves:,} of float16. They were mixed with {own:,} calls of MLX's own. {failed} of polyconv's
  differ from float64 NumPy on integers. Of MLX's own {wrong} were wrong and {broken} raised an
  error, as its plan cache forgets the input dilation ([differences](../differences.md)).
* **The same with other seeds**: {more_calls:,} mixed calls in {seeds} processes, {more_failed}
  wrong. How often MLX's own call had overwritten its own arguments: {damaged}. polyconv's was given
  them anew. Without MLX's own op {alone_calls:,} calls in {alone} processes, {alone_failed} wrong.
  Each call was also made with a packed weight.
* **Parity** of each method with float64, by `==` on integers: {parity}; {parity_failed} differ.
* **The suite with a GPU as default device** (`make test-gpu`), in one run: {suite}.
  Tests that compute in threads ran without CUDA graphs, and two that compile in threads were left
  out ([why](../threads.md)).
* **Not so at odd places**: once MLX had convolved one number for all, as in the gradient of a sum,
  its own convolution of an array of equal shape failed if that began as odd in its buffer:
  {odd_failed} of {odd_calls} times, with `{odd_error}`. Of arrays that
  `x * 1` had laid anew {anew_failed} of {anew_calls} failed. polyconv's fail there, too, so in the
  mixed calls no array lies so ([differences](../differences.md)). Without MLX's own op they do.

## Gradients

Milliseconds of a call, several in flight. *both* is forward and both gradients, and *compiled* the
same under `mx.compile`. *over MLX* and *over PyTorch* are their time for both over polyconv's, the
last two of them compiled: above 1 polyconv is faster. PyTorch is eager, its *graph* a captured one.
It has the faster of its two layouts. Float32 is multiplied by TF32 in all three.

{layers}

In geometric mean over these layers: {means}.

Lazily evaluated gradients are bound by the time of Python. For the strided layer it takes
{host_ours:.0f} us to build output and both gradients. It takes {host_beside:.0f} us where they are
evaluated too, as the processor has other work between. MLX's own takes {host_mlx:.0f} and
{host_mlx_beside:.0f} us. polyconv calls {operations} operations of MLX, most at some 0.4 us, and
three functions with rules of their own, at {rule:.1f} us. `mx.compile` leaves all of that out.

## Whole models

Milliseconds of a call, several in flight, and MiB of peak memory beyond weights and inputs.
*Packed* is `convert(model, packed=True)`. A dash was not run.

{models}

In geometric mean over these models, PyTorch's eager time over polyconv's compiled, packed for
inference: {models_mean:.2f}. The least is {models_least:.2f}. The train step is one of Adam, with
`polyconv.convert(model, cpu_convs=True)`.

## On other such machines

The GPUs were alike, the processors were not, and these bound what is small. Geometric means over
the same layers and models, polyconv's packed for inference, all but PyTorch compiled. The row of
the day before is of a version before the last mends:

{machines}

## Without CUDA graphs

MLX gathers kernels into CUDA graphs, and reuses the graph of an evaluation before. By its source
it builds a new one where a kernel does not permit that. `MLX_USE_CUDA_GRAPHS=0` in the environment,
set before MLX is imported, makes it start kernels one by one. These models were run so, without
PyTorch. *Over MLX* is compiled over compiled, polyconv's packed for inference. *Gain* is polyconv's
time in the table of whole models over this one. Both were measured on the same machine.

{direct}

The layers above were measured without graphs, too. Output and both gradients took
{direct_own:.2f} of the time with graphs in geometric mean, and {direct_compiled:.2f} compiled.
MLX's own took {direct_least:.2f} times as long as that or longer, compiled.

## Memory

What MLX holds while {memory_model} runs. PyTorch's peak is in the table above.

{memory}

MLX gathers kernels into one CUDA graph, and keeps all their arrays until it has run: on an H200 up
to 100 operations, or 1000 times 2^20 *numbers* of inputs, and several graphs are in flight. That is
why it holds so much more than PyTorch. `MLX_MAX_MB_PER_BUFFER=100` in the environment asks for
smaller graphs and costs no time here. A memory limit makes MLX wait. The cache keeps what is free,
so a limit of it changes no peak.

## Tuned

{tuned_layers} random small layers, tuned there. A call as users make it took {tuned_least:.2f} to
{tuned_most:.2f} times as long as the fastest plan timed without Python. Against MLX's own op, where
that is right, it took {own_least:.2f} to {own_most:.2f} times as long. What is lost is the time of
Python in calls of 0.1 ms.

## Tried

A mark that cuDNN sees made ordinary convolutions of float32 {mark_least:.2f} to {mark_most:.2f}
times as slow, so they have none: a kernel dilation or a stride of an axis of size 1, over the same
axis without it, of {mark_layers} layers. By a trace the kernels of the 2D U-Net decoder keep the
GPU busy for {busy_ours} us by polyconv with plain weights, and for {busy_mlx} us by MLX. So the
rest of its time in the table is not spent in kernels.

Of several ways to compute the same, milliseconds of a call, several in flight:

{forms}

## Several GPUs

HiFi-GAN V1 over 30 minutes of mel, float32, under NCCL. It has no send and receive, so halos are
gathered ([distributed](../distributed.md)). Timed is the second call of two.

{ranks}
"""


def page(found: Mapping[str, Any]) -> str:
    mixed, parity = found["proof"]["mixed"], found["proof"]["parity"]
    counts = mixed["counts"]
    return ABOUT.format(
        torch=found["torch"],
        calls=counts["calls"],
        halves=counts["of float16"],
        own=counts["MLX's own"] + counts["MLX's own of other steps"],
        failed=mixed["failed"],
        wrong=counts["MLX's own wrong"],
        broken=counts["MLX's own failed"],
        parity=", ".join(f"{name} {n:,}" for name, n in parity["agreed"].items()),
        parity_failed=len(parity["failures"]),
        suite=suite(found["suite"]),
        **_odd(found["proof"]["MLX's own alone"]),
        **_seeds(found["seeds"]),
        **gpu_tables.layers(found["layers"]["rows"]),
        **gpu_tables.models(found["models"]["rows"]),
        **gpu_tables.machines({"of this page": found, **found["elsewhere"]}),
        **gpu_tables.direct(found["direct"], found),
        **gpu_tables.memory(found["memory"]),
        **_tuned(found["tuned"]["rows"]),
        **_tried(found["tried"]),
        **gpu_tables.ranks(found["ranks"]),
    )


def kept(name: str, part: Any) -> Any:
    """What is kept of a part: of tests their names, not what they printed."""
    if name != "suite":
        return part
    return [{**each, "failed": [*each["failed"]], "ended": [*each["ended"]]} for each in part]


def suite(files: Sequence[Mapping[str, Any]]) -> str:
    """How many tests passed, failed and were skipped, and how many processes ended."""
    totals = {name: sum(each["counts"].get(name, 0) for each in files) for name in RESULTS}
    ended = sum(len(each["ended"]) for each in files)
    told = f"{totals['PASSED']:,} passed, {totals['FAILED']} failed, {totals['SKIPPED']} skipped"
    return f"{told}; {ended} processes ended or ran out of time"


def _odd(found: Mapping[str, Any]) -> dict[str, Any]:
    """How often MLX's own op failed at odd places, and how."""
    counts, errors = found["counts"], found["errors"]
    return {
        "odd_calls": counts["at odd places"],
        "odd_failed": counts.get("failed at odd places", 0),
        "odd_error": ", ".join(errors).rstrip("."),
        "anew_calls": counts["laid anew"],
        "anew_failed": counts.get("failed laid anew", 0),
    }


def _seeds(found: Mapping[str, Any]) -> dict[str, int]:
    """Sums over processes of the proof."""
    mixed, alone = found["mixed"], found["alone"]
    damaged = "arrays damaged by MLX's own"
    return {
        "more_calls": sum(each["counts"]["calls"] for each in mixed),
        "seeds": len(mixed),
        "more_failed": sum(each["failed"] for each in mixed),
        "damaged": sum(each["counts"].get(damaged, 0) for each in mixed),
        "alone_calls": sum(each["counts"]["calls"] for each in alone),
        "alone": len(alone),
        "alone_failed": sum(each["failed"] for each in alone),
    }


def _tuned(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """How a tuned call compares with the fastest plan, and with MLX's own op."""
    least = [{name: each["least"] for name, each in row["ms"].items()} for row in rows]
    plans = [min(t for name, t in ms.items() if name not in ("auto", "mx")) for ms in least]
    ratios = [ms["auto"] / best for ms, best in zip(least, plans, strict=True)]
    own = [ms["auto"] / ms["mx"] for ms in least if "mx" in ms]
    return {
        "tuned_layers": len(rows),
        "tuned_least": min(ratios),
        "tuned_most": max(ratios),
        "own_least": min(own),
        "own_most": max(own),
    }


def _tried(found: Mapping[str, Any]) -> dict[str, Any]:
    """What marks that cuDNN sees cost, and how long kernels of a decoder take."""
    marks, kernels, forms, host = found.values()
    ours, mlx, ours_beside, mlx_beside, operations, rule = host.values()
    ratios = [
        each["ms"][kind] / each["ms"]["one more axis"]
        for each in marks
        for kind in ("axis with a kernel dilation", "axis with a stride")
    ]
    return {
        "mark_least": min(ratios),
        "mark_most": max(ratios),
        "mark_layers": len(marks),
        "host_ours": ours,
        "host_mlx": mlx,
        "host_beside": ours_beside,
        "host_mlx_beside": mlx_beside,
        "operations": operations,
        "rule": rule,
        "busy_ours": kernels["polyconv"],
        "busy_mlx": kernels["MLX"],
        "forms": gpu_tables.table(("what", "ways"), map(_form, forms)),
    }


def _form(found: tuple[str, Mapping[str, float]]) -> Sequence[str]:
    what, ways = found
    return what, ", ".join(f"{way} {ms:.3f}" for way, ms in ways.items())


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
