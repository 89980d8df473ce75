"""Decoders that nobody here wrote, converted, patched and streamed, written to stream_models.json.

    python docs/benchmarks/stream_models.py [--out stream_models.json] [--only NAME] [--page]

Needs `mlx-audio`. Channels or layers of large ones are fewer than in the published model (`part`);
weights are random. Writes stream_models.md too; with --page that alone, from the file.
"""

from __future__ import annotations

import argparse
import gc
import importlib.metadata
import json
import time
from collections.abc import Callable, Iterator
from itertools import cycle
from pathlib import Path
from typing import Any

import audio_models
import mlx.core as mx
import more_audio_models
import spectral_models
import stream_page
from decoders import DECODERS, Decoder, Entry

import polyconv
from polyconv.inspection import explain

HERE = Path(__file__).parent
FILES = (audio_models, more_audio_models, spectral_models)  # each enters its decoders
TOLERANCE = 1e-4
SHORT, LONG = 8, 60  # frames: of the runs that take MLX's own ops, and of a stream
RAGGED = (1, 7, 2, 13, 3, 1, 1, 8)
# Timed at the published size, with the samples of a second.
TIMED = {
    "dac_44khz": 44100,
    "snac_without_noise": 24000,
    "voxcpm_44khz": 44100,
    "melotts_hifigan": 44100,
    "mimi_seanet": 24000,
}


def measure(name: str, streams: bool) -> dict[str, Any]:
    entry = DECODERS[name]
    decoder = entry.build(SHORT, narrow=True)
    row: dict[str, Any] = {"name": name, "part": entry.part, "axis": decoder.axis}
    row["input"] = list(decoder.example.shape)
    row |= switched(decoder)
    row["stream"] = streamed(entry, decoder) if streams else {}
    if name in TIMED and "error" in row["stream"]:
        row["timed"] = timed(entry, TIMED[name])
    return row


def switched(decoder: Decoder) -> dict[str, Any]:
    """What `convert` says, and how far converted and patched runs are from MLX's own ops."""
    native = evaluated(decoder.function, decoder.example)
    conversion = polyconv.convert(decoder.model)
    converted = evaluated(decoder.function, decoder.example)
    polyconv.revert(decoder.model)
    with polyconv.patched():
        patched = evaluated(decoder.function, decoder.example)
    return {
        "output": list(native.shape),
        "scale": scale(native),
        "converted": [str(each.path) for each in conversion.converted],
        "left": [str(each) for each in conversion if each.left_alone],
        "error converted": apart(converted, native),
        "error patched": apart(patched, native),
    }


def streamed(entry: Entry, decoder: Decoder) -> dict[str, Any]:
    """A stream in ragged chunks against the whole, or the sentence that refuses it."""
    _, function, example, axis = decoder
    with polyconv.patched():
        short, x = function(example), entry.example(LONG)
        whole = evaluated(function, x)
    out = time_axis(short, whole)
    start = time.perf_counter()
    try:
        stream = polyconv.stream(function, example, axis=axis)
    except Exception as error:  # whatever the model's own code raises is told as well
        kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
        return {"refused": kind + str(error)}
    built = time.perf_counter() - start
    found = {"built_seconds": round(built, 2), "latency": repr(getattr(stream, "latency", None))}
    try:
        parts = [stream.step(chunk) for chunk in chunks(x, axis, cycle(RAGGED))]
        parts.append(stream.flush())
        y = mx.concatenate(parts, axis=out)
    except Exception as error:  # a stream that was given must run
        return {**found, "wrong": f"{type(error).__name__}: {error}"}
    if y.shape != whole.shape:
        return {**found, "wrong": f"{y.shape} where the whole is {whole.shape}"}
    found["at_the_end"] = round(parts[-1].shape[out] / y.shape[out], 3)  # by flush, of the whole
    third = whole.shape[out] // 3
    middle = [mx.split(each, [third, 2 * third], axis=out)[1] for each in (y, whole)]
    return {**found, "error": apart(y, whole), "error middle": apart(*middle, scale(whole))}


def timed(entry: Entry, rate: int, frames: int = 8) -> dict[str, Any]:
    """Chunks of some frames at the published size, the second pass through a stream."""
    _, function, example, axis = entry.build(SHORT)
    x = entry.example(8 * frames)
    with polyconv.patched():
        out = time_axis(function(example), function(x))
    stream = polyconv.stream(function, example, axis=axis)
    for _ in range(2):
        stream.reset_state()
        times, samples = [], []
        for chunk in chunks(x, axis, cycle([frames])):
            start = time.perf_counter()
            y = stream.step(chunk)
            mx.eval(y, stream.state)
            times.append(time.perf_counter() - start)
            samples.append(y.shape[out])
    heard = next(index for index, made in enumerate(samples) if made)
    steady = sum(times[heard + 1 :]) / (sum(samples[heard + 1 :]) / rate)
    first = sum(times[: heard + 1])
    return {
        "frames": frames,
        "chunks_until_audio": heard + 1,
        "first_audio_ms": round(1e3 * first, 1),
        "real_time_factor": round(steady, 3),
    }


def chunks(x: mx.array, axis: int, sizes: Iterator[int]) -> Iterator[mx.array]:
    """Consecutive pieces of an array along an axis, the last one as long as it comes."""
    start, length = 0, x.shape[axis]
    for size in sizes:
        if start >= length:
            return
        yield mx.take(x, mx.arange(start, min(start + size, length)), axis=axis)
        start += size


def time_axis(short: mx.array, long: mx.array) -> int:
    """The axis along which a longer input gives a larger output."""
    return next(axis for axis in range(short.ndim) if short.shape[axis] < long.shape[axis])


def evaluated(function: Callable[[mx.array], mx.array], x: mx.array) -> mx.array:
    y = function(x).astype(mx.float32)
    mx.eval(y)
    return y


def scale(y: mx.array) -> float:
    return float(mx.abs(y).max().item())


def apart(y: mx.array, other: mx.array, of: float | None = None) -> float:
    """The largest difference over the scale of the other, or over `of`."""
    if y.shape != other.shape:
        return float("inf")
    return float(mx.abs(y - other).max().item()) / (of or scale(other))


def wrong(row: dict[str, Any]) -> bool:
    stream = row["stream"]
    errors = [row["error converted"], row["error patched"], stream.get("error", 0)]
    return "wrong" in stream or not all(error <= TOLERANCE for error in errors)  # NaN is wrong


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=HERE / "stream_models.json")
    parser.add_argument("--only", help="the decoders named like this")
    parser.add_argument("--without-streams", action="store_true", help="converted, patched alone")
    parser.add_argument("--page", action="store_true", help="write the page from the file alone")
    args = parser.parse_args()
    if not args.page:
        names = [name for name in DECODERS if not args.only or args.only in name]
        write(args.out, [told(name, not args.without_streams) for name in names])
    found = json.loads(args.out.read_text())
    args.out.with_suffix(".md").write_text(stream_page.page(found))
    bad = [row["name"] for row in found["rows"] if wrong(row)]
    if bad:
        raise SystemExit(f"more than {TOLERANCE} of the output's scale apart: {', '.join(bad)}")


def told(name: str, streams: bool) -> dict[str, Any]:
    row = measure(name, streams)
    errors = f"converted {row['error converted']:.0e}, patched {row['error patched']:.0e}"
    print(f"{name}: {errors}; {json.dumps({**row['stream'], **row.get('timed', {})})}", flush=True)
    gc.collect()
    mx.clear_cache()
    return row


def write(out: Path, rows: list[dict[str, Any]]) -> None:
    what = [f"mlx-audio {importlib.metadata.version('mlx-audio')}"]
    lines = ",\n".join(f"  {json.dumps(row)}" for row in rows)
    doctor = explain.doctor().replace(str(Path.home()), "~")
    text = json.dumps({"what": [*doctor.splitlines(), *what]}, indent=1)
    out.write_text(f'{text[:-2]},\n "rows": [\n{lines}\n ]\n}}\n')


if __name__ == "__main__":
    main()
