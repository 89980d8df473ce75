"""A recipe moves what NumPy moves, in no more steps than it takes."""

import random

import mlx.core as mx
import numpy as np
import pytest

from polyconv.execution.recipe import Recipe


def drawn_step(rng, recipe, expected):
    """One more step of a recipe, and the same by NumPy."""
    kind = rng.choice(("reshape", "transpose", "cut", "pad"))
    ndim, axis = expected.ndim, rng.randrange(expected.ndim)
    size = expected.shape[axis]
    if kind == "reshape":
        shape = list(expected.shape)
        if ndim > 1 and rng.random() < 0.5:
            shape[axis - 1 : axis + 1] = [-1] if axis else shape[axis - 1 : axis + 1]
        else:
            shape.insert(axis, 1)
        recipe.reshape(*shape)
        return expected.reshape(shape)
    if kind == "transpose":
        order = rng.sample(range(ndim), ndim)
        recipe.transpose(*order)
        return expected.transpose(order)
    if kind == "cut":
        start = rng.randrange(size)
        ends = (start, rng.randint(start + 1, size), rng.choice((1, 2)))
        if rng.random() < 0.3:
            ends = (None, None, -1)
        recipe.cut(axis, *ends)
        return expected[(slice(None),) * axis + (slice(*ends),)]
    lo, hi = rng.randint(-min(1, size - 1), 2), rng.randint(0, 2)
    widths = [(0, 0)] * ndim
    widths[axis] = (lo, hi)
    recipe.pad(widths)
    whole = np.pad(expected, [(max(a, 0), max(b, 0)) for a, b in widths])
    return whole[(slice(None),) * axis + (slice(max(-lo, 0), None),)]


def test_random_recipes_agree_with_numpy():
    rng = random.Random(3)
    for _ in range(500):
        shape = [rng.randint(1, 5) for _ in range(rng.randint(1, 4))]
        given = np.arange(np.prod(shape)).reshape(shape)
        recipe, expected = Recipe(shape), given
        for _ in range(rng.randint(0, 6)):
            if expected.ndim < 6:
                expected = drawn_step(rng, recipe, expected)
        assert recipe.shape == expected.shape
        made = recipe.made()
        for _ in range(2):  # and again
            assert np.array_equal(np.array(made(mx.array(given))), expected)


def n_steps(recipe):
    recipe.made()
    return len(recipe._steps)


@pytest.mark.parametrize(
    ("build", "n"),
    [
        (lambda r: r.reshape(4, 6).reshape(2, 12).reshape(2, 3, 4), 0),
        (lambda r: r.reshape(6, 4).reshape(24), 1),
        (lambda r: r.cut(0, 0, 1).cut(2, 1, 3), 1),
        (lambda r: r.cut(1, 0, 3).cut(0, 0, 2), 0),
        (lambda r: r.pad([(0, 0)] * 3), 0),
        (lambda r: r.pad([(-1, 0), (0, 0), (1, 1)]), 2),
        (lambda r: r.pad([(1, 0), (0, 0), (1, 1)]).pad([(0, 2), (0, 0), (1, 0)]), 1),
        (lambda r: r.pad([(0, 0), (0, 0), (0, -1)]).pad([(0, 0), (0, 0), (0, 1)]), 2),
        (lambda r: r.pad([(0, 1), (0, 0), (0, 0)]).pad([(0, -2), (0, 0), (0, 0)]), 2),
        (lambda r: r.pad([(1, 1), (0, 0), (0, 0)]).reshape(48).pad([(0, 1)]), 3),
        (lambda r: r.transpose(1, 0, 2), 1),
        (lambda r: r.reshape(2, 1, 3, 4).transpose(0, 2, 1, 3).reshape(6, 4), 1),
    ],
)
def test_steps_are_taken_together_or_left_out(build, n):
    assert n_steps(build(Recipe((2, 3, 4)))) == n
