"""Sums of matrix products, one per tap: the `taps` method.

Nothing is unfolded: each product reads the input where it lies, shifted.
Letters in shape comments: N batch, D padded input, M frames, R phases of a block, G groups, O and C
output and input channels, T taps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import product
from math import prod
from typing import NamedTuple, TypeAlias

import mlx.core as mx

from polyconv.execution.arrays import plus_product
from polyconv.execution.convolve import Padding, padding_of
from polyconv.execution.recipe import Recipe
from polyconv.execution.weaving import to_frames
from polyconv.planning.plan import ConvPlan, SubConv
from polyconv.problem.spec import ConvSpec

# Takes the input and the taps of all subconvs, one after the other, as `cutter` makes them.
Multiply: TypeAlias = "Callable[[mx.array, Sequence[mx.array]], list[mx.array]]"


def products(plan: ConvPlan) -> tuple[Multiply, list[Recipe]]:
    """The function that multiplies, and a recipe for what it returns for each subconv.

    The recipe leads to `(N, M1, R1, M2, R2, ..., G, O / G)`.
    """
    if plan.products == "scaled":
        return _scaled(plan)
    multiply, recipes = (_flat if plan.products == "flat" else _gathered)(plan)
    for recipe, sub in zip(recipes, plan.subconvs, strict=True):
        to_frames(recipe, sub, plan)
    return multiply, recipes


class Lines(NamedTuple):
    """The padded input of a plan as one matrix `(N * prod(D), C)`, and where taps read it.

    Tap t of a subconv reads `rows` rows from row `shifts[t]` on, one for each frame. All subconvs
    share the padded input. A row behind the last frame of a line belongs to no frame. For the last
    taps the matrix needs rows behind its end: none in one line, one line more in one picture, one
    item more in a batch. `sizes` are those of a subconv's frames with such rows, `(N, *D)`.
    """

    padding: Padding
    widths: list[tuple[int, int]]
    sizes: tuple[int, ...]
    inner: tuple[int, ...]
    rows: int
    shifts: list[list[int]]


def lines_of(plan: ConvPlan) -> Lines:
    """The lines of a plan whose frames advance by one sample."""
    subs, spec = plan.subconvs, plan.problem
    lo, hi = _outermost([padding_of(sub.spec) for sub in subs])
    inner = tuple([axis.size + a + b for axis, a, b in zip(spec.axes, lo, hi, strict=True)])
    steps = [prod(inner[i + 1 :]) for i in range(spec.ndim)]
    shifts = [_shifts(sub.spec, lo, steps) for sub in subs]
    last = max([each[-1] for each in shifts])
    n_lines, widths = inner[0], [(0, 0), *zip(lo, hi, strict=True), (0, 0)]
    if spec.batch == 1:
        n_lines = subs[0].spec.output_sizes[0]
        missing = (n_lines - inner[0]) * steps[0] + last
        widths[1] = (lo[0], hi[0] + max(0, -(-missing // steps[0])))
    elif last:
        widths[0] = (0, -(-last // prod(inner)))
    sizes = (spec.batch, n_lines, *inner[1:])
    return Lines((lo, hi), widths, sizes, inner, prod(sizes), shifts)


def _flat(plan: ConvPlan) -> tuple[Multiply, list[Recipe]]:
    """Products of the padded input as one matrix, rows shifted from tap to tap.

    What is computed for rows that belong to no frame is cropped.
    """
    lines, frames = lines_of(plan), plan.subconvs[0].spec.output_sizes
    matrix = Recipe(input_shape(plan.problem)).pad(lines.widths)
    matrix.reshape(-1, plan.problem.in_channels)
    whole = matrix.shape[0]
    reads = [[slice(shift, shift + lines.rows) for shift in each] for each in lines.shifts]
    recipes = []
    for sub in plan.subconvs:
        recipe = Recipe((lines.rows, sub.spec.out_channels))
        recipe.reshape(*lines.sizes, sub.spec.out_channels)
        for i, size in enumerate(frames):
            recipe.cut(1 + i, 0, size)
        recipes.append(recipe)
    flat = matrix.made()

    def multiply(x: mx.array, taps: Sequence[mx.array]) -> list[mx.array]:
        x, rest = flat(x), iter(taps)
        return [sum_of_products([x[rows] for rows in each], rest) for each in reads]

    def multiply_whole(x: mx.array, taps: Sequence[mx.array]) -> list[mx.array]:
        x, rest = flat(x), iter(taps)
        return [sum_of_products([x] * len(each), rest) for each in reads]

    return multiply if lines.rows < whole else multiply_whole, recipes


def _gathered(plan: ConvPlan) -> tuple[Multiply, list[Recipe]]:
    """Products of copies of what each tap reads, group by group."""
    groups = plan.problem.groups
    read = reader(plan, as_matrix if groups == 1 else as_matrices)
    recipes = []
    for sub in plan.subconvs:
        spec = sub.spec
        rows = spec.batch * prod(spec.output_sizes)
        if groups == 1:
            recipe = Recipe((rows, spec.out_channels))
        else:
            recipe = Recipe((groups, rows, spec.out_channels // groups)).transpose(1, 0, 2)
        recipes.append(recipe.reshape(spec.batch, *spec.output_sizes, spec.out_channels))

    def multiply(x: mx.array, taps: Sequence[mx.array]) -> list[mx.array]:
        rest = iter(taps)
        return [sum_of_products(reads, rest) for reads in read(x)]

    return multiply, recipes


def _scaled(plan: ConvPlan) -> tuple[Multiply, list[Recipe]]:
    """Sums of scaled inputs, for groups of one input channel. No matrix is multiplied.

    The sums are in the order of the output already: `(N, M1, R1, M2, R2, ..., G, O / G)`.
    """
    read = reader(plan, between_phases)

    def multiply(x: mx.array, taps: Sequence[mx.array]) -> list[mx.array]:
        rest = iter(taps)
        return [_sum_of_scaled(reads, rest) for reads in read(x)]

    return multiply, [Recipe(frames_shape(sub)) for sub in plan.subconvs]


def _sum_of_scaled(reads: Iterable[mx.array], taps: Iterable[mx.array]) -> mx.array:
    total: mx.array | None = None
    for read, tap in zip(reads, taps):
        total = read * tap if total is None else total + read * tap
    assert total is not None
    return total


def _outermost(paddings: list[Padding]) -> Padding:
    lo, hi = [tuple(map(max, zip(*each, strict=True))) for each in zip(*paddings, strict=True)]
    return lo, hi


def _shifts(spec: ConvSpec, lo: tuple[int, ...], steps: list[int]) -> list[int]:
    """The first row that each tap reads of an input padded by `lo`, in rising order."""
    return [
        sum(
            (lo[i] - axis.padding_lo + tap * axis.kernel_dilation) * steps[i]
            for i, (tap, axis) in enumerate(zip(taps, spec.axes, strict=True))
        )
        for taps in taps_of(spec)
    ]


def sum_of_products(lefts: Iterable[mx.array], rights: Iterable[mx.array]) -> mx.array:
    """`sum_t lefts[t] @ rights[t]`, each product added to the sum before it."""
    pairs = zip(lefts, rights)
    left, right = next(pairs)
    total = left @ right
    for left, right in pairs:
        total = plus_product(total, left, right)
    return total


def taps_of(spec: ConvSpec) -> list[tuple[int, ...]]:
    return list(product(*[range(axis.kernel_size) for axis in spec.axes]))


def input_shape(spec: ConvSpec) -> tuple[int, ...]:
    """`(N, *S, C)`."""
    return (spec.batch, *[axis.size for axis in spec.axes], spec.in_channels)


def frames_shape(sub: SubConv) -> tuple[int, ...]:
    """`(N, M1, R1, M2, R2, ..., G, O / G)`."""
    spec = sub.spec
    sizes = [n for pair in zip(spec.output_sizes, sub.n_phases, strict=True) for n in pair]
    per_group = spec.out_channels // prod(sub.n_phases) // spec.groups
    return (spec.batch, *sizes, spec.groups, per_group)


def reader(
    plan: ConvPlan, form: Callable[[Recipe, ConvSpec], Recipe]
) -> Callable[[mx.array], list[list[mx.array]]]:
    """A function of the input: what each tap of each subconv reads, in the shape of `form`.

    The input is padded once for all subconvs of the same padding.
    """
    paddings = [padding_of(sub.spec) for sub in plan.subconvs]
    padded, shapes = {}, {}
    for lo, hi in dict.fromkeys(paddings):
        recipe = Recipe(input_shape(plan.problem))
        recipe.pad([(0, 0), *zip(lo, hi, strict=True), (0, 0)])
        padded[lo, hi], shapes[lo, hi] = recipe.made(), recipe.shape
    steps = []
    for padding, sub in zip(paddings, plan.subconvs, strict=True):
        reads = [_read(shapes[padding], sub.spec, tap) for tap in taps_of(sub.spec)]
        steps.append((padding, [form(each, sub.spec).made() for each in reads]))

    def read(x: mx.array) -> list[list[mx.array]]:
        inputs = {padding: pad(x) for padding, pad in padded.items()}
        return [[step(inputs[padding]) for step in each] for padding, each in steps]

    return read


def _read(shape: Sequence[int], spec: ConvSpec, indices: tuple[int, ...]) -> Recipe:
    """The samples of the padded input that a tap reads, `(N, *M, C)`."""
    recipe = Recipe(shape)
    for i, (axis, tap) in enumerate(zip(spec.axes, indices, strict=True)):
        start = tap * axis.kernel_dilation
        stop = start + (axis.output_size - 1) * axis.stride + 1
        recipe.cut(1 + i, start, stop, axis.stride)
    return recipe


def as_matrix(recipe: Recipe, spec: ConvSpec) -> Recipe:
    """`(N * prod(M), C)`."""
    return recipe.reshape(-1, spec.in_channels)


def as_matrices(recipe: Recipe, spec: ConvSpec) -> Recipe:
    """`(G, N * prod(M), C / G)`."""
    return recipe.reshape(-1, spec.groups, spec.in_channels // spec.groups).transpose(1, 0, 2)


def between_phases(recipe: Recipe, spec: ConvSpec) -> Recipe:
    """`(N, M1, 1, M2, 1, ..., G, 1)`, of one input channel in each group."""
    frames = [size for m in recipe.shape[1:-1] for size in (m, 1)]
    return recipe.reshape(spec.batch, *frames, spec.groups, 1)
