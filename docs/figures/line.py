"""One axis: a transposed convolution as it is defined, as two phases, and their weaving."""

from __future__ import annotations

from typing import NamedTuple

from ink import INK, PAPER, PHASES, ZERO, cell, new_figure, note
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from polyconv.planning.axis_methods import stacked_axis
from polyconv.problem.phases import split
from polyconv.problem.spec import Axis

STRIDE, KERNEL, PADDING, SIZE = 2, 4, 1, 4
LO = KERNEL - 1 - PADDING
AXIS = Axis(SIZE, KERNEL, input_dilation=STRIDE, padding_lo=LO, padding_hi=LO)


class Output(NamedTuple):
    """An output, with its phase and the `(tap, sample)` pairs it sums, those of padding too."""

    t: int
    phase: int
    pairs: tuple[tuple[int, int], ...]

    def met(self, size: int) -> list[tuple[int, int]]:
        return [(tap, sample) for tap, sample in self.pairs if 0 <= sample < size]

    def formula(self, size: int) -> str:
        products = [f"w{tap} x{sample}" for tap, sample in self.met(size)]
        return f"y{self.t} = {' + '.join(products)}"


def outputs(axis: Axis) -> list[Output]:
    """Every output of a transposed convolution (stride 1 on the dilated input), from `split`."""
    found = []
    for phase in split(axis):
        for t in range(phase.residue, axis.output_size, axis.input_dilation):
            start = t // axis.input_dilation - phase.padding_lo
            pairs = tuple((tap, start + j) for j, tap in enumerate(phase.taps))
            found.append(Output(t, phase.residue, pairs))
    return sorted(found)


def phases_figure() -> Figure:
    """All products of the definition, and those that are left."""
    figure, (above, below) = new_figure(6, 5.2, rows=2)
    for i in range(AXIS.dilated_size):
        real = i % STRIDE == 0
        cell(above, i, 2.4, f"x{i // STRIDE}" if real else "0", INK if real else ZERO, real)
    for i in range(SIZE):
        cell(below, STRIDE * i, 2.4, f"x{i}", INK)
    for output in outputs(AXIS):
        for axes in (above, below):
            cell(axes, output.t - 0.5, 0, f"y{output.t}", PHASES[output.phase])
        met = dict(output.met(SIZE))
        for tap in range(KERNEL):
            at = output.t + tap - LO
            if tap in met:
                assert at == STRIDE * met[tap]
                _wire(above, output.t - 0.5, at, PHASES[output.phase], tap)
                _wire(below, output.t - 0.5, at, PHASES[output.phase], tap)
            elif 0 <= at < AXIS.dilated_size:
                _wire(above, output.t - 0.5, at, ZERO, tap)
    above.set_title("As defined: zeros between the samples", color=INK)
    below.set_title("As computed: two phases, no zeros", color=INK)
    return figure


def _wire(axes: Axes, x0: float, x1: float, colour: str, tap: int) -> None:
    """From output x0 up to sample x1; long wires are labelled low, short ones above them."""
    axes.plot([x0, x1], [0.31, 2.09], color=colour, lw=1.2, zorder=0)
    where = 0.2 if abs(x1 - x0) > 1 else 0.47
    box = {"facecolor": PAPER, "edgecolor": "none", "pad": 0.5}
    at = x0 + where * (x1 - x0), 0.31 + where * 1.78
    note(axes, *at, f"w{tap}", colour, fontsize=9, bbox=box)


def weaving_figure() -> Figure:
    """Two outputs interleaved; and both as channels of one convolution, which lie right already."""
    figure, (above, below) = new_figure(6, 4.9, rows=2)
    n_frames = AXIS.output_size // STRIDE
    for output in outputs(AXIS):
        x = (n_frames + 0.8) * output.phase + output.t // STRIDE - 0.4
        colour = PHASES[output.phase]
        cell(above, x, 2.2, f"y{output.t}", colour)
        above.plot([x, output.t], [1.89, 0.31], color=colour, lw=1.2, zorder=0)
        cell(above, output.t, 0, f"y{output.t}", colour)
    for phase in split(AXIS):
        taps = ", ".join(f"w{tap}" for tap in phase.taps)
        x = (n_frames + 0.8) * phase.residue + (n_frames - 1) / 2 - 0.4
        note(above, x, 2.9, f"x by ({taps})", PHASES[phase.residue])
    note(above, 3.5, 3.8, "per_phase: two convolutions, interleaved", fontsize=13)
    _stacked(below)
    return figure


def frames(axis: Axis) -> list[tuple[range, range]]:
    """The samples that each frame of `stacked` reads, and the outputs that it makes."""
    plan = stacked_axis(axis)
    (block,) = plan.blocks
    found = []
    for m in range(plan.n_frames):
        first, t = m - block.axis.padding_lo, plan.n_phases * m - plan.crop_lo
        found.append((range(first, first + block.axis.kernel_size), range(t, t + plan.n_phases)))
    return found


def _stacked(axes: Axes) -> None:
    """Frame by frame: the window of samples, the two outputs of it, and that this is the order."""
    for m, (samples, made) in enumerate(frames(AXIS)):
        x = 2.1 * m
        for u, sample in enumerate(samples):
            inside = 0 <= sample < SIZE
            at = x - 0.45 + 0.9 * u
            cell(axes, at, 2.2, f"x{sample}" if inside else "0", INK if inside else ZERO, inside)
        axes.annotate(
            "", (x, 0.45), (x, 1.8), arrowprops={"arrowstyle": "-|>", "color": ZERO, "lw": 1.4}
        )
        for r, t in enumerate(made):
            kept = 0 <= t < AXIS.output_size
            at = x - 0.45 + 0.9 * r
            colour = PHASES[t % STRIDE] if kept else ZERO
            cell(axes, at, 0, f"y{t}" if kept else "", colour, kept, dashed=not kept)
        note(axes, x, -0.75, f"frame {m}", ZERO, fontsize=10)
    axes.set_title("stacked: one convolution with two outputs a frame", color=INK)


def steps_figure() -> tuple[Figure, str]:
    """Output after output: which taps meet which samples. With its animation, as CSS.

    Without animation, or where a reader wants no motion, one step and all outputs are shown.
    """
    figure, (axes,) = new_figure(6, 4.3)
    found = outputs(AXIS)
    note(axes, 3, 6.8, "As defined: four taps slide over samples and zeros", fontsize=13)
    note(axes, 3, 4.1, "As computed: two phases slide over the samples alone", fontsize=13)
    for at in range(-LO, AXIS.dilated_size + LO):
        inside, real = 0 <= at < AXIS.dilated_size, at % STRIDE == 0
        is_sample, colour = inside and real, INK if inside and real else ZERO
        text = f"x{at // STRIDE}" if is_sample else "0"
        cell(axes, at, 6, text, colour, is_sample, dashed=not inside)
        if real:
            cell(axes, at, 3.3, text, colour, is_sample, dashed=not inside)
    for output in found:
        _step(axes, output)
        # The other phase waits where it was, or where it will begin.
        others = [other for other in found if other.phase != output.phase]
        _waiting(axes, max([o for o in others if o.t < output.t], default=others[0]), output.t)
        colour, x = PHASES[output.phase], output.t - 0.5
        cell(axes, x, -0.3, f"y{output.t}", colour, filled=False)
        cell(axes, x, -0.3, f"y{output.t}", colour, gid=f"out{output.t}")
    return figure, _animation(len(found))


def _step(axes: Axes, output: Output) -> None:
    gid, colour = f"step{output.t}", PHASES[output.phase]
    met = [tap for tap, _ in output.met(SIZE)]
    for tap in range(KERNEL):
        shown = colour if tap in met else ZERO
        cell(axes, output.t + tap - LO, 5.2, f"w{tap}", shown, tap in met, gid=gid)
    for tap, sample in output.pairs:
        shown = colour if tap in met else ZERO
        cell(axes, STRIDE * sample, 2.5 - 0.8 * output.phase, f"w{tap}", shown, tap in met, gid=gid)
    label = axes.text(
        3, 0.65, output.formula(SIZE), ha="center", va="center", color=colour, fontsize=14
    )
    label.set_gid(f"{gid}-formula")


def _waiting(axes: Axes, output: Output, t: int) -> None:
    """The phase that is not at work in step t."""
    y, colour = 2.5 - 0.8 * output.phase, PHASES[output.phase]
    for tap, sample in output.pairs:
        cell(axes, STRIDE * sample, y, f"w{tap}", colour, filled=False, gid=f"step{t}")


def _animation(n: int, seconds: float = 1.6, still: int = 3) -> str:
    """Each step visible for its share of a cycle; outputs from theirs on."""
    cycle, share = n * seconds, 100 / n
    rules = [f'[id^="step"] {{ opacity: 0; }} [id^="step{still}-"] {{ opacity: 1; }}']
    rules.append("@media (prefers-reduced-motion: no-preference) {")
    rules.append(f"@keyframes step {{ 0% {{ opacity: 1; }} {share:g}%, 100% {{ opacity: 0; }} }}")
    for t in range(n):
        delay = t * seconds - cycle
        rules.append(
            f'[id^="step{t}-"] {{ animation: step {cycle:g}s step-end {delay:g}s infinite; }}'
        )
        rules.append(
            f"@keyframes out{t} {{ 0% {{ opacity: {int(t == 0)}; }} "
            f"{t * share:g}%, 100% {{ opacity: 1; }} }}\n"
            f'[id^="out{t}-"] {{ animation: out{t} {cycle:g}s step-end infinite; }}'
        )
    return "\n".join([*rules, "}", ""])
