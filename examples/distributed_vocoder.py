"""One hour of mel, or any length of it, to sound by several processes, each with its part of it.

    mlx.launch -n 2 --backend ring -- python examples/distributed_vocoder.py --hours 1

Answers: how does a vocoder scale over `mx.distributed`, how much memory does a rank need, and how
many bytes go between ranks? Each rank makes its own part of the mel and writes its own part of the
sound. ``--halo once``: ranks exchange the mel frames around the cuts, once, and each streams
through its part. ``--halo layers``: all ranks work on one stretch of some seconds at a time, and
each layer exchanges what it reads around the cuts.
"""

from __future__ import annotations

import argparse
import faulthandler
import json
import os
import resource
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from command_line import at_least, reason
from hifigan import VARIANTS, Generator
from mel import HOP, SAMPLE_RATE, log_mel
from sound_file import SoundPart, create
from speech import BUNDLED_CLIP, read_speech
from vocoder_parts import Mel, Rank, Samples, make_generator

from polyconv import distributed

# Frames on each side of a place that are compared with the generator called on a window around it.
CHECKED = 8
# Sums of float32 in another order: what pieces may differ by from the whole.
TOLERANCE = 1e-4
REPORT_BYTES = 2048
# A stretch computes the margins at its ends anew, so it should be long.
CHUNK_SECONDS = {"once": 0.5, "layers": 4.0}

# A frame of mel; and a WAV cannot be longer than 4 GiB.
SHORTEST, MOST_HOURS = HOP / SAMPLE_RATE, 27

Span = tuple[int, int]


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Command line of the example, as ``--help`` describes it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--wav", type=Path, default=BUNDLED_CLIP, help="repeated; mono 22.05 kHz")
    parser.add_argument("--variant", choices=VARIANTS, default="v3", help="default: v3")
    parser.add_argument("--weights", type=Path, help="HiFi-GAN checkpoint of this variant")
    length = parser.add_mutually_exclusive_group()
    sound = at_least(SHORTEST / 3600, float, MOST_HOURS)
    length.add_argument("--hours", type=sound, help="of sound")
    sound = at_least(SHORTEST, float, 3600 * MOST_HOURS)
    length.add_argument("--seconds", type=sound, default=60.0, help="of sound; default: 60")
    parser.add_argument("--halo", choices=("once", "layers"), default="once", help="default: once")
    chunk_help = "of a rank at a time; default: 0.5, for layers 4"
    parser.add_argument("--chunk-seconds", type=at_least(SHORTEST, float, 3600), help=chunk_help)
    parser.add_argument("--out", type=Path, default=Path("build/distributed"))
    parser.add_argument("--report", type=Path, help="rank 0 writes the figures here, as JSON")
    parser.add_argument("--resume", action="store_true", help="go on where a run was ended")
    patience_help = "seconds without a chunk that end a rank"
    parser.add_argument("--patience", type=at_least(1, float, 1e6), help=patience_help)
    seed = at_least(0, int, 2**32)
    parser.add_argument("--seed", type=seed, default=0, help="of random weights")
    arguments = parser.parse_args(argv)
    seconds = 3600 * arguments.hours if arguments.hours else arguments.seconds
    arguments.frames = round(seconds * SAMPLE_RATE / HOP)
    chunk_seconds = arguments.chunk_seconds or CHUNK_SECONDS[arguments.halo]
    arguments.chunk = round(chunk_seconds * SAMPLE_RATE / HOP)
    return arguments


class Checks:
    """Keeps the samples around some places, and compares them with the whole at the end."""

    def __init__(self, rank: Rank, frames: int) -> None:
        self._rank = rank
        spans = [(max(0, p - CHECKED), min(frames, p + CHECKED)) for p in rank.places()]
        self._kept: dict[Span, list[tuple[int, Samples]]] = {span: [] for span in spans}

    def keep(self, first: int, samples: Samples) -> None:
        """What of these samples lies around a place."""
        for (start, stop), kept in self._kept.items():
            a, b = max(first, start * HOP), min(first + len(samples), stop * HOP)
            if a < b:
                kept.append((a, samples[a - first : b - first].copy()))

    def compare(self, generator: Generator) -> tuple[int, float]:
        """How many samples were compared, and by how much they differ at most."""
        n, apart = 0, 0.0
        for (start, stop), kept in self._kept.items():
            whole = self._rank.whole(generator, start, stop) if kept else None
            for first, samples in kept:
                at = first - start * HOP
                apart = max(apart, float(np.abs(samples - whole[at : at + len(samples)]).max()))
                n += len(samples)
        return n, apart


class Progress:
    """Where a rank is, in a file beside the sound, so that another run can go on from there."""

    def __init__(self, arguments: argparse.Namespace, group: Any) -> None:
        names = ("variant", "frames", "halo", "chunk", "seed", "weights", "wav")
        self._run = {name: str(getattr(arguments, name)) for name in names}
        self._run["ranks"] = str(group.size())
        self._path = arguments.out / f"rank{group.rank()}.json"
        self.done = self._read() if arguments.resume else 0
        if arguments.halo == "layers":  # all go on together
            counts = mx.distributed.all_gather(mx.array([self.done]), group=group)
            self.done = min(counts.tolist())

    def _read(self) -> int:
        try:
            found = json.loads(self._path.read_text())
        except (OSError, ValueError):
            return 0
        return int(found["done"]) if found["run"] == self._run else 0

    def write(self, done: int) -> None:
        """So much is in the sound file."""
        partial = self._path.with_suffix(".partial")
        partial.write_text(json.dumps({"run": self._run, "done": done}))
        partial.replace(self._path)


def gathered(report: dict[str, Any], group: Any) -> list[dict[str, Any]]:
    """The reports of all ranks."""
    data = json.dumps(report).encode().ljust(REPORT_BYTES)
    rows = mx.distributed.all_gather(mx.array(np.frombuffer(data, np.uint8))[None], group=group)
    return [json.loads(bytes(row)) for row in np.array(rows)]


def wait_for_all(group: Any) -> None:
    """Goes on when all ranks have come here."""
    mx.eval(mx.distributed.all_sum(mx.ones((group.size(),)), group=group))


def wait_no_longer(seconds: float | None) -> None:
    """Ends this process, and tells where it was, if it is not called again for so long."""
    if seconds:
        faulthandler.dump_traceback_later(seconds, exit=True)


def run(arguments: argparse.Namespace, group: Any, mel: Mel) -> dict[str, Any]:
    """Makes and writes this rank's part; tells of it."""
    path = arguments.out / "distributed.wav"
    if group.rank() == 0:
        arguments.out.mkdir(parents=True, exist_ok=True)
        create(path, arguments.frames * HOP)
    wait_for_all(group)
    rank, progress, part = Rank(arguments, group, mel), Progress(arguments, group), SoundPart(path)
    checks = Checks(rank, arguments.frames)
    mx.reset_peak_memory()
    n_samples, begin = 0, time.perf_counter()
    with distributed.traffic() as sent:
        wait_no_longer(arguments.patience)
        for done, first, samples in rank.chunks(progress.done):
            wait_no_longer(arguments.patience)
            part.write(first, samples)
            progress.write(done)
            checks.keep(first, samples)
            n_samples += len(samples)
    seconds = time.perf_counter() - begin
    faulthandler.cancel_dump_traceback_later()
    part.close()
    peak, rss = mx.get_peak_memory(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    compared, apart = checks.compare(make_generator(arguments))
    return {
        "rank": group.rank(),
        "seconds": seconds,
        "audio_seconds": n_samples / SAMPLE_RATE,
        "peak_bytes": peak,
        "rss_bytes": rss * (1 if sys.platform == "darwin" else 1024),
        "halo_bytes": sent.bytes_sent,
        "messages": sent.messages,
        "compared": compared,
        "apart": apart,
    }


def table(reports: list[dict[str, Any]]) -> str:
    """What each rank did, in words."""
    lines = []
    for it in reports:
        factor = it["seconds"] / it["audio_seconds"] if it["audio_seconds"] else float("nan")
        lines.append(
            f"rank {it['rank']}: {it['audio_seconds']:.1f} s of sound in {it['seconds']:.1f} s, "
            f"real-time factor {factor:.3f}; MLX peak {it['peak_bytes'] / 1e6:.0f} MB, "
            f"RSS {it['rss_bytes'] / 1e6:.0f} MB; sent {it['halo_bytes']:,} bytes of halo in "
            f"{it['messages']} messages; {it['compared']} samples at most {it['apart']:.1e} apart"
        )
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the example; returns the exit status."""
    arguments = parse_arguments(argv)
    # Several processes are told where the others are; `mlx.launch -n 1` tells of nobody.
    if (
        not os.environ.get("MLX_HOSTFILE")
        or not Path(os.environ["MLX_HOSTFILE"]).read_text().strip()
    ):
        os.environ.pop("MLX_HOSTFILE", None)
    group = mx.distributed.init(backend="ring", strict="MLX_HOSTFILE" in os.environ)
    try:
        mel = Mel(log_mel(read_speech(arguments.wav)))
        report = run(arguments, group, mel)
    except (OSError, ValueError) as error:
        print(f"distributed_vocoder: {reason(error)}", file=sys.stderr)
        return 1
    reports = gathered(report, group)
    if group.rank() == 0:
        print(table(reports), flush=True)
        if arguments.report:
            told = {"variant": arguments.variant, "halo": arguments.halo, "ranks": reports}
            told["frames"], told["chunk_frames"] = arguments.frames, arguments.chunk
            arguments.report.write_text(json.dumps(told, indent=1) + "\n")
    return 0 if max(each["apart"] for each in reports) <= TOLERANCE else 1


if __name__ == "__main__":
    sys.exit(main())
