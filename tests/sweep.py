"""Generated cases over the whole space, every method against the reference, by `==`.

    python tests/sweep.py --cases 20000 [--device m4-max]

runs until every method has agreed on that many cases, and exits with 1 at the first that differs;
with a device, by the plans for that device.
A case is left out only where the reference itself has no output.
"""

from __future__ import annotations

import argparse
import random
import sys
from collections import Counter
from contextlib import nullcontext

import numpy as np
from cases import draw_case

import polyconv
from polyconv.plan import METHODS


def sweep(
    cases: int,
    seed: int,
    device: str | None = None,
    methods: tuple[str, ...] = ("auto", *METHODS),
) -> tuple[Counter[str], Counter[str]]:
    """How many cases agreed per method, and how many each method refused (or had no output)."""
    rng = random.Random(seed)
    agreed: Counter[str] = Counter()
    refused: Counter[str] = Counter()
    while min(agreed[method] for method in methods) < cases:
        case = draw_case(rng.choice)
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


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", help="plan for this device of Apple's")
    args = parser.parse_args()
    try:
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
