"""What the layers of a HiFi-GAN generator send where a mel is cut, and what that costs, on paper.

Answers: how many samples around a cut does each layer exchange, how many mel frames does the whole
generator read around one, and what would many machines spend on it? Integers from the plan of
`polyconv.distributed` and rates that are assumed; nothing is computed or measured here.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from hifigan import VARIANTS, GeneratorConfig
from mel import HOP, SAMPLE_RATE

from polyconv.distributed.sharding import Sharding, read_by, sharded_axis
from polyconv.problem.spec import Axis

FLOAT = 4  # bytes


@dataclass(frozen=True)
class Layer:
    """One convolution of a generator.

    Args:
        name: as in a checkpoint.
        channels: in and out.
        kernel_size: taps.
        rate: input samples per mel frame.
        stride: output samples per input sample, above 1 for upsampling layers.
        dilation: samples from tap to tap.
        padding: of the layer as it is called.
    """

    name: str
    channels: tuple[int, int]
    kernel_size: int
    rate: int
    stride: int = 1
    dilation: int = 1
    padding: int = 0

    def axis(self, frames: int) -> Axis:
        """The convolution that it is, of so many mel frames."""
        lo = self.padding
        if self.stride > 1:
            lo = self.kernel_size - 1 - self.padding
        kept = (frames * self.rate, self.kernel_size, 1, self.stride, self.dilation)
        return Axis(*kept, lo, lo)

    @property
    def macs(self) -> int:
        """Multiply-accumulates for one mel frame."""
        return self.rate * self.kernel_size * self.channels[0] * self.channels[1]

    def halo(self) -> tuple[int, int]:
        """Samples that a piece needs from the one before it and from the one behind it."""
        size = 1000
        cut = sharded_axis(self.axis(3 * size), Sharding.even(3 * size * self.rate, 3))
        start, stop = cut.exchange.spans[1]
        return size * self.rate - start, stop - 2 * size * self.rate

    @property
    def halo_bytes(self) -> int:
        """Bytes that cross one cut, both ways together, in float32."""
        return sum(self.halo()) * self.channels[0] * FLOAT


Chain = tuple[Layer, ...]


def stages(config: GeneratorConfig) -> Iterator[tuple[Chain, ...]]:
    """The generator from mel to sound: chains of layers, those of a stage beside each other."""
    width, rate = config.upsample_initial_channel, 1
    yield ((Layer("conv_pre", (config.num_mels, width), 7, 1, padding=3),),)
    ups = zip(config.upsample_rates, config.upsample_kernel_sizes)
    for i, (stride, kernel) in enumerate(ups):
        channels, pad = (width, width // 2), (kernel - stride) // 2
        yield ((Layer(f"ups.{i}", channels, kernel, rate, stride, padding=pad),),)
        width, rate = width // 2, rate * stride
        blocks = zip(config.resblock_kernel_sizes, config.resblock_dilation_sizes)
        n = len(config.resblock_kernel_sizes)
        yield tuple(
            tuple(_block(config, f"resblocks.{i * n + j}", width, rate, k, dilations))
            for j, (k, dilations) in enumerate(blocks)
        )
    yield ((Layer("conv_post", (width, 1), 7, rate, padding=3),),)


def _block(
    config: GeneratorConfig, name: str, width: int, rate: int, kernel: int, dilations: Chain
) -> Iterator[Layer]:
    both = config.resblock == 1
    for i, dilation in enumerate(dilations):
        padding = dilation * (kernel - 1) // 2
        first = f"{name}.convs1.{i}" if both else f"{name}.convs.{i}"
        yield Layer(first, (width, width), kernel, rate, 1, dilation, padding)
        if both:
            second = f"{name}.convs2.{i}"
            yield Layer(second, (width, width), kernel, rate, padding=(kernel - 1) // 2)


def layers(config: GeneratorConfig) -> list[Layer]:
    """All of them, in the order in which they are called."""
    return [layer for stage in stages(config) for chain in stage for layer in chain]


def margins(config: GeneratorConfig) -> tuple[int, int]:
    """Mel frames that the sound of a piece of mel depends on, before it and behind it."""
    frames = 1000
    span = (frames * HOP, 2 * frames * HOP)
    for stage in reversed(list(stages(config))):
        reads = []
        for chain in stage:
            inner = span
            for layer in reversed(chain):
                inner = read_by(layer.axis(3 * frames), inner) or inner
            reads.append(inner)
        span = min(a for a, _ in reads), max(b for _, b in reads)
    return frames - span[0], span[1] - 2 * frames


@dataclass(frozen=True)
class Link:
    """A connection between neighbours; both numbers are assumed."""

    name: str
    bytes_per_second: float
    latency: float


LINKS = (
    Link("1 GbE", 0.11e9, 100e-6),
    Link("10 GbE", 1.1e9, 50e-6),
    Link("Thunderbolt ring", 4e9, 30e-6),
)
MACHINES = {"10 GMAC/s": 10e9, "1 TMAC/s": 1e12, "10 TMAC/s": 10e12}


@dataclass(frozen=True)
class Scaling:
    """One hour, say, on so many machines of a rate, by halos of each layer, or one of the mel.

    A layer's halo costs two messages one behind the other at each end, at worst four latencies;
    that of the mel the same, once, and the margins are computed twice.
    """

    config: GeneratorConfig
    seconds: float
    machines: int
    macs_per_second: float
    link: Link

    @property
    def frames(self) -> int:
        return round(self.seconds * SAMPLE_RATE / HOP)

    @property
    def macs_per_frame(self) -> int:
        return sum(layer.macs for layer in layers(self.config))

    @property
    def compute(self) -> float:
        """Seconds of a machine for its piece alone."""
        share = -(-self.frames // self.machines)
        return share * self.macs_per_frame / self.macs_per_second

    @property
    def by_layers(self) -> float:
        """Seconds of exchanging the halo of each layer."""
        if self.machines == 1:
            return 0.0
        moved = 2 * sum(layer.halo_bytes for layer in layers(self.config))
        waits = 4 * len(layers(self.config)) * self.link.latency
        return moved / self.link.bytes_per_second + waits

    @property
    def once(self) -> float:
        """Seconds of exchanging mel frames once, and of computing the margins."""
        if self.machines == 1:
            return 0.0
        margin = sum(margins(self.config))
        moved = 2 * margin * self.config.num_mels * FLOAT
        recomputed = margin * self.macs_per_frame / self.macs_per_second
        return moved / self.link.bytes_per_second + 4 * self.link.latency + recomputed

    def efficiency(self, extra: float) -> float:
        """The share of the time that is spent on what one machine would have computed."""
        return self.compute / (self.compute + extra)


def largest(scaling: Scaling, way: str, efficiency: float = 0.5) -> int:
    """The most machines that spend that share of their time on their own pieces.

    As long as a piece is no shorter than what is sent of it: then messages go to neighbours alone.
    """
    reads = [-(-max(layer.halo()) // layer.rate) for layer in layers(scaling.config)]
    most = max(margins(scaling.config)) if way == "once" else max(reads)
    low, high = 1, scaling.frames // most
    while low < high:
        middle = (low + high + 1) // 2
        more = Scaling(scaling.config, scaling.seconds, middle, *_rest(scaling))
        if more.efficiency(getattr(more, way)) >= efficiency:
            low = middle
        else:
            high = middle - 1
    return low


def _rest(scaling: Scaling) -> tuple[float, Link]:
    return scaling.macs_per_second, scaling.link


def halo_table(config: GeneratorConfig) -> str:
    """A row per upsampling layer, and one for the residual blocks of a stage."""
    rows: dict[tuple[str, int], list[Layer]] = {}
    for layer in layers(config):
        kind = "resblocks" if layer.name.startswith("resblocks") else layer.name
        rows.setdefault((kind, layer.rate), []).append(layer)
    lines = [
        "| layers | number | channels | samples a frame | before | behind | bytes a cut |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for (kind, rate), same in rows.items():
        halos = [layer.halo() for layer in same]
        before, behind = [_range([halo[i] for halo in halos]) for i in (0, 1)]
        n_bytes = sum(layer.halo_bytes for layer in same)
        told = (kind, len(same), same[0].channels[0], rate, before, behind)
        lines.append("| `{}` | {} | {} | {} | {} | {} | {:,} |".format(*told, n_bytes))
    total = sum(layer.halo_bytes for layer in layers(config))
    lines.append(f"| all | {len(layers(config))} | | | | | {total:,} |")
    return "\n".join(lines) + "\n"


def _range(values: list[int]) -> str:
    return f"{min(values)}" if len(set(values)) == 1 else f"{min(values)} to {max(values)}"


def scaling_table(config: GeneratorConfig, seconds: float, machines: int) -> str:
    """What so many machines would spend, by their rate and link."""
    lines = [
        "| a machine | link | its piece | halos of layers | efficiency | one halo of mel "
        "| efficiency | half efficient at: layers, mel |",
        "|---|---|---:|---:|---:|---:|---:|---:|",
    ]
    for told, rate in MACHINES.items():
        for link in LINKS:
            it = Scaling(config, seconds, machines, rate, link)
            most = [largest(it, way) for way in ("by_layers", "once")]
            lines.append(
                f"| {told} | {link.name} | {_time(it.compute)} | {_time(it.by_layers)} "
                f"| {it.efficiency(it.by_layers):.1%} | {_time(it.once)} "
                f"| {it.efficiency(it.once):.1%} | {most[0]:,}, {most[1]:,} |"
            )
    return "\n".join(lines) + "\n"


def _time(seconds: float) -> str:
    return f"{seconds:.3g} s" if seconds >= 1 else f"{1e3 * seconds:.3g} ms"


if __name__ == "__main__":
    for name, config in VARIANTS.items():
        print(name, "margins", margins(config), "MACs a frame", sum(x.macs for x in layers(config)))
    print(halo_table(VARIANTS["v1"]))
    print(scaling_table(VARIANTS["v1"], 3600, 64))
