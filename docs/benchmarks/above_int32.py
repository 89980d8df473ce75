"""Which of MLX's operations are right on arrays of more than 2^31 elements?

Each runs in a process of its own, since some end it; the results are compared with NumPy's at both
ends, around element 2^31, and at thousands of other places. Takes up to 12 GB. Writes
above_int32.json beside this file: one entry per MLX version that it is run with.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import mlx.core as mx
import numpy as np

ROWS, COLUMNS = 2**15 + 1, 2**16  # 2^16 elements more than 2^31
_SECONDS = 300


def _given(dtype: type = np.uint8) -> np.ndarray:
    """Row r holds `(r + c) mod 251`: no two rows or columns near each other are alike."""
    line = np.arange(COLUMNS + 251) % 251
    line = line.astype(dtype)
    return np.stack([line[r % 251 : r % 251 + COLUMNS] for r in range(ROWS)])


def _places(shape: tuple[int, ...]) -> list[tuple[np.ndarray, ...]]:
    size = int(np.prod([int(n) for n in shape]))
    rng = np.random.default_rng(0)
    near = [*range(64), *range(2**31 - 64, 2**31 + 64), *range(2**32 - 64, 2**32 + 64)]
    near = [n for n in [*near, *range(size - 64, size)] if 0 <= n < size]
    return np.unravel_index(np.array([*near, *rng.integers(0, size, 4000)]), shape)


def _binary() -> tuple[mx.array, np.ndarray]:
    a = _given()
    return mx.array(a) + mx.array(1, mx.uint8), a + np.uint8(1)


def _astype() -> tuple[mx.array, np.ndarray]:
    a = _given()
    return mx.array(a).astype(mx.int8), a.astype(np.int8)


def _transposed() -> tuple[mx.array, np.ndarray]:
    a = _given()
    return mx.contiguous(mx.array(a).T), a.T


def _permuted() -> tuple[mx.array, np.ndarray]:
    a = _given().reshape(ROWS, 2**8, 2**8)
    return mx.contiguous(mx.array(a).swapaxes(1, 2)), a.swapaxes(1, 2)


def _broadcast() -> tuple[mx.array, np.ndarray]:
    line = np.arange(COLUMNS).astype(np.uint8)
    whole = mx.contiguous(mx.broadcast_to(mx.array(line), (ROWS, COLUMNS)))
    return whole, np.broadcast_to(line, (ROWS, COLUMNS))


def _sliced() -> tuple[mx.array, np.ndarray]:
    a = _given()
    return mx.array(a)[-9:, 5:] + 0, a[-9:, 5:]


def _every_second() -> tuple[mx.array, np.ndarray]:
    a = _given()
    return mx.contiguous(mx.array(a)[:, 1::2]), a[:, 1::2]


def _assigned() -> tuple[mx.array, np.ndarray]:
    a = _given()
    x = mx.array(a)
    x[-2:, 3:] = 7
    a[-2:, 3:] = 7
    return x, a


def _padded() -> tuple[mx.array, np.ndarray]:
    a = _given()
    return mx.pad(mx.array(a), ((1, 1), (0, 0))), np.pad(a, ((1, 1), (0, 0)))


def _concatenated() -> tuple[mx.array, np.ndarray]:
    a = _given()
    half = ROWS // 2
    return mx.concatenate([mx.array(a[:half]), mx.array(a[half:])]), a


def _stacked() -> tuple[mx.array, np.ndarray]:
    a = _given()[: ROWS // 2 + 1]
    return mx.stack([mx.array(a), mx.array(a)], axis=-1), np.stack([a, a], -1)


def _where() -> tuple[mx.array, np.ndarray]:
    a = _given()
    return mx.where(mx.array(a) < 9, mx.array(3, mx.uint8), mx.array(a)), np.where(a < 9, 3, a)


def _taken() -> tuple[mx.array, np.ndarray]:
    a = _given()
    order = np.arange(ROWS)[::-1]
    return mx.array(a)[mx.array(order.copy())], a[order]


def _summed() -> tuple[mx.array, np.ndarray]:
    a = _given()
    return mx.array(a).sum(1), a.sum(1)


def _largest() -> tuple[mx.array, np.ndarray]:
    a = _given()
    a[-1, -1] = 255
    return mx.array(a).max().reshape(1), a.max().reshape(1)


def _flattened() -> tuple[mx.array, np.ndarray]:
    a = _given()
    return mx.array(a).reshape(-1), a.reshape(-1)


def _multiplied() -> tuple[mx.array, np.ndarray]:
    a, b = np.arange(ROWS) % 7, np.arange(COLUMNS) % 5
    x, y = (mx.array(each.astype(np.float16)) for each in (a, b))
    return x[:, None] @ y[None], (a[:, None] * b[None]).astype(np.float16)


def _added() -> tuple[mx.array, np.ndarray]:
    a, b = np.arange(ROWS) % 7, np.arange(COLUMNS) % 5
    x, y = (mx.array(each.astype(np.float16)) for each in (a, b))
    one = mx.ones((1, COLUMNS), mx.float16)
    return mx.addmm(one, x[:, None], y[None]), (a[:, None] * b[None] + 1).astype(np.float16)


def _convolved(batch: int, size: int, channels: int, **options: int) -> tuple[mx.array, np.ndarray]:
    a = np.resize(np.arange(251) % 7, (batch, size, channels)).astype(np.float16)
    w = np.zeros((channels, 1, 1), np.float16) + 2
    y = mx.conv_general(mx.array(a), mx.array(w), groups=channels, **options)
    step = options.get("input_dilation", 1)
    expected = np.zeros((batch, (size - 1) * step + 1, channels), np.float16)
    expected[:, ::step] = a * 2
    return y, expected


def _long_conv() -> tuple[mx.array, np.ndarray]:
    return _convolved(1, 2**30, 1, input_dilation=2)


def _batched_conv() -> tuple[mx.array, np.ndarray]:
    return _convolved(ROWS, COLUMNS, 1)


CASES: dict[str, Callable[[], tuple[mx.array, np.ndarray]]] = {
    "a + b": _binary,
    "astype": _astype,
    "contiguous of a transposed matrix": _transposed,
    "contiguous of swapped inner axes": _permuted,
    "contiguous of a broadcast": _broadcast,
    "a[lo:hi]": _sliced,
    "contiguous of a[:, 1::2]": _every_second,
    "a[lo:hi] = b": _assigned,
    "pad": _padded,
    "concatenate": _concatenated,
    "stack": _stacked,
    "where": _where,
    "a[indices]": _taken,
    "sum of an axis": _summed,
    "max of all": _largest,
    "reshape(-1)": _flattened,
    "matmul": _multiplied,
    "addmm": _added,
    "conv_general, 2^31 - 1 outputs": _long_conv,
    "conv_general, 2^31 + 2^16 outputs": _batched_conv,
}


def check(name: str) -> str:
    """What came of one operation in this process."""
    try:
        found, expected = CASES[name]()
        mx.eval(found)
    except (ValueError, RuntimeError, OverflowError, MemoryError) as error:
        return f"{type(error).__name__}: {' '.join(str(error).split())[:120]}"
    if found.shape != expected.shape:
        return f"of shape {found.shape}"
    places = _places(expected.shape)
    wrong = 0
    for each in zip(*places, strict=True):
        index = tuple(int(i) for i in each)
        wrong += found[index].item() != expected[index].item()
    return "right" if not wrong else f"{wrong} of {len(places[0])} places wrong"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--case", choices=CASES, help="one, in this process")
    args = parser.parse_args()
    if args.case:
        print(check(args.case))
        return
    found = {}
    for name in CASES:
        command = [sys.executable, __file__, "--case", name]
        try:
            ran = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS)
            found[name] = ran.stdout.strip() if not ran.returncode else f"ended by {ran.returncode}"
        except subprocess.TimeoutExpired:
            found[name] = f"not within {_SECONDS} s"
        print(f"{name:40}{found[name]}", flush=True)
    path = Path(__file__).with_suffix(".json")
    known = json.loads(path.read_text()) if path.exists() else {}
    key = f"mlx {mx.__version__}, {mx.default_device()}"
    path.write_text(json.dumps({**known, key: found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
