"""The page of streamed decoders, from what stream_models.py wrote."""

from __future__ import annotations

from typing import Any

ABOUT = """# Decoders that nobody here wrote, streamed

{count} decoders and vocoders of mlx-audio, and pieces of them, as functions of one array, with
their own code and random weights. *input* is the example that they were traced with, `L` its axis
of time. *part* is how many times fewer channels or layers a large one has here than in the
published model. *layers* is how many transposed convolutions `polyconv.convert` took over, and how
many it left alone. *converted* and *patched* are the largest differences from MLX's own ops, over
the largest sample, in a run of 8 frames. *stream* is that of `polyconv.stream` in ragged chunks
from 60 frames processed whole, and of the middle third alone; *end* is how much of the output
`flush` alone gave; *built* is how long it took to make a stream.
`docs/benchmarks/stream_models.py` writes this (`make stream-models`).

{told}

"""

COLUMNS = (
    "| decoder | input | part | layers | converted | patched | stream, all / middle | end "
    "| built |\n"
    f"|---|---{'|---:' * 7}|\n"
)

REFUSALS = """
## Refused

| decoder | what `polyconv.stream` says |
|---|---|
"""

TIMES = """
## First audio, and the real-time factor

At the published sizes, chunks of {frames} frames on 2 CPU cores: how long the steps take until
there is audio, and after that the time of steps over the duration of what they give.

| decoder | chunks until audio | ms | real-time factor |
|---|---:|---:|---:|
"""


def page(found: dict[str, Any]) -> str:
    rows = found["rows"]
    refused = [row for row in rows if "refused" in row["stream"]]
    wrong = [row for row in rows if "wrong" in row["stream"]]
    streamed = sum("error" in row["stream"] for row in rows)
    told = f"{streamed} are streamed, {len(refused)} refused, {len(wrong)} wrong."
    if not any(row["stream"] for row in rows):
        told = "Streams were left out here (`--without-streams`)."
    text = ABOUT.format(count=len(rows), told=told) + COLUMNS + "".join(map(_line, rows))
    if refused:
        text += REFUSALS
        text += "".join(
            f"| {row['name']} | {_cell(row['stream']['refused'])} |\n" for row in refused
        )
    timed = [row for row in rows if "timed" in row]
    if timed:
        text += TIMES.format(frames=timed[0]["timed"]["frames"])
        text += "".join(map(_times, timed))
    what = [f"    {line}\n" for line in found["what"] if "BLAS" in line or "MLX" in line]
    return "".join([text, "\n", *what, f"    {found['what'][-1]}\n"])


def _line(row: dict[str, Any]) -> str:
    sizes = ["L" if axis == row["axis"] else str(n) for axis, n in enumerate(row["input"])]
    stream = row["stream"]
    told, rest = "refused" if "refused" in stream else "-", ("-", "-")
    if "wrong" in stream:
        told = f"**{_cell(stream['wrong'])}**"
    elif "error" in stream:
        told = f"{stream['error']:.0e} / {stream['error middle']:.0e}"
        rest = (f"{stream['at_the_end']:.0%}", f"{stream['built_seconds']:.1f} s")
    layers = f"{len(row['converted'])} / {len(row['left'])}"
    errors = (f"{row['error converted']:.0e}", f"{row['error patched']:.0e}")
    cells = (row["name"], f"({', '.join(sizes)})", str(row["part"]), layers, *errors, told, *rest)
    return f"| {' | '.join(cells)} |\n"


def _times(row: dict[str, Any]) -> str:
    timed = row["timed"]
    cells = (row["name"], timed["chunks_until_audio"], f"{timed['first_audio_ms']:.0f}")
    return f"| {' | '.join(map(str, cells))} | {timed['real_time_factor']:.2f} |\n"


def _cell(sentence: str) -> str:
    return sentence.replace("\n", " ").replace("|", "\\|").replace("*", "\\*")
