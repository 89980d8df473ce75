"""What does a call cost in Python, before MLX computes anything?

    python docs/benchmarks/call.py [--device m4-max] [--json FILE]

Microseconds of calls that are not evaluated, each beside the same MLX ops written by hand, all in
one run, in turns. A row is the least of many rounds: what else the machine does only adds to it.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import mlx.core as mx

import polyconv
from polyconv.execution.device import device_for
from polyconv.planning.choose import plan
from polyconv.problem.signatures import problem_of

Call = Callable[[], object]

# The first layer of HiFi-GAN V1, of 128 frames and of a chunk of 32; a layer of an image decoder.
ONE = {"x": (1, 128, 512), "w": (256, 16, 512), "stride": 8, "padding": 4}
CHUNK = {**ONE, "x": (1, 32, 512)}
TWO = {"x": (1, 16, 16, 256), "w": (128, 4, 4, 256), "stride": 2, "padding": 1}
LIMITS = {
    "packed 1D / by hand": 1.5,
    "packed 2D / by hand": 2.0,
    "layer 1D / function": 1.3,
    "layer 2D / function": 1.3,
    "plain 1D / packed 1D": 1.4,
    "plain 2D / packed 2D": 1.4,
    "a new length, us": 300.0,
    "import polyconv over mlx.nn, ms": 60.0,
}


def arrays(case: dict[str, object]) -> tuple[mx.array, mx.array]:
    x, w = mx.random.normal(case["x"]), mx.random.normal(case["w"])
    mx.eval(x, w)
    return x, w


def by_hand_1d(x: mx.array, w: mx.array, is_by_products: bool) -> Call:
    """The ops of the plan for a case of 1D, with the weight cut beforehand."""
    n = x.shape[1]
    taps = w.reshape(256, 2, 8, 512)[:, ::-1].transpose(1, 2, 0, 3).reshape(2, 2048, 512)
    first, second = [mx.contiguous(taps[t]).T for t in (0, 1)]
    kernel = mx.contiguous(taps.transpose(1, 0, 2))
    mx.eval(first, second, kernel)

    def multiply() -> mx.array:
        rows = mx.pad(x, [(0, 0), (1, 1), (0, 0)]).reshape(n + 2, 512)
        y = mx.addmm(rows[0 : n + 1] @ first, rows[1 : n + 2], second)
        return y.reshape(1, 8 * n + 8, 256)[:, 4 : 8 * n + 4]

    def convolve() -> mx.array:
        return mx.conv_general(x, kernel, 1, 1).reshape(1, 8 * n + 8, 256)[:, 4 : 8 * n + 4]

    return multiply if is_by_products else convolve


def by_hand_2d(x: mx.array, w: mx.array, is_by_products: bool) -> Call:
    """The same of 2D: phases of both axes over one window of 2 by 2 taps."""
    cut = w.reshape(128, 2, 2, 2, 2, 256)[:, ::-1, :, ::-1]  # O, T1, R1, T2, R2, C
    taps = mx.contiguous(cut.transpose(1, 3, 2, 4, 0, 5).reshape(4, 512, 256))
    kernel = mx.contiguous(cut.transpose(2, 4, 0, 1, 3, 5).reshape(512, 2, 2, 256))
    first, second, third, fourth = [taps[t].T for t in range(4)]
    mx.eval(first, second, third, fourth, kernel)

    def multiply() -> mx.array:
        rows = mx.pad(x, [(0, 0), (1, 2), (1, 1), (0, 0)]).reshape(342, 256)
        y = mx.addmm(rows[0:306] @ first, rows[1:307], second)
        y = mx.addmm(mx.addmm(y, rows[18:324], third), rows[19:325], fourth)
        y = y.reshape(1, 17, 18, 512)[:, :, :17].reshape(1, 17, 17, 1, 2, 2, 128)
        y = mx.transpose(y, (0, 1, 4, 2, 5, 3, 6)) * mx.ones((2, 1, 128))
        return y.reshape(1, 34, 34, 128)[:, 1:33, 1:33]

    def convolve() -> mx.array:
        y = mx.conv_general(x, kernel, 1, 1).reshape(1, 17, 17, 1, 2, 2, 128)
        y = mx.transpose(y, (0, 1, 4, 2, 5, 3, 6))
        return y.reshape(1, 34, 34, 128)[:, 1:33, 1:33]

    return multiply if is_by_products else convolve


def by_hand_native(x: mx.array, w: mx.array, options: tuple[object, ...]) -> Call:
    """MLX's own op as CUDA is given it: with one more axis, whose stride tells the layer's."""
    kernel = mx.expand_dims(mx.contiguous(w.swapaxes(0, -1)), 1).swapaxes(0, -1)
    mx.eval(kernel)
    return lambda: mx.conv_general(mx.expand_dims(x, 1), kernel, *options).squeeze(1)


def with_a_rule(call: Call) -> Call:
    """The same as a function with a gradient rule, which each of polyconv's is."""
    compute = mx.custom_function(lambda x: call())
    compute.vjp(lambda x, cotangent, _: x)
    x = mx.zeros(1)
    return lambda: compute(x)


def calls_of(device: str) -> dict[str, Call]:
    """What is timed, by name."""
    found: dict[str, Call] = {}
    for rank, ndim, case, by_hand in (
        ("1D", 1, ONE, by_hand_1d),
        ("chunk", 1, CHUNK, by_hand_1d),
        ("2D", 2, TWO, by_hand_2d),
    ):
        x, w = arrays(case)
        op, layer_of = (
            getattr(polyconv, f"{name}{ndim}d") for name in ("conv_transpose", "PolyConvTranspose")
        )
        native = getattr(mx, f"conv_transpose{ndim}d")
        options = (case["stride"], case["padding"])
        packed = polyconv.pack(w)
        layer = layer_of(w.shape[-1], w.shape[0], w.shape[1], *options, bias=False)
        layer.weight = w
        problem = problem_of(
            f"conv_transpose{ndim}d", x.shape, w.shape, "float32", options_of(case)
        )
        planned = plan(problem, device=device_for(None), packed=True)
        hand = by_hand(x, w, bool(planned.products))
        if planned.is_native:
            hand = by_hand_native(x, w, planned.first.issued.options)
        assert mx.array_equal(hand(), op(x, packed, *options)).item()
        found |= {
            f"MLX {rank}": bind(native, x, w, options),
            f"by hand {rank}": hand,
            f"by hand {rank}, with a gradient rule": with_a_rule(hand),
            f"packed {rank}": bind(op, x, packed, options),
            f"plain {rank}": bind(op, x, w, options),
            f"layer {rank}": lambda layer=layer, x=x: layer(x),
        }
    x, w = mx.random.normal((1, 256, 64)), mx.random.normal((64, 3, 64))
    mx.eval(x, w)
    found["mx.conv1d"] = bind(mx.conv1d, x, w, (1, 1))
    found["conv1d"] = bind(polyconv.conv1d, x, w, (1, 1))
    return found


def options_of(case: dict[str, object]) -> dict[str, object]:
    return {name: case[name] for name in ("stride", "padding")}


def bind(op: Callable[..., object], x: object, w: object, options: tuple[object, ...]) -> Call:
    return lambda: op(x, w, *options)


def microseconds(calls: dict[str, Call], rounds: int, repeats: int = 100) -> dict[str, float]:
    """The least of all rounds, in which all calls have their turn."""
    least = dict.fromkeys(calls, float("inf"))
    for _ in range(rounds):
        for name, call in calls.items():
            start = time.perf_counter()
            for _ in range(repeats):
                call()
            least[name] = min(least[name], (time.perf_counter() - start) / repeats * 1e6)
    return least


def of_new_lengths(n: int = 300) -> float:
    """The median over lengths that were never called before."""
    w = polyconv.pack(mx.random.normal(ONE["w"]))
    inputs = [mx.zeros((1, 100 + i, 512)) for i in range(n)]
    polyconv.conv_transpose1d(inputs[0], w, 8, 4)
    taken = []
    for x in inputs[1:]:
        start = time.perf_counter()
        polyconv.conv_transpose1d(x, w, 8, 4)
        taken.append((time.perf_counter() - start) * 1e6)
    return sorted(taken)[len(taken) // 2]


def of_import(rounds: int = 15) -> float:
    """Milliseconds of `import polyconv` once `mlx.nn` is there: the least of several processes.

    Modules are compiled before, as pip does when it installs them.
    """
    text = (
        "import time, mlx.core, mlx.nn; t = time.perf_counter(); import polyconv; "
        "print(time.perf_counter() - t)"
    )
    with tempfile.TemporaryDirectory() as compiled:
        env = {**os.environ, "PYTHONPYCACHEPREFIX": compiled}
        env.pop("PYTHONDONTWRITEBYTECODE", None)
        run = lambda: subprocess.run(  # noqa: E731
            [sys.executable, "-c", text], capture_output=True, text=True, check=True, env=env
        )
        return min(float(run().stdout) for _ in range(rounds)) * 1e3


def ratios(least: dict[str, float]) -> dict[str, float]:
    """What `LIMITS` speak of."""
    found = {}
    for rank in ("1D", "chunk", "2D"):
        hand, packed = least[f"by hand {rank}"], least[f"packed {rank}"]
        found[f"packed {rank} / by hand"] = packed / hand
        ruled = least[f"by hand {rank}, with a gradient rule"]
        found[f"packed {rank} / by hand, with a gradient rule"] = packed / ruled
        found[f"plain {rank} / packed {rank}"] = least[f"plain {rank}"] / packed
        found[f"layer {rank} / function"] = least[f"layer {rank}"] / least[f"plain {rank}"]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu", help="what to plan for; all runs on the CPU")
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    mx.set_default_device(mx.cpu)
    with polyconv.planning_for(args.device):
        least = microseconds(calls_of(args.device), args.rounds)
        found = ratios(least) | {"a new length, us": of_new_lengths()}
    found["import polyconv over mlx.nn, ms"] = of_import()
    for name, value in least.items():
        print(f"{name:40} {value:8.2f} us")
    for name, value in found.items():
        most = f"  at most {LIMITS[name]:g}" if name in LIMITS else ""
        print(f"{name:45} {value:8.2f}{most}")
    if args.json:
        versions = {"mlx": mx.__version__, "python": platform.python_version()}
        told = {"device": args.device, **versions, "microseconds": least, "found": found}
        args.json.write_text(json.dumps(told, indent=1) + "\n")


if __name__ == "__main__":
    main()
