"""Writes the generated pages: docs/explain.md, docs/macs.md, docs/cli.md, docs/llms.txt.

    python docs/pages.py

What they say is worked out by the package; `tests/docs/test_docs.py` compares.
"""

from __future__ import annotations

import contextlib
import io
import os
import textwrap
from pathlib import Path
from unittest import mock

import llms
import macs_page

from polyconv.__main__ import main as polyconv_main
from polyconv.inspection.explanation import explain_problem
from polyconv.planning.devices import DEVICES, Metal
from polyconv.problem.signatures import problem_of

ROOT = Path(__file__).parents[1]
METAL = Metal("m4-max", DEVICES["m4-max"])

TELLING = (
    (
        "The repro of MLX issue 3082: an inverse STFT's overlap-add",
        "MLX puts 1023 zeros between the samples and copies every window of the result: 4096 samples "
        "for each of 5 million outputs. The copies go into a buffer as large as the device allows. The "
        "phases need no zero and no copy.",
        ("conv_transpose1d", (1, 5158, 1), (1, 4096, 1), {"stride": 1024}),
    ),
    (
        "HiFi-GAN's first upsampling layer",
        "Two taps per phase. One frame more than the 128 lets all eight phases share a window of "
        "two samples, and so one convolution: that is the 0.8 % on zeros.",
        ("conv_transpose1d", (1, 128, 512), (256, 16, 512), {"stride": 8, "padding": 4}),
    ),
    (
        "A 2D decoder layer, 4 by 4, stride 2",
        "In 2D MLX has a kernel that skips the zeros by itself.",
        ("conv_transpose2d", (1, 32, 32, 256), (128, 4, 4, 256), {"stride": 2, "padding": 1}),
    ),
    (
        "A 3D upsampling layer, 2 by 2 by 2, stride 2",
        "Each output has one tap: every phase is a matrix product, and all eight are one. MLX has a "
        "path of its own for just this case from 0.32.3 on (mlx #4343); it unfolded before.",
        ("conv_transpose3d", (1, 16, 16, 16, 64), (32, 2, 2, 2, 64), {"stride": 2}),
    ),
    (
        "A depthwise filter, 12 taps, stride 2",
        "With groups MLX unfolds, in 2D as well.",
        (
            "conv_transpose1d",
            (8, 1000, 256),
            (256, 12, 1),
            {"stride": 2, "padding": 5, "groups": 256},
        ),
    ),
)

EXPLAIN = """# Explain

You will get a table of what each method would do with a call on a Mac, which one is taken, and why:

```sh
polyconv explain conv_transpose1d --input 1,128,512 --weight 256,16,512 --stride 8 --padding 4
```

It computes nothing and measures nothing, so it needs no Mac. [What it prints](#hifi-gans-first-upsampling-layer)
is shown below.

## How to read a table

Each row is a way to compute the same output. The arrow marks what `auto` takes. ([Words](words.md) explains
*phase*, *tap*, *unfold* and the others.)

| column | says |
|---|---|
| predicted | the least and the most time of one call whose weight is not packed; nine times in ten it lies between them; the text below tells it for a packed weight |
| timings | how many published timings the least tested of its kernels rests on: under five tell little |
| launches | the kernels that run |
| convs, taps | how many convolutions MLX is given, and how large the largest kernel among them is; `16x1` is a 2D one |
| MACs | multiply-accumulates that they spend |
| on zeros | the share of them beyond what the phases need: on zeros between samples, zero taps, spare frames, padded channels |
| Metal kernel | the path that MLX takes; `explicit_*` copies every window of the input before it multiplies |
| unfold | the buffer for these copies |
| other | all else besides input, weight and output: packed weights, padded inputs, outputs that are still to be interleaved, scratch |
| peak | input, weight, output and all of that, if nothing were freed on the way |

`native as 2D` is MLX's own op, given one more axis of size 1. In 1D that reaches the 2D kernel that
skips zeros, in a line that you can write: `mx.conv_transpose2d(x[:, :, None], w[:, :, None], (stride, 1), ...)[:, :, 0]`.
It is no method of polyconv's.

Whether polyconv gains is said in the first line below the table. It compares the predicted times of `native` and of
what is taken. If its bounds contain 1, the gain is not sure: time the call on your Mac.

## Where the numbers come from

Kernels and bytes come from a model of MLX's dispatch code (`polyconv/metal/kernels.py`). Times come from [a model of
timings that others published](benchmarks/metal_fit.md) (`polyconv/metal/seconds.py`).

| rules of MLX | how they were found |
|---|---|
| 0.32.2 | they agree with 2,646 recorded calls of the code, in the kernel and in every allocation ([where from](../tests/data/metal_golden.md)) |
| 0.31.2, 0.32.0, 0.32.1 | read from the differences between their sources; nothing recorded checks them |
| 0.32.3, 0.32.4 | read from the binaries of their macOS wheels; nothing recorded checks them |

If the MLX that runs is newer than the newest rules, explain says so in a line of its own.

What is predicted, only a Mac can confirm. `polyconv bench conv_transpose1d --input ... --weight ... --stride ...`
times all rows there.

On Metal polyconv issues no convolution that unfolds and none that reads outside its input, forward
or in gradients, under any of these rules ([the guarantee](macs.md)). For that some calls take another form. Channels
that do not fill the tiles of MLX's fast kernels are filled up with zeros, as far as the rule at hand asks. Or a 1D
convolution is issued as a 2D one, or a 3D one as several 2D ones. The form of the least predicted time is taken.
`make guarantee` traces every convolution of 10,000 random calls, and of all layers in [the table of real
layers](macs.md).

## Other questions

* **Several Macs.** `--device m1,m2-pro,m4-max` shows the times side by side. A name without its memory is the
  smallest machine with that chip. On a Mac the default is that Mac, elsewhere an M4 Max.
* **A whole model.** `--model module:factory --input 1,80,128` runs what the factory makes, on zeros. It explains each
  transposed convolution that the model calls, largest first, under a table with totals. It does not see calls through
  a name imported from `mlx.core`.
* **Tokens.** A model that begins with an embedding takes ints: `--input 1,128:int32:0..1000` gives it ints from 0 up
  to 999.
* **For programs.** `--json` prints a dict. `--batch ROWS.JSONL` predicts `path` and `unfold_bytes` of recorded calls,
  one JSON object a line.
* **What is in force.** `polyconv doctor` prints which MLX, device, BLAS and kernel rules are.

The same from Python:

* `polyconv.explain(op, input, weight, ...)` returns an object to print, or `.to_dict()`.
* `polyconv.explain_model(model, ...)` returns a list of these, of a shape or an array for each argument:
  `polyconv.explain_model(model, mx.zeros((1, 128), mx.int32))`.
* `with polyconv.planning_for("m4-max"):` plans as if on that device. It runs on the present one, with the same numbers.
"""

CLI = """# Command line

You will get what each of the five commands of `polyconv`, or `python -m polyconv`, does and takes. The first to try
says what is in force on your machine:

```sh
polyconv doctor
```

A shape is a list with commas, channels last. An option is an int, or a list with one int per spatial axis. Exit code
2 is a usage error, told in one line.
"""

COMMANDS = {
    "explain": (
        "Says what each method would do with a call on a Mac, which is taken, and why. It computes nothing. "
        "[How to read what it prints](explain.md). With `--model` there is an `--input` for each argument "
        "of the model, in order. Behind the shape may stand a dtype, in place of that of `--dtype`. Behind "
        "the dtype may stand a range of ints, in place of zeros. `--input 1,128:int32:0..1000` is 1 by 128 "
        "ints from 0 up to 999: the tokens of a vocabulary of 1,000, for a model that begins with an embedding. "
        "`--plot call.svg` also draws time, bytes and MACs by method, of one call on one device."
    ),
    "bench": (
        "Times MLX's own op and every method, here. With `--models` it times [whole "
        "models](benchmarks/whole_models.md). `--calibrate` measures what `auto` weighs methods by "
        "([choosing a method](choosing.md)). [What it found](benchmarks/README.md)."
    ),
    "tune": (
        "Times every plan of each convolution that a model calls, MLX's own op among them, here. It writes a "
        "file by which `auto` takes the fastest ([tuning](tuning.md)). It takes the `--model` and `--input` of "
        "`explain`, or one call, or a file of cases. A bar on standard error says how far it is."
    ),
    "doctor": (
        "Says which MLX, device, BLAS, kernel rules and tuning are in force, and what to do about them."
    ),
    "run": (
        "Runs a program as `python` would, but fast on a bare Linux machine. MLX's Linux wheel brings a "
        "slow BLAS along. This command finds a fast one and starts Python with it. Processes "
        "which the program starts have it too. It looks for what `POLYCONV_BLAS` names, for the OpenBLAS "
        "of the extra `openblas` (which `polyconv[cpu]` includes), then for that of conda or the system. "
        "It makes one copy of the extra's library, under the names that MLX asks for, in "
        "`~/.cache/polyconv`. It asks glibc for huge pages, by `GLIBC_TUNABLES=glibc.malloc.hugetlb=1`, unless "
        "that variable is set. It lets MLX keep more freed memory on a CPU. On a Mac it finds nothing to do. It says on one line of standard error what it did."
    ),
}


def explain_page() -> str:
    parts = [EXPLAIN]
    for heading, text, call in TELLING:
        parts.append(f"\n## {heading}\n\n{text}\n\n{console(*call)}")
    return "".join(parts)


def console(op: str, x: tuple[int, ...], w: tuple[int, ...], options: dict[str, int]) -> str:
    """A command and what it prints, but for the notice that the running MLX is newer."""
    given = ", ".join(f"{name}={value}" for name, value in options.items())
    call = f"{op}({x}, {w}, {given}) float32"
    told = explain_problem(problem_of(op, x, w, "float32", options), call, op, METAL)
    flags = " ".join(f"--{name.replace('_', '-')} {value}" for name, value in options.items())
    shapes = " ".join(f"--{k} {','.join(map(str, v))}" for k, v in (("input", x), ("weight", w)))
    return f"```console\n$ polyconv explain {op} {shapes} {flags}\n{told}\n```\n"


def cli_page() -> str:
    """What `--help` prints, in 80 columns."""
    parts = [CLI]
    for command, told in COMMANDS.items():
        shown = f"```console\n$ polyconv {command} --help\n{_help_of(command)}```\n"
        parts.append(f"\n## {command}\n\n{textwrap.fill(told, 100)}\n\n{shown}")
    return "".join(parts)


def _help_of(command: str) -> str:
    told, columns = io.StringIO(), mock.patch.dict(os.environ, COLUMNS="80")
    with columns, contextlib.redirect_stdout(told), contextlib.suppress(SystemExit):
        polyconv_main([command, "--help"])
    return told.getvalue()


def main() -> None:
    (ROOT / "docs" / "explain.md").write_text(explain_page())
    (ROOT / "docs" / "macs.md").write_text(macs_page.page())
    (ROOT / "docs" / "cli.md").write_text(cli_page())
    (ROOT / "docs" / "llms.txt").write_text(llms.text())


if __name__ == "__main__":
    main()
