"""Writes docs/benchmarks/call.md from call-cpu.json, call-m4-max.json and call-cuda.json.

`make bench-call` measures these and runs this.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
DEVICES = ("cpu", "m4-max", "cuda")

ABOUT = """# What a call costs in Python

`call.py` times calls that are not evaluated: Python, and the making of MLX's graph. Nothing is
computed. Each call stands beside the same ops of MLX, written by hand, with the weight cut up
before. A test holds that they are the same ops. *With a gradient rule* they are in an
`mx.custom_function`, as each of polyconv's calls is. *packed* is a call with a packed weight,
*plain* one with an array, *layer* one of a layer with an array.

*1D* is the first layer of HiFi-GAN V1 on 128 frames, *chunk* the same on 32, *2D* a layer of an
image decoder. The columns are the devices that were planned for. For a CPU the plans of 1D and 2D
are products; all other plans are one convolution. All ran on two shared cores of Linux x86-64:
**no time here is one of a Mac or of a GPU**.

All calls take turns in one run. A row is the least of 100 rounds of 100 calls, since what else the
machine does only adds to it. The new length is a median of 299, the import the least of 15.
The machine is shared: between two runs most rows move by some 2 %, but one of the products moved
by 56 %, and the new length and the import by up to 65 %. Only rows of one column are to be divided.
`make bench-call` measures anew and writes this page.
"""

WHY = """
## What is reached, and why not all

The limits are `LIMITS` in `call.py`.

* **Packed over by hand.** A gradient rule (`mx.custom_function`) costs {rule} us in MLX itself.
  With one the ops by hand take {one} times as long in 1D, and {two} times in 2D. So 1.5 is out of
  reach in 1D, and in 2D the rule takes most of what 2 allows where the plan is one convolution.
  Ops by hand with a rule are the fair measure: over these a call takes {ruled} times as long.
  Its own Python is {left} us: the look-up by 13 arguments, and asking which device it is for.
* **Plain over packed.** A plain weight is cut up in every call, since it may have changed. That is
  {cut} us of MLX's ops, which is much where the call itself has few.
* **Layer over function.** A layer reads its options from its attributes in each call, as MLX's do.
  In 2D they are tuples, whose items are looked at, too.
* **A new length.** Problem, plan and functions are worked out for each new length, in Python. Later
  calls of that length are those of the first table.
* **Import.** `import polyconv` brings what calls and layers need. The rest is imported when it is
  asked for.

Before this was worked on, a run on another day had 37 us for packed 1D, 68 us for a layer, 770 us
for a new length, and 230 ms for the import. That is context only: two runs are not to be divided.
"""


def page(found: dict[str, dict[str, Any]], limits: dict[str, float]) -> str:
    """The text, of what was found by device."""
    first = found["cpu"]
    parts = [
        ABOUT,
        f"\n## Microseconds\n\n| call | {' | '.join(DEVICES)} |\n|---|{'---:|' * len(DEVICES)}\n",
        *[_line(name, found, "microseconds") for name in first["microseconds"]],
        f"\n## Ratios, and the rest\n\n| what | at most | {' | '.join(DEVICES)} |\n",
        f"|---|---:|{'---:|' * len(DEVICES)}\n",
        *[_line(name, found, "found", limits) for name in first["found"]],
        WHY.format(**_told(found)),
        f"\n    MLX {first['mlx']}, Python {first['python']}\n",
    ]
    return "".join(parts)


def _line(
    name: str, found: dict[str, Any], part: str, limits: dict[str, float] | None = None
) -> str:
    values = [found[device][part][name] for device in DEVICES]
    cells = [f"{value:.3g}" for value in values]
    if limits is None:
        return f"| {name} | {' | '.join(cells)} |\n"
    most = limits.get(name)
    if most is not None:
        cells = [cell if v <= most else f"{cell}, missed" for cell, v in zip(cells, values)]
    return f"| {name} | {'-' if most is None else f'{most:g}'} | {' | '.join(cells)} |\n"


def _told(found: dict[str, Any]) -> dict[str, str]:
    """The numbers in the text, of all devices."""
    rows = [
        (rank, [each["microseconds"][f"{kind} {rank}{rule}"] for kind, rule in _KINDS])
        for each in found.values()
        for rank in ("1D", "2D")
    ]
    by_rank = {r: [ruled / hand for rank, (hand, ruled, *_) in rows if rank == r] for r, _ in rows}
    return {
        "rule": _range([ruled - hand for _, (hand, ruled, *_) in rows]),
        "one": _range(by_rank["1D"]),
        "two": _range(by_rank["2D"]),
        "ruled": _range([packed / ruled for _, (_, ruled, packed, _) in rows]),
        "left": _range([packed - ruled for _, (_, ruled, packed, _) in rows]),
        "cut": _range([plain - packed for _, (*_, packed, plain) in rows]),
    }


_KINDS = (("by hand", ""), ("by hand", ", with a gradient rule"), ("packed", ""), ("plain", ""))


def _range(values: list[float]) -> str:
    low, high = f"{min(values):.2g}", f"{max(values):.2g}"
    return low if low == high else f"{low} to {high}"


def main() -> None:
    from call import LIMITS

    found = {device: json.loads((HERE / f"call-{device}.json").read_text()) for device in DEVICES}
    (HERE / "call.md").write_text(page(found, LIMITS))


if __name__ == "__main__":
    main()
