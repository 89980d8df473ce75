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
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from checkpoint import load_checkpoint
from hifigan import VARIANTS, Generator, PolyConv1d, seed_weights
from mel import HOP, SAMPLE_RATE, log_mel
from mlx.utils import tree_unflatten
from numpy.typing import NDArray
from sound_file import SoundPart, create
from speech import read_speech
from vocoder_halos import margins

import polyconv
from polyconv import distributed
from polyconv.distributed import Sharding

BUNDLED_CLIP = Path(__file__).resolve().parent / "data" / "speech.wav"
# Frames on each side of a place that are compared with the generator called on a window around it.
CHECKED = 8
# Sums of float32 in another order: what pieces may differ by from the whole.
TOLERANCE = 1e-4
REPORT_BYTES = 2048
# A stretch computes the margins at its ends anew, so it should be long.
CHUNK_SECONDS = {"once": 0.5, "layers": 4.0}

Samples = NDArray[np.float32]
Span = tuple[int, int]


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Command line of the example, as ``--help`` describes it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--wav", type=Path, default=BUNDLED_CLIP, help="repeated; mono 22.05 kHz")
    parser.add_argument("--variant", choices=VARIANTS, default="v3", help="default: v3")
    parser.add_argument("--weights", type=Path, help="HiFi-GAN checkpoint of this variant")
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--hours", type=float, help="of sound")
    length.add_argument("--seconds", type=float, default=60.0, help="of sound; default: 60")
    parser.add_argument("--halo", choices=("once", "layers"), default="once", help="default: once")
    chunk_help = "of a rank at a time; default: 0.5, for layers 4"
    parser.add_argument("--chunk-seconds", type=float, help=chunk_help)
    parser.add_argument("--out", type=Path, default=Path("build/distributed"))
    parser.add_argument("--report", type=Path, help="rank 0 writes the figures here, as JSON")
    parser.add_argument("--resume", action="store_true", help="go on where a run was ended")
    parser.add_argument("--patience", type=float, help="seconds without a chunk that end a rank")
    parser.add_argument("--seed", type=int, default=0, help="of random weights")
    arguments = parser.parse_args(argv)
    seconds = 3600 * arguments.hours if arguments.hours else arguments.seconds
    arguments.frames = round(seconds * SAMPLE_RATE / HOP)
    chunk_seconds = arguments.chunk_seconds or CHUNK_SECONDS[arguments.halo]
    arguments.chunk = round(chunk_seconds * SAMPLE_RATE / HOP)
    if arguments.frames < 1 or arguments.chunk < 1:
        parser.error("the sound and a chunk must be as long as a frame of mel, 12 ms, at least")
    return arguments


class Mel:
    """A clip's mel, repeated; any part of it is made when it is asked for."""

    def __init__(self, clip: NDArray[np.float32]) -> None:
        self._clip = clip

    def part(self, start: int, stop: int) -> mx.array:
        """Frames ``(1, stop - start, 80)``."""
        return mx.array(self._clip[np.arange(start, stop) % len(self._clip)])[None]


class Pieces:
    """How the signal is cut, from layer to layer; all layers of a generator share one."""

    sharding: Sharding | None = None


class InPieces(nn.Module):
    """A layer of a generator whose input is a piece, with its weight cut up once."""

    def __init__(self, layer: nn.Module, pieces: Pieces) -> None:
        super().__init__()
        self._weight, self._bias = polyconv.pack(layer.weight), layer.bias
        options = {name: getattr(layer, name) for name in ("stride", "padding", "dilation")}
        up = isinstance(layer, nn.ConvTranspose1d)
        self._call = distributed.conv_transpose1d if up else distributed.conv1d
        self._options, self._pieces = options, pieces

    def __call__(self, x: mx.array) -> mx.array:
        sharding = self._pieces.sharding
        y, self._pieces.sharding = self._call(x, self._weight, sharding=sharding, **self._options)
        return y + self._bias


def in_pieces(generator: Generator) -> Pieces:
    """Exchanges every convolution of a generator for one of a piece."""
    pieces = Pieces()
    leaves = [
        (path, InPieces(layer, pieces))
        for path, layer in generator.named_modules()
        if isinstance(layer, (nn.Conv1d, nn.ConvTranspose1d))
    ]
    generator.update_modules(tree_unflatten(leaves))
    return pieces


class Rank:
    """What one process makes: its part of the sound, chunk by chunk.

    Args:
        arguments: the command line.
        group: all processes.
        mel: any frames of it.
    """

    def __init__(self, arguments: argparse.Namespace, group: Any, mel: Mel) -> None:
        self._arguments, self._group, self._mel = arguments, group, mel
        self._margin = max(margins(VARIANTS[arguments.variant]))
        self.sharding = Sharding.even(arguments.frames, group.size())
        # All ranks together, at a time.
        self._stretch = group.size() * arguments.chunk

    def chunks(self, done: int) -> Iterator[tuple[int, int, Samples]]:
        """Sound as it is made: what will then be done, the place of the first sample, samples.

        Args:
            done: frames of this rank's part, or stretches of all ranks, that were made before.
        """
        once = self._arguments.halo == "once"
        return self._streamed(done) if once else self._in_stretches(done)

    def _streamed(self, done: int) -> Iterator[tuple[int, int, Samples]]:
        """This rank's part, and the margins around it, through a stream."""
        own, stop = self.sharding.spans[self._group.rank()]
        before, behind = self._halos()
        start = min(own + done, stop)
        lead = self._mel.part(max(own, start - self._margin), start)
        lead = mx.concatenate([before, lead], 1)[:, -self._margin :]
        stream = polyconv.stream(make_generator(self._arguments))
        at = (start - lead.shape[1]) * HOP
        for chunk in self._inputs(lead, start, stop, behind):
            y = np.array((stream.flush() if chunk is None else stream.step(chunk))[0, :, 0])
            first, last = max(at, start * HOP), min(at + len(y), stop * HOP)
            if first < last:
                yield last // HOP - own, first, y[first - at : last - at]
            at += len(y)

    def _inputs(
        self, lead: mx.array, start: int, stop: int, behind: mx.array
    ) -> Iterator[mx.array | None]:
        yield lead
        for at in range(start, stop, self._arguments.chunk):
            yield self._mel.part(at, min(at + self._arguments.chunk, stop))
        yield behind
        yield None

    def _halos(self) -> tuple[mx.array, mx.array]:
        """The frames before and behind this rank's part, from the ranks that have them.

        Only the ends of parts are made for it: a sequence of its own, with the same cuts.
        """
        margin, rank = self._margin, self._group.rank()
        start, stop = self.sharding.spans[rank]
        ends = Sharding.of_sizes([min(size, 2 * margin) for size in self.sharding.sizes])
        parts = [(start, stop)]
        if stop - start > 2 * margin:
            parts = [(start, start + margin), (stop - margin, stop)]
        held = mx.concatenate([self._mel.part(*part) for part in parts], 1)
        x = distributed.with_halo(held, ends, margin, margin, group=self._group)
        n = min(margin, ends.bounds[rank])
        return x[:, :n], x[:, n + held.shape[1] :]

    def _in_stretches(self, done: int) -> Iterator[tuple[int, int, Samples]]:
        """A stretch of all ranks after the other, in which each layer exchanges its halo."""
        generator = make_generator(self._arguments)
        pieces, rank, frames = in_pieces(generator), self._group.rank(), self.sharding.size
        for number in range(done, -(-frames // self._stretch)):
            start = number * self._stretch
            stop = min(start + self._stretch, frames)
            lead = max(0, start - self._margin)
            window = min(stop + self._margin, frames) - lead
            pieces.sharding = Sharding.even(window, self._group.size())
            part = [lead + bound for bound in pieces.sharding.spans[rank]]
            y = np.array(generator(self._mel.part(*part))[0, :, 0])
            at = lead * HOP + pieces.sharding.spans[rank][0]
            first, last = max(at, start * HOP), min(at + len(y), stop * HOP)
            yield number + 1, first, y[first - at : max(first, last) - at]

    def places(self) -> list[int]:
        """Frames at which what was made is compared: cuts between ranks and in between."""
        bounds = self.sharding.bounds
        if self._arguments.halo == "layers":
            window = min(self._stretch + self._margin, self.sharding.size)
            bounds = (*Sharding.even(window, self._group.size()).bounds[:-1], self._stretch)
        middles = [(a + b) // 2 for a, b in pairwise(bounds)]
        return sorted({*bounds, *middles})

    def whole(self, generator: Generator, start: int, stop: int) -> Samples:
        """The sound of frames, by the generator called on them and the margins around them."""
        first, last = max(0, start - self._margin), min(stop + self._margin, self.sharding.size)
        y = np.array(generator(self._mel.part(first, last))[0, :, 0])
        return y[(start - first) * HOP : (stop - first) * HOP]


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


def make_generator(arguments: argparse.Namespace) -> Generator:
    """With the weights of the checkpoint, or the same random ones on all ranks."""
    generator = Generator(VARIANTS[arguments.variant], polyconv.PolyConvTranspose1d, PolyConv1d)
    if arguments.weights:
        load_checkpoint(generator, arguments.weights)
    else:
        seed_weights(generator, arguments.seed)
    mx.eval(generator.parameters())
    return generator


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
        for done, first, samples in rank.chunks(progress.done):
            if arguments.patience:
                faulthandler.dump_traceback_later(arguments.patience, exit=True)
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
        print(error, file=sys.stderr)
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
