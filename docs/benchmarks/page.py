"""Writes docs/benchmarks/rivals.md and real_layers.md, their plots, and tables in other pages.

From rivals.json, real_layers.json and lengths.json, which `make bench` writes.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from math import prod
from pathlib import Path
from statistics import geometric_mean
from typing import Any

from polyconv.bench import command, scores

HERE = Path(__file__).parent
README = HERE.parents[1] / "README.md"
INDEX = HERE / "README.md"
MEMORY = HERE.parent / "memory.md"

ABOUT = """
Times in milliseconds of one transposed convolution in float32, medians of interleaved rounds, on
2 CPU cores of a shared machine: quote ratios, not times. MLX with OpenBLAS preloaded, 2 threads for
everybody, the weights of all but `auto` prepared before. *best rival* is the fastest of PyTorch
(either layout), ONNX Runtime, JAX and, for one channel, scipy.signal.upfirdn; *ratio* is the median
over rounds of its time over that of `packed`, above 1 where polyconv is faster. *MLX* is such a
ratio to MLX's own op, or to the same lifted to 2D if that is faster. *matmul* is one
product of as many multiply-accumulates, the limit of a layer without groups. *error* is the largest
against float64, of `packed` and of PyTorch. *peak* is what MLX allocates for `packed` at most at a
time, its output included, over the size of the output. *2 GB cache* is `packed` where MLX may keep
that much freed memory (`mx.set_cache_limit`), 32 MB by default on a CPU: what is above that is
given back to the system and faulted in anew, page by page, in every call."""

COLUMNS = (
    "| layer | `auto` | `packed` | 2 GB cache | best rival | | ratio | rival / matmul "
    "| `packed` / matmul | MLX | error | peak / output |\n"
    "|---|---:|---:|---:|---:|---|---:|---:|---:|---:|---:|---:|\n"
)


def table(rows: Sequence[dict[str, Any]]) -> str:
    return COLUMNS + "".join(_line(row) for row in rows)


def _line(row: dict[str, Any]) -> str:
    timings = row["timings"]
    rival, native = scores.best_rival(row), scores.best_native(row)
    packed = timings["packed"]["ms"]
    errors = " / ".join(_error(timings.get(name, {})) for name in ("packed", "torch"))
    cells = (
        row["name"],
        f"{timings['auto']['ms']:.3g}" if "auto" in timings else "-",
        f"{packed:.3g}",
        _ms(timings, "packed, 2 GB cache"),
        _ms(timings, rival),
        rival or "-",
        f"{scores.ratio(row, rival):.2f}" if rival else "-",
        f"{scores.ratio(row, rival, 'matmul'):.2f}" if rival and "matmul" in timings else "-",
        f"{1 / scores.ratio(row, 'matmul'):.2f}" if "matmul" in timings else "-",
        f"{scores.ratio(row, native):,.0f} x" if native else "-",
        errors,
        f"{scores.memory(row):.2f}",
    )
    return f"| {' | '.join(cells)} |\n"


def _ms(timings: dict[str, Any], name: str | None) -> str:
    return f"{timings[name]['ms']:.3g}" if name in timings else "-"


def _error(timing: dict[str, Any]) -> str:
    error = timing.get("error")
    return "-" if error is None else f"{error:.0e}"


def page(title: str, results: dict[str, Any], after: str) -> str:
    told = "".join(f"* {line}\n" for line in scores.summary(results["rows"]))
    what = "".join(f"    {line}\n" for line in results["what"] if "BLAS" in line or "MLX" in line)
    return f"# {title}\n{ABOUT}\n\n{table(results['rows'])}\n{told}\n{after}\n{what}"


TRAINING = """# Training: the output and both gradients

Times in milliseconds, measured as those of [the layers](rivals.md), weights cut up in every call.
*forward* is the output alone, *matmul* three products of as many multiply-accumulates, *peak* what
MLX allocates at most at a time, the output and both gradients included, over the size of these.

| layer | polyconv | / forward | / matmul | best other framework | | ratio | MLX | peak |
|---|---:|---:|---:|---:|---|---:|---:|---:|
"""


def training_page(results: dict[str, Any]) -> str:
    lines = [_training_line(row) for row in results["rows"]]
    kept = ("best", "auto", "MLX's")  # errors and sizes of outputs do not apply
    told = [line for line in scores.summary(results["rows"], "auto") if line.startswith(kept)]
    what = [f"    {line}\n" for line in results["what"] if "BLAS" in line or "MLX" in line]
    return TRAINING + "".join([*lines, "\n", *[f"* {line}\n" for line in told], "\n", *what])


def _training_line(row: dict[str, Any]) -> str:
    timings = row["timings"]
    rival, native = scores.best_rival(row), scores.best_native(row)
    sizes = 4 * (prod(row["input"]) + prod(row["weight"])) + row["output_bytes"]
    cells = (
        row["name"],
        f"{timings['auto']['ms']:.3g}",
        f"{1 / scores.ratio(row, 'forward', 'auto'):.2f}",
        f"{1 / scores.ratio(row, 'matmul', 'auto'):.2f}" if "matmul" in timings else "-",
        _ms(timings, rival),
        rival or "-",
        f"{scores.ratio(row, rival, 'auto'):.2f}" if rival else "-",
        f"{scores.ratio(row, native, 'auto'):,.0f} x" if native else "-",
        f"{timings['auto']['peak_bytes'] / sizes:.2f}",
    )
    return f"| {' | '.join(cells)} |\n"


AFTER = """![ratio to the best rival](rivals.png)

## Time against length

![time against length](lengths.png)

One layer, 32 to 16 channels, K8 s4. MLX's own op is left out where it was estimated to take over a
minute.

## New lengths

Milliseconds a call of HiFi-GAN's second layer, medians of 200, at 1024 frames and at 200 lengths
from 924 to 1124, each met once:

"""


# Inches. So wide, letters of a picture can be read on a phone.
PHONE = 4.2


def plot_ratios(rows: Sequence[dict[str, Any]]) -> None:
    import matplotlib.pyplot as plt

    rows = [row for row in rows if scores.best_rival(row)][::-1]
    ratios = [scores.ratio(row, scores.best_rival(row) or "") for row in rows]
    size = (PHONE, 0.17 * len(rows) + 0.7)
    figure, axes = plt.subplots(figsize=size, layout="constrained")
    axes.margins(y=0.01)
    colours = ["#2a7f62" if ratio >= 1 else "#b5523b" for ratio in ratios]
    axes.barh([row["name"] for row in rows], ratios, color=colours)
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set_xscale("log")
    told = "time of the best other framework\nover that of polyconv, packed"
    axes.set_xlabel(told, fontsize=8)
    axes.tick_params(labelsize=7)
    figure.savefig(HERE / "rivals.png", dpi=200)


def plot_lengths(rows: Sequence[dict[str, Any]]) -> None:
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(PHONE, 3.4), layout="constrained")
    names = {"mx": "mx.conv_transpose1d", "packed": "polyconv, packed", "torch": "PyTorch"}
    names |= {"onnxruntime": "ONNX Runtime", "jax": "JAX", "matmul": "one matmul"}
    for name, label in names.items():
        found = [(r["input"][1], r["timings"][name]["ms"]) for r in rows if name in r["timings"]]
        if found:
            axes.plot(*zip(*found), marker="o", markersize=4, label=label)
    axes.set(xscale="log", yscale="log", xlabel="frames of input", ylabel="ms")
    axes.legend(fontsize=8)
    axes.grid(alpha=0.3)
    figure.savefig(HERE / "lengths.png", dpi=200)


def layers_table(rows: Sequence[dict[str, Any]]) -> str:
    lines = [
        "| layer | `mx.conv_transpose*` | polyconv | packed once | best other framework | "
        "packed once, times as fast as MLX / as that other | max abs error, ours / PyTorch's |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        if row.get("readme"):
            timings, rival = row["timings"], scores.best_rival(row) or ""
            native = f"{scores.ratio(row, 'mx'):,.2g}" if "mx" in timings else "-"
            if native != "-" and float(native.replace(",", "")) >= 10:
                native = f"{scores.ratio(row, 'mx'):,.0f}"
            errors = " / ".join(_error(timings.get(name, {})) for name in ("packed", "torch"))
            lines.append(
                f"| {row['name']} | {_time(timings.get('mx'))} | {_time(timings['auto'])} "
                f"| {_time(timings['packed'])} | {_time(timings[rival])}, {rival} "
                f"| {native} / {scores.ratio(row, rival):.2f} | {errors} |"
            )
    return "\n".join(lines)


def _time(timing: dict[str, Any] | None) -> str:
    if timing is None:
        return "over a minute"
    ms = timing["ms"]
    return f"{ms / 1e3:.3g} s" if ms >= 1e3 else f"{ms:.3g} ms"


def with_table(text: str, name: str, table: str) -> str:
    """`text` with what is between the two markers of a name replaced."""
    start, stop = f"<!-- {name} -->\n", f"<!-- /{name} -->"
    head, rest = text.split(start)
    return head + start + table + "\n" + stop + rest.split(stop)[1]


def pages(found: dict[str, dict[str, Any]]) -> dict[str, str]:
    """The pages by name, from the files by name."""
    new = found["new_lengths"]["new_lengths"].items()
    after = AFTER + "| | one length | 200 lengths |\n|---|---:|---:|\n"
    after += "".join(f"| {name} | {known:.3g} | {other:.3g} |\n" for name, (known, other) in new)
    return {
        "rivals": page("Against other frameworks", found["rivals"], after),
        "real_layers": page("Layers of real models", found["real_layers"], ""),
        "training": training_page(found["training"]),
        "cuda": cuda_page(found["cuda"]),
        "models": models_page(found["models"]),
        "whole_models": whole_page(found),
        "streaming": streaming_page(found["streaming"]),
    }


CUDA = """# On an NVIDIA GPU

{gpu}, MLX's CUDA backend, float32, matrix products by TF32 where the library that computes them
likes (errors of 1e-3 and of 1e-6 say where); {torch}, `cudnn.benchmark`. Milliseconds a call, calls
given to the GPU up to 20 at a time, medians of interleaved rounds; *MLX* is its own op, cuDNN's
gradient of a convolution, and in 1D also the same as 2D; `auto` cuts its weight up in every call,
`packed` does not; PyTorch is the faster of contiguous and channels last; *matmul* is one product of
MLX's of as many multiply-accumulates. A ratio is above 1 where `auto` is faster, a peak is over the
size of the output. Cases are those of [the CPU](rivals.md), as they stand and with 32 times the
batch.

Parity, by `==` with the float64 reference, every method and both gradients: {parity}.

`auto` has changed since: it does not take MLX's own op for transposed convolutions on CUDA any
more, as cuDNN's plan for another stride may be run ([differences](../differences.md#from-mlx)).
Where *takes* says native, it now takes `stacked` or `per_phase`, whose columns then stand for it.
"""

CUDA_COLUMNS = (
    "| layer | MLX | as 2D | `auto` | takes | `packed` | `stacked` | `per_phase` | `taps` "
    "| PyTorch | matmul | MLX / auto | PyTorch / auto | error, auto / PyTorch "
    "| peak, auto / MLX |\n"
    f"|---{'|---:' * 3}|---{'|---:' * 10}|\n"
)


def cuda_page(found: dict[str, Any]) -> str:
    agreed, what = found["parity"]["agreed"], dict(_last_two(found["what"]))
    parity = ", ".join(f"{name} {n:,}" for name, n in agreed.items())
    parity += f"; failures: {len(found['parity']['failures'])}"
    text = CUDA.format(gpu=what["GPU"], torch=what["PyTorch"], parity=parity)
    for batch in sorted({row["times_batch"] for row in found["rows"]}):
        rows = [row for row in found["rows"] if row["times_batch"] == batch]
        text += f"\n## {'As they stand' if batch == 1 else f'{batch} times the batch'}\n\n"
        text += CUDA_COLUMNS + "".join(map(_cuda_line, rows)) + "\n"
        against = {"MLX's own op": _all(rows, "mx"), "PyTorch": _all(rows, None)}
        text += "".join(f"* `auto` against {name}: {told}\n" for name, told in against.items())
    text += "\n## The output and both gradients, 32 times the batch\n\n"
    text += "| layer | MLX | polyconv | its output alone | three products |\n"
    text += f"|---{'|---:' * 4}|\n"
    for row in found["train"]:
        cells = [_ms(row["timings"], name) for name in ("mx", "auto", "forward", "matmul")]
        text += f"| {' | '.join((row['name'], *cells))} |\n"
    return text


def _last_two(lines: Sequence[str]) -> list[tuple[str, str]]:
    gpu, torch = lines[-2:]
    return [("GPU", gpu.removeprefix("GPU: ")), ("PyTorch", torch)]


def _cuda_line(row: dict[str, Any]) -> str:
    timings, rival = row["timings"], scores.best_rival(row)
    names = ("mx", "mx as 2D", "auto", "packed", "stacked", "per_phase", "taps")
    ms = [_ms(timings, name) for name in names]
    ms.insert(3, row["auto_takes"])
    peaks = [timings[k]["peak_bytes"] / row["output_bytes"] for k in ("auto", "mx") if k in timings]
    cells = (
        row["name"],
        *ms,
        _ms(timings, rival),
        _ms(timings, "matmul"),
        f"{scores.ratio(row, 'mx', 'auto'):.2f}" if "mx" in timings else "-",
        f"{scores.ratio(row, rival, 'auto'):.2f}" if rival else "-",
        " / ".join(_error(timings.get(name, {})) for name in ("auto", rival)),
        " / ".join(f"{peak:.3g}" for peak in peaks),
    )
    return f"| {' | '.join(cells)} |\n"


def _all(rows: Sequence[dict[str, Any]], other: str | None) -> str:
    """Of one competitor, or of the best other framework."""
    named = [(row, other or scores.best_rival(row)) for row in rows]
    ratios = [scores.ratio(row, name, "auto") for row, name in named if name in row["timings"]]
    return f"geometric mean {geometric_mean(ratios):.2f} over {len(ratios)} rows"


MODELS_COLUMNS = (
    "| model | layers | native | converted | patched, transposed | patched, all | times faster "
    "| apart | peak |\n"
    f"|---{'|---:' * 8}|\n"
)

MODELS = """# Models that nobody here wrote

Seconds of one run of the part of a model that makes audio, weights random at the geometry of the
published model, on 2 CPU cores with OpenBLAS preloaded: the least of interleaved rounds, natively
once where that takes more than a second. *converted* by `polyconv.convert`; *patched* inside
`polyconv.patched(cpu_convs=False)`, transposed convolutions only, and inside `polyconv.patched()`,
which on a CPU takes over dilated and grouped ones too. *apart* is the largest difference of the
three from the native output, over the largest sample of that. *peak* is MLX's memory beyond weights
and input, natively and with all patched. `docs/benchmarks/models.py` writes this (`make models`).

"""


def models_page(found: dict[str, Any]) -> str:
    lines = [_model_line(row) for row in found["rows"]]
    what = [f"    {line}\n" for line in found["what"] if "BLAS" in line or "MLX" in line]
    what.append(f"    {found['what'][-1]}\n")
    return MODELS + MODELS_COLUMNS + "".join([*lines, "\n", *what])


def _model_line(row: dict[str, Any]) -> str:
    ways = ("native", "converted", "patched, transposed only", "patched")
    seconds = [min(row[way]["seconds"]) for way in ways]
    apart = max(row[way]["error"] for way in ways)
    peaks = " / ".join(f"{row[way]['peak_bytes'] / 1e6:.0f} MB" for way in ("native", "patched"))
    times = f"{seconds[0] / seconds[1]:.1f} / {seconds[0] / seconds[3]:.1f}"
    cells = (row["name"], str(len(row["layers"])), *[f"{each:.3g}" for each in seconds])
    return f"| {' | '.join((*cells, times, f'{apart:.0e}', peaks))} |\n"


WHOLE = """# Whole models

Times in milliseconds of one run in float32, medians of interleaved rounds, on 2 CPU cores of a
shared machine: quote ratios, not times. 2 threads for everybody. The layers are data
(`polyconv/bench/model_cases.py`), of which each framework's model is built, with random weights and
batch norms folded into the layers before them. *MLX* are its own layers, *converted* the same after
`polyconv.convert(model, cpu_convs=True)`, *packed* after `packed=True` as well. PyTorch runs
eagerly, in 2D and 3D also channels last. ONNX Runtime has the model as one graph, whose threads may
spin between nodes. *ratio* is the median over rounds of the time of the best of these over that of
`packed`, above 1 where polyconv is faster. *error* is the largest against float64, of `packed` and
of PyTorch; *peak* what MLX allocates beside weights and inputs, natively and packed. What takes
longer than a second is run once. MLX's own layers are left out where they are estimated to take
over two minutes. `polyconv bench --models` writes the rows (`make bench-models`).
[What bounds them](README.md).
"""

SETTINGS = {
    "whole_models": "Under `polyconv run`",
    "whole_models_plain": "As pip installs it: the BLAS of MLX's wheel, 32 MB of freed memory kept",
}

WHOLE_COLUMNS = (
    "| model | GMAC | MLX | converted | packed | PyTorch | channels last | ONNX Runtime | ratio "
    f"| error | peak |\n|---{'|---:' * 10}|\n"
)


def whole_page(found: dict[str, dict[str, Any]]) -> str:
    """The page of whole models: by settings their rows, and what bounds them."""
    text = WHOLE
    for key, title in SETTINGS.items():
        rows = found[key]["rows"]
        text += f"\n## {title}\n\n{WHOLE_COLUMNS}" + "".join(map(_whole_line, rows))
        told = scores.scores(rows)["rivals"]
        text += f"\n* best other framework / packed: {told} ({told.where})\n\n"
        text += "".join(
            f"    {line}\n" for line in found[key]["what"] if "BLAS" in line or "MLX" in line
        )
    return text + WHOLE_LEFT_OUT


WHOLE_LEFT_OUT = """
HiFi-GAN at 862 frames is left out there: it would take minutes a run.
"""


def _whole_line(row: dict[str, Any]) -> str:
    timings, rival = row["timings"], scores.best_rival(row)
    names = ("mx", "converted", "packed", "torch", "torch channels last", "onnxruntime")
    peaks = [
        f"{timings[name]['peak_bytes'] / 1e6:.0f} MB" if name in timings else "-"
        for name in ("mx", "packed")
    ]
    cells = (
        row["name"],
        f"{row['macs'] / 1e9:.3g}",
        *[_ms(timings, name) for name in names],
        f"{scores.ratio(row, rival):.2f}" if rival else "-",
        " / ".join(_error(timings.get(name, {})) for name in ("packed", "torch")),
        " / ".join(peaks),
    )
    return f"| {' | '.join(cells)} |\n"


def models_table(rows: Sequence[dict[str, Any]]) -> str:
    """The README's table."""
    lines = [
        "| whole model | MLX's layers | converted, packed | PyTorch | ONNX Runtime "
        "| times as fast as MLX / as the best other | max abs error, ours / PyTorch's |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        timings, rival = row["timings"], scores.best_rival(row) or ""
        torch = min(
            (timings[k] for k in ("torch", "torch channels last") if k in timings),
            key=lambda timing: float(timing["ms"]),
        )
        native = f"{scores.ratio(row, 'mx'):,.3g}" if "mx" in timings else "-"
        cells = (
            row["name"],
            _time(timings["mx"]) if "mx" in timings else "over two minutes",
            *[_time(timing) for timing in (timings["packed"], torch, timings["onnxruntime"])],
            f"{native} / {scores.ratio(row, rival):.2f}",
            " / ".join(_error(timings.get(name, {})) for name in ("packed", "torch")),
        )
        lines.append(f"| {' | '.join(cells)} |")
    told = scores.scores(rows)["rivals"]
    lines.append(f"\nAgainst the best other framework: {told} ({told.where}).")
    return "\n".join(lines)


STREAMING = """# A step of a stream

Milliseconds of one step of the first layer of HiFi-GAN V1 (512 to 256 channels, K16 s8) in the
middle of a stream, by chunks of so many frames: medians of interleaved rounds, quartiles behind, on
2 CPU cores with OpenBLAS preloaded, weights packed before. *products* are the two that a step must
make, *recompute* is the offline op on the chunk and the frame before it, *overlap-add* the whole
output of the chunk with its tail carried over, as public codecs have it, by polyconv's op, by
MLX's, and by PyTorch with its own. *peak* is what MLX allocates at most at a time in a step of
polyconv's, its output and state included, over the output.
`docs/benchmarks/streaming.py` writes this.

"""


def streaming_page(found: dict[str, Any]) -> str:
    names = list(found["rows"][0]["ms"])
    head = " | ".join(names).replace("bare products", "products")
    lines = [f"| frames | {head} | peak |\n|---:|{'---:|' * (len(names) + 1)}\n"]
    for row in found["rows"]:
        cells = []
        for name in names:
            low, _, high = row["quartiles"][name]
            cells.append(f"{row['ms'][name]:.3g} ({low:.3g} to {high:.3g})")
        lines.append(f"| {row['frames']} | {' | '.join(cells)} | {row['peak_over_output']} |\n")
    what = [f"    {line}\n" for line in found["what"] if "BLAS" in line or "MLX" in line]
    return STREAMING + "".join([*lines, "\n", *what])


def limits_table(found: dict[str, Any]) -> str:
    """For the page on memory."""
    lines = [
        "| `max_workspace` | allocated at the peak | ms | with both gradients, at the peak | ms |",
        "|---:|---:|---:|---:|---:|",
    ]
    by_limit: dict[int | None, list[dict[str, Any]]] = {}
    for row in found["rows"]:
        by_limit.setdefault(row["limit"], []).append(row)
    for limit, rows in by_limit.items():
        cells = ["-" if limit is None else f"{limit / 1e6:g} MB"]
        for row in rows:
            cells += [f"{row['peak'] / 1e6:.2f} MB"]
            cells += [f"{row['ms']:.3g} ({row['least']:.3g} to {row['most']:.3g})"]
        lines.append(f"| {' | '.join(cells)} |")
    batch, length, channels = found["input"]
    made, taps, _ = found["weight"]
    what = next(line for line in found["what"] if "BLAS" in line).strip()
    told = f"K{taps} s{found['stride']}, {channels} to {made} channels, {length} frames"
    told += f", batch {batch}; medians of {found['rounds']} interleaved rounds, range behind. "
    lines.append(f"\n{told}{what}")
    return "\n".join(lines)


def int32_table(found: dict[str, dict[str, str]]) -> str:
    """For the page on memory: one column per MLX version and device."""
    names = [key.replace("Device(cpu, 0)", "CPU") for key in found]
    lines = [f"| on more than 2^31 elements | {' | '.join(names)} |", f"|---{'|---' * len(names)}|"]
    for case in next(iter(found.values())):
        cells = [_in_words(each[case]) for each in found.values()]
        lines.append(f"| `{case}` | {' | '.join(cells)} |")
    return "\n".join(lines)


def _in_words(found: str) -> str:
    if found.startswith("ended by"):
        return "**ends the process**"
    if found.startswith("not within"):
        return f"**{found}**"
    if "Error" in found:
        return f"refused: {found.split(':')[0]}"
    return found if found == "right" else "**wrong**"


FILES = (
    "above_int32",
    "memory",
    "rivals",
    "real_layers",
    "lengths",
    "new_lengths",
    "training",
    "cuda",
    "models",
    "streaming",
    "whole_models",
    "whole_models_plain",
)


def main() -> None:
    if command.here() != command.HEADED:
        print(
            f"The pages and the README's table are of {command.HEADED} and stay as they are; the "
            f"figures of {command.here()} are in {HERE}, in the files named after it."
        )
        return
    found = {name: json.loads((HERE / f"{name}.json").read_text()) for name in FILES}
    for name, text in pages(found).items():
        (HERE / f"{name}.md").write_text(text)
    plot_ratios(found["rivals"]["rows"])
    plot_lengths(found["lengths"]["rows"])
    table = layers_table(found["rivals"]["rows"])
    INDEX.write_text(with_table(INDEX.read_text(), "layers", table))
    whole = models_table(found["whole_models"]["rows"])
    README.write_text(with_table(README.read_text(), "models", whole))
    text = with_table(MEMORY.read_text(), "limits", limits_table(found["memory"]))
    MEMORY.write_text(with_table(text, "int32", int32_table(found["above_int32"])))


if __name__ == "__main__":
    main()
