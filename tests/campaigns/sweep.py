"""Generated cases over the whole space, every method against the reference, by `==`.

    python -m tests.campaigns.sweep --cases 20000 [--device m4-max] [--gradients]

runs until every method has agreed on that many cases, and exits with 1 at the first that differs;
with a device, by the plans for that device; with gradients, those of both arguments.
A case is left out only where the reference itself has no output.
"""

from __future__ import annotations

import argparse
import random
import re
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any
from unittest import mock

import mlx.core as mx
import numpy as np

import polyconv
from polyconv.execution.run_tiled import assembled
from polyconv.planning.methods import METHODS
from polyconv.planning.tiling import Tiling
from tests.support.cases import Case, drawn


def sweep(
    cases: int,
    seed: int,
    device: str | None = None,
    methods: tuple[str, ...] = ("auto", *METHODS),
) -> tuple[Counter[str], Counter[str]]:
    """How many cases agreed per method, and how many each method refused (or had no output)."""
    agreed: Counter[str] = Counter()
    refused: Counter[str] = Counter()
    for case in drawn(seed):
        if min(agreed[method] for method in methods) >= cases:
            break
        if not case.has_output:
            refused["no output"] += 1
            continue
        expected = case.reference()
        for method in methods:
            try:
                with polyconv.planning_for(device) if device else nullcontext():
                    got = case.run(method)
            except ValueError as error:
                if method in ("auto", "per_phase") or "method must suit" not in str(error):
                    raise AssertionError(f"{method} refused {case}: {error}") from error
                refused[method] += 1
                continue
            assert got.shape == expected.shape, f"{method}: {got.shape} for {case}"
            assert np.array_equal(got, expected), f"{method} differs on {case}"
            agreed[method] += 1
    return agreed, refused


def _with_output(cases: int, seed: int, counts: Counter[str]) -> Iterator[Case]:
    """The cases that have an output, until so many agreed."""
    for case in drawn(seed):
        if counts["agreed"] == cases:
            break
        if case.has_output:
            yield case
        else:
            counts["no output"] += 1


def sweep_gradients(cases: int, seed: int, device: str | None = None) -> Counter[str]:
    """How many cases agreed, gradients with respect to both arguments, of how many drawn."""
    counts: Counter[str] = Counter()
    for case in _with_output(cases, seed, counts):
        known = (*case.data(), case.cotangent())
        arrays = [mx.array(a).astype(getattr(mx, case.dtype)) for a in known]
        call = lambda x, w, case=case: case.call(x, w, "auto")  # noqa: E731
        with polyconv.planning_for(device) if device else nullcontext():
            _, found = mx.vjp(call, arrays[:2], arrays[2:])
        for name, got, expected in zip("xw", found, case.gradients()):
            if case.dtype != "float32":  # a sum rounded once
                rounded = mx.array(expected.astype(np.float32)).astype(got.dtype)
                expected = np.array(rounded.astype(mx.float32))
            same = np.array_equal(np.array(got.astype(mx.float32)), expected)
            assert same, f"the gradient of {name} differs on {case}"
        counts["agreed"] += 1
    return counts


def sweep_tiled(cases: int, seed: int, device: str | None = None) -> Counter[str]:
    """How many cases agreed, tiled at a random limit and whole: result and both gradients."""
    rng = random.Random(seed)
    counts: Counter[str] = Counter()

    def counted(tiling: Tiling, *args: Any) -> mx.array:
        counts["maps in tiles"] += tiling.n_tiles > 1
        counts["tiles"] += tiling.n_tiles
        return assembled(tiling, *args)

    with mock.patch("polyconv.gradients.maps.assembled", counted):
        for case in _with_output(cases, seed, counts):
            method = rng.choice(("auto", *METHODS))
            with polyconv.planning_for(device) if device else nullcontext():
                _compare_tiled(case, method, rng, counts)
    return counts


def _compare_tiled(case: Case, method: str, rng: random.Random, counts: Counter[str]) -> None:
    arrays = [mx.array(a).astype(getattr(mx, case.dtype)) for a in case.data()]
    try:
        whole = case.call(*arrays, method)
    except ValueError:  # forced, and refused with a reason: tests of their own
        counts[f"refused by {method}"] += 1
        return
    y = mx.array(case.cotangent())
    maps = ["y", "x", "w"] if method != "native" else ["y"]  # whose gradients are MLX's own

    def results(**more: int) -> list[mx.array]:
        call = lambda x, w: case.call(x, w, method, **more)  # noqa: E731
        if maps == ["y"]:
            return [call(*arrays)]
        made, gradients = mx.vjp(call, arrays, [y.astype(whole.dtype)])
        return [*made, *gradients]

    expected, limit = results(), 1
    while True:  # until the limit holds one tile of each map
        try:
            found = results(max_workspace=limit)
            break
        except ValueError as error:
            least = re.search(r"max_workspace must be at least (\d+) bytes here", str(error))
            assert least, f"{error} for {case}"
            limit = int(int(least[1]) * rng.choice((1, 1.2, 2, 5)))
    for name, a, b in zip(maps, expected, found, strict=True):
        assert a.dtype == b.dtype, f"{name} of {case}"
        same = np.array_equal(np.array(a.astype(mx.float32)), np.array(b.astype(mx.float32)))
        assert same, f"{name} by {method} differs at max_workspace={limit} on {case}"
    counts["agreed"] += 1


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", help="plan for this device")
    parser.add_argument("--gradients", action="store_true", help="of both arguments")
    parser.add_argument("--tiled", action="store_true", help="whole against random max_workspace")
    args = parser.parse_args()
    try:
        if args.tiled:
            print(dict(sweep_tiled(args.cases, args.seed, args.device)))
            return 0
        if args.gradients:
            print(dict(sweep_gradients(args.cases, args.seed, args.device)))
            return 0
        agreed, refused = sweep(args.cases, args.seed, args.device)
    except AssertionError as error:
        print(error, file=sys.stderr)
        return 1
    for method, n in agreed.items():
        print(f"{method:10} agreed {n:7}   refused with a reason {refused[method]:7}")
    print(f"left out, as the reference has no output: {refused['no output']}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
