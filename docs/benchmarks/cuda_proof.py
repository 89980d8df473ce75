"""Are results on an NVIDIA GPU right, whatever ran before? Integers against float64, by `==`.

    MLX_ENABLE_TF32=0 MLX_CUDA_CONV_CACHE_SIZE=8192 python docs/benchmarks/cuda_proof.py \
        [--out proof.json] [--calls 2000] [--cases 2000] [--jobs 12] [--more 6]

First random calls in one process: few shapes with many strides in random order, so that MLX's cache
of cuDNN's plans, which forgets the input dilation, meets equal keys. Its input and weight may be
views, or be of float16. A quarter as many run without MLX's own op, and may begin at an odd place;
then before each call that op of the same shapes and its gradients may run, with another stride. Of
each, the output, both gradients and those of a gradient penalty must equal float64, and with a
packed weight the output and the input's gradient. MLX's own are counted, not judged.
After some of MLX's own calls an ordinary convolution of an array at an odd place fails, MLX's own
and so polyconv's, if both give cuDNN equal shapes. MLX's own is tried so, too.
Then, in several processes, generated cases of every method and of both gradients. With `--more` as
many processes make calls by other seeds at the same time, and what they found is in `seeds.json`.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parents[1])]

import polyconv  # noqa: E402
from polyconv.inspection import explain  # noqa: E402
from tests.support import layouts, reference  # noqa: E402

# Few shapes, so that calls of equal shapes meet: sizes, taps, and channels in and out of a group.
SHAPES = {1: ((9, 12), (1, 2, 3, 4, 5)), 2: ((5, 6), (1, 2, 3)), 3: ((3, 4), (1, 2))}
CHANNELS = ((1, 1), (2, 3), (4, 4), (16, 16))
# Below these each type holds every integer and every quarter.
EXACT = {mx.float32: 2**22, mx.float16: 2**9}


def drawn(rng: random.Random) -> tuple[tuple[int, ...], tuple[int, ...], dict[str, Any]]:
    """Shapes of input and weight, and options of `conv_general`, one of each axis."""
    ndim = rng.choice((1, 1, 1, 2, 2, 3))
    sizes, taps = SHAPES[ndim]
    size, kernel = rng.choice(sizes), rng.choice(taps)
    groups, (c, o) = rng.choice((1, 1, 1, 2)), rng.choice(CHANNELS)
    step, padding = rng.randint(1, 4 if ndim < 3 else 2), rng.randint(0, kernel - 1)
    dilation = rng.choice((1, 1, 2))
    lo = dilation * (kernel - 1) - padding
    kind = rng.choice(("transposed", "transposed", "plain", "general"))
    options: dict[str, Any] = {"stride": 1, "lo": lo, "hi": lo, "input_dilation": 1, "flip": False}
    if kind == "transposed":
        options |= {"input_dilation": step, "flip": True}
    elif kind == "plain":
        options |= {"stride": step}
    else:
        options |= {
            "stride": rng.randint(1, 3),
            "input_dilation": step,
            "hi": lo + rng.randint(0, 2),
        }
        options["flip"] = rng.random() < 0.5
    options |= {"kernel_dilation": dilation, "groups": groups}
    shapes = (2, *[size] * ndim, groups * c), (groups * o, *[kernel] * ndim, c)
    return *shapes, options


def called(lib: Any, options: dict[str, Any], ndim: int) -> Any:
    """The call as a function of input and weight."""
    pads = [options["lo"]] * ndim, [options["hi"]] * ndim
    names = ("kernel_dilation", "input_dilation", "groups", "flip")
    given = {name: options[name] for name in names}
    return lambda x, w: lib.conv_general(x, w, options["stride"], pads, **given)


def values(call: Any, x: mx.array, w: mx.array) -> list[mx.array]:
    """The output, the gradients of its sum of squares, and those of a penalty on the first."""
    loss = lambda x, w: (call(x, w) ** 2).sum()  # noqa: E731
    penalty = lambda x, w: (mx.grad(loss)(x, w) ** 2).sum() / 8  # noqa: E731
    found = [call(x, w), *mx.grad(loss, (0, 1))(x, w), *mx.grad(penalty, (0, 1))(x, w)]
    mx.eval(found)
    return found


def packed(call: Any, x: mx.array, w: mx.array, y: np.ndarray) -> list[mx.array]:
    """The output, and the input's gradient with cotangent `y`, of a weight that is packed."""
    weight = polyconv.pack(w)
    (found,), (dx,) = mx.vjp(lambda x: call(x, weight), [x], [mx.array(y).astype(x.dtype)])
    mx.eval(found, dx)
    return [found, dx]


def laid(rng: random.Random, a: mx.array, odd: bool) -> mx.array:
    """The same numbers: row by row, or a view, or, if `odd`, behind some numbers of one buffer."""
    late = lambda a: layouts.behind(a, rng.randint(1, 3))  # noqa: E731
    more = late if odd else layouts.rows
    return rng.choice((layouts.rows, layouts.rows, layouts.turned, layouts.part, more))(a)


def own_at_odd_places() -> dict[str, Any]:
    """MLX's own convolutions of arrays that begin behind some numbers of one buffer.

    Before each MLX convolves one number for all, which lies as odd, as in the gradient of a sum. Of
    that it makes a copy for cuDNN, and keeps the plan by where the number lay.
    """
    counts, errors = Counter[str](), set[str]()
    w = mx.ones((4, 1, 4))
    for n in range(1, 17):
        x = layouts.behind(mx.ones((2, 12 + n, 4)), n)  # no plan is kept of its shape
        mx.eval(x, mx.conv1d(mx.broadcast_to(layouts.behind(mx.ones((1, 1, 1)), n), x.shape), w))
        for kind, given in ((_place(n), x), ("laid anew", x * 1)):
            counts[kind] += 1
            try:
                mx.eval(mx.conv1d(given, w))
            except RuntimeError as error:
                counts[f"failed {kind}"] += 1
                errors.add(str(error).rsplit(" ", 1)[-1])
    return {"counts": dict(counts), "errors": sorted(errors)}


def _place(n: int) -> str:
    """Where the n-th number of float32 lies. MLX counts alignments up to 32 bytes."""
    return "at odd places" if n % 8 else "at even places"


def exact(x: np.ndarray, w: np.ndarray, options: dict[str, Any]) -> list[np.ndarray]:
    """The same in float64, by the definition and the chain rule."""
    ndim = x.ndim - 2
    general = {
        name: value if name in ("groups", "flip") else [value] * ndim
        for name, value in options.items()
    }
    y = reference.conv_general(x, w, **general)
    dx, dw = reference.gradients(x, w, 2 * y, **general)
    # The penalty |dx|^2 / 8 with dx = A(w, 2 y) pulls back to dx / 4; A is linear in w and in y.
    to_dx = dx / 4
    _, of_w = reference.gradients(to_dx, w, 2 * y, **general)
    to_y = 2 * reference.conv_general(to_dx, w, **general)
    of_x, more = reference.gradients(x, w, to_y, **general)
    return [y, dx, dw, of_x, of_w + more]


def mixed(calls: int, seed: int, until: float, with_mlx: bool = True) -> dict[str, Any]:
    """Random calls in one process, MLX's own between them unless these are left out."""
    rng, counts = random.Random(seed), Counter[str]()
    failures: list[str] = []
    while counts["calls"] < calls and time.monotonic() < until:
        x_shape, w_shape, options = drawn(rng)
        ndim, numbers = len(x_shape) - 2, np.random.default_rng(rng.randrange(2**30))
        x, w = [numbers.integers(-1, 2, shape).astype(np.float64) for shape in (x_shape, w_shape)]
        try:
            right = exact(x, w, options)
        except ValueError:  # the kernel does not fit
            continue
        dtype = rng.choice((mx.float32, mx.float32, mx.float16))
        if right[0].size == 0 or max(np.abs(each).max() for each in right) > EXACT[dtype]:
            continue
        arrays = [mx.array(a).astype(dtype) for a in (x, w)]
        if with_mlx and rng.random() < 0.5:
            counts.update(_by_mlx(rng, options, arrays, right))
            # A plan for more outputs writes behind the end of its own, and may hit these arrays.
            if not all(np.array_equal(np.array(a), b) for a, b in zip(arrays, (x, w))):
                counts["arrays damaged by MLX's own"] += 1
                arrays = [mx.array(a).astype(dtype) for a in (x, w)]
        given = [laid(rng, a, odd=not with_mlx) for a in arrays]
        try:
            found = values(called(polyconv, options, ndim), *given)
            found += packed(called(polyconv, options, ndim), *given, 2 * right[0])
        except Exception as error:  # told, and the next call goes on
            failures.append(f"{x_shape}, {w_shape}, {options}: {type(error).__name__}: {error}")
        else:
            right = [*right, *right[:2]]
            names = ("output", "dx", "dw", "second order of x", "second order of w")
            names = (*names, "packed output", "packed dx")
            wrong = [
                n for n, a, b in zip(names, found, right) if not np.array_equal(np.array(a), b)
            ]
            if wrong:
                failures.append(f"{x_shape}, {w_shape}, {options}: {', '.join(wrong)}")
        counts["calls"] += 1
        counts["of float16"] += dtype == mx.float16
    return {"counts": dict(counts), "failed": len(failures), "failures": failures[:40]}


def _by_mlx(
    rng: random.Random, options: dict[str, Any], arrays: list[mx.array], right: list[np.ndarray]
) -> dict[str, int]:
    """MLX's own op of these shapes, often with other steps, and its gradients."""
    other = dict(options)
    if rng.random() < 0.7:
        name = "input_dilation" if options["flip"] else "stride"
        other[name] = rng.randint(1, 4)
    call = called(mx, other, arrays[0].ndim - 2)
    try:
        y = call(*arrays)
        mx.eval(y)
        if rng.random() < 0.5:
            mx.eval(mx.grad(lambda x, w: call(x, w).sum(), (0, 1))(*arrays))
    except (ValueError, RuntimeError):  # as MLX refuses it, or fails
        return {"MLX's own failed": 1}
    if other != options:
        return {"MLX's own of other steps": 1}
    same = np.array_equal(np.array(y), right[0])
    return {"MLX's own": 1, "MLX's own wrong": int(not same)}


def of_seeds(given: argparse.Namespace) -> list[tuple[Path, subprocess.Popen[bytes]]]:
    """Starts processes that make calls by other seeds, and tells where each writes."""
    found = []
    for seed in range(given.seed + 1, given.seed + 1 + given.more):
        out = given.out.with_name(f"{given.out.stem}-{seed}.json")
        out.unlink(missing_ok=True)
        known = {"seed": seed, "calls": given.calls, "seconds": given.seconds, "cases": 0}
        options = [f"--{name}={value}" for name, value in known.items()]
        command = [sys.executable, __file__, *options, f"--out={out}"]
        found.append((out, subprocess.Popen(command, stdout=subprocess.DEVNULL)))
    return found


def gathered(running: list[tuple[Path, subprocess.Popen[bytes]]]) -> dict[str, Any]:
    """What these found. A process that ended without a result is told as a failure."""
    told: dict[str, list[Any]] = {"mixed": [], "alone": []}
    for out, process in running:
        status = process.wait()
        found = json.loads(out.read_text()) if out.exists() else {}
        for name, each in told.items():
            ended = {"counts": {"calls": 0}, "failed": 1, "failures": [f"{out}: ended by {status}"]}
            each.append(found.get(name, ended))
        out.unlink(missing_ok=True)
    return told


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=HERE / "cuda_proof.json")
    parser.add_argument("--calls", type=int, default=2000)
    parser.add_argument("--cases", type=int, default=2000, help="of each method and of gradients")
    parser.add_argument("--jobs", type=int, default=12)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--more", type=int, default=0, help="processes with other seeds")
    parser.add_argument("--seconds", type=float, default=540)
    given = parser.parse_args()
    until = time.monotonic() + given.seconds
    gpu = mx.device_info(mx.gpu).get("device_name") if mx.default_device() == mx.gpu else None
    others = of_seeds(given)
    found: dict[str, Any] = {"what": [*explain.doctor().splitlines(), f"GPU: {gpu}"]}
    for name, calls in (("alone", given.calls // 4), ("mixed", given.calls)):
        start = time.monotonic()
        found[name] = mixed(calls, given.seed, until, with_mlx=name == "mixed")
        found[name]["seconds"] = round(time.monotonic() - start, 1)
        print(name, json.dumps(found[name], indent=1), flush=True)
        given.out.write_text(json.dumps(found, indent=1) + "\n")
    if given.cases:  # which other seeds leave out
        import cuda

        found["MLX's own alone"] = own_at_odd_places()
        start = time.monotonic()
        found["parity"] = cuda.all_parity(given.jobs, given.cases, until - start)
        found["parity"]["seconds"] = round(time.monotonic() - start, 1)
        print(json.dumps(found["parity"], indent=1), flush=True)
        given.out.write_text(json.dumps(found, indent=1) + "\n")
    runs = [found["alone"], found["mixed"]]
    if others:
        told = gathered(others)
        given.out.with_name("seeds.json").write_text(json.dumps(told, indent=1) + "\n")
        runs += [*told["mixed"], *told["alone"]]
    failures = found.get("parity", {}).get("failures", [])
    return int(bool(failures) or any(each["failed"] for each in runs))


if __name__ == "__main__":
    raise SystemExit(main())
