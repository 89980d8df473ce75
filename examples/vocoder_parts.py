"""What each process of the distributed vocoder computes: its part of the sound, chunk by chunk.

Answers: which mel frames does a process make, which does it get from others, and which samples come
of them? In one of two ways: a stream through its part, after one exchange of mel frames, or all
processes on one stretch at a time, with an exchange in each layer.
"""

from __future__ import annotations

import argparse
import functools
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from checkpoint import load_checkpoint
from hifigan import VARIANTS, Generator, PolyConv1d, seed_weights
from mel import HOP
from mlx.utils import tree_unflatten
from numpy.typing import NDArray
from vocoder_halos import margins

import polyconv
from polyconv import distributed
from polyconv.distributed import Sharding

Samples = NDArray[np.float32]


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

    @functools.cached_property
    def _stream(self) -> Any:
        """A stream of the generator, prepared once."""
        return polyconv.stream(make_generator(self._arguments))

    @functools.cached_property
    def _pieces(self) -> tuple[Generator, Pieces]:
        """The generator with layers of pieces, prepared once."""
        generator = make_generator(self._arguments)
        return generator, in_pieces(generator)

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
        stream = self._stream
        stream.reset_state()
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
        generator, pieces = self._pieces
        rank, frames = self._group.rank(), self.sharding.size
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


def make_generator(arguments: argparse.Namespace) -> Generator:
    """With the weights of the checkpoint, or the same random ones on all ranks."""
    generator = Generator(VARIANTS[arguments.variant], polyconv.PolyConvTranspose1d, PolyConv1d)
    if arguments.weights:
        load_checkpoint(generator, arguments.weights)
    else:
        seed_weights(generator, arguments.seed)
    mx.eval(generator.parameters())
    return generator
