"""Several NVIDIA GPUs by NCCL: the worker's cases, then HiFi-GAN V1 over a long mel.

    python docs/benchmarks/cuda_ranks.py [--out cuda_ranks.json] [--ranks 1,2] [--minutes 30]

One process a GPU. Random cases of `polyconv.distributed`, forward and gradients, must be `==` to
one process. Then each way of `examples/distributed_vocoder.py`, one exchange of mel frames or one
in each layer, over so many minutes of mel: seconds of a first and a second pass, bytes that ranks
give, and how far samples around the cuts are from the generator called on a window around them.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "examples")]

WORKER = ROOT / "tests" / "support" / "distributed_worker.py"
CASES = ("sequence=60", "chain=6", "layer=20", "pieces=10", "large=1", "refusals=1")
HALOS = ("once", "layers")


def environments(n: int, backend: str) -> list[dict[str, str]]:
    """What tells each of n processes where the others are, and which GPU is its own."""
    from tests.support.ranks import reserved_ports

    first, known = reserved_ports(n), {**os.environ, "PYTHONPATH": _path()}
    if n > 1 and backend == "ring":
        hosts = Path(tempfile.mkdtemp()) / "hosts.json"
        hosts.write_text(json.dumps([[f"127.0.0.1:{first + rank}"] for rank in range(n)]))
        known["MLX_HOSTFILE"] = str(hosts)
    elif n > 1:
        known |= {"NCCL_HOST_IP": "127.0.0.1", "NCCL_PORT": str(first), "MLX_WORLD_SIZE": str(n)}
    return [{**known, "MLX_RANK": str(i), "CUDA_VISIBLE_DEVICES": str(i)} for i in range(n)]


def _path() -> str:
    return os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])


def ran(n: int, backend: str, seconds: float, *command: str) -> list[dict[str, Any]]:
    """What each rank printed last, as JSON, or why it has not."""
    started = [
        subprocess.Popen(
            [sys.executable, *command, "--backend", backend if n > 1 else "any"],
            env=each,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for each in environments(n, backend)
    ]
    until, told = time.monotonic() + seconds, []
    for each in started:
        try:
            out, errors = each.communicate(timeout=max(1.0, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            for other in started:
                other.kill()
            out, errors = each.communicate()
        lines = [line for line in out.splitlines() if line.startswith("{")]
        failed = {"status": each.returncode, "errors": errors[-1500:]}
        told.append(json.loads(lines[-1]) if each.returncode == 0 and lines else failed)
    return told


def vocode(halo: str, minutes: float, chunk: float, backend: str) -> dict[str, Any]:
    """This rank's part of the sound, twice."""
    import mlx.core as mx
    import numpy as np
    from mel import HOP, SAMPLE_RATE
    from vocoder_parts import Mel, Rank, make_generator

    from polyconv import distributed

    group = mx.distributed.init(backend=backend, strict=backend != "any")
    frames = round(60 * minutes * SAMPLE_RATE / HOP)
    known = {"variant": "v1", "weights": None, "seed": 0, "frames": frames, "halo": halo}
    arguments = argparse.Namespace(**known, chunk=round(chunk * SAMPLE_RATE / HOP))
    clip = np.random.default_rng(0).standard_normal((4000, 80)).astype(np.float32) - 5
    rank = Rank(arguments, group, Mel(clip))
    seconds, bytes_sent = [], 0
    for _ in range(2):
        mx.eval(mx.distributed.all_sum(mx.ones((8,)), group=group))  # all begin together
        begin, sound = time.perf_counter(), []
        with distributed.traffic() as sent:
            for _, first, samples in rank.chunks(0):
                sound.append((first, samples))
        seconds.append(round(time.perf_counter() - begin, 3))
        bytes_sent = sent.bytes_sent
    apart = compared(rank, make_generator(arguments), sound, HOP)
    told = {"rank": group.rank(), "size": group.size(), "halo": halo, "seconds": seconds}
    samples = sum(len(each) for _, each in sound)
    peak = mx.get_peak_memory() >> 20
    return {**told, "samples": samples, "bytes_sent": bytes_sent, "peak_mib": peak, "apart": apart}


def compared(rank: Any, generator: Any, sound: list[Any], hop: int) -> float:
    """How far samples around the cuts are from the generator called on a window around them."""
    import numpy as np

    apart = 0.0
    for place in rank.places():
        start, stop = max(0, place - 4), min(place + 4, rank.sharding.size)
        whole = rank.whole(generator, start, stop)
        for first, samples in sound:
            a, b = max(first, start * hop), min(first + len(samples), stop * hop)
            if a < b:
                here = samples[a - first : b - first] - whole[a - start * hop : b - start * hop]
                apart = max(apart, float(np.abs(here).max()))
    return apart


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=HERE / "cuda_ranks.json")
    parser.add_argument("--ranks", default="1,2", help="how many processes, one run for each")
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--chunk", type=float, default=20, help="seconds of sound at a time")
    parser.add_argument("--backend", default="nccl", help="of MLX, for more than one process")
    parser.add_argument("--cases", default=" ".join(CASES))
    parser.add_argument("--halo", choices=HALOS, help="what one rank runs; not by hand")
    given = parser.parse_args()
    if given.halo:
        print(json.dumps(vocode(given.halo, given.minutes, given.chunk, given.backend)), flush=True)
        return 0
    found: list[dict[str, Any]] = []
    failed = 0
    for n in [int(each) for each in given.ranks.split(",")]:
        runs = {}
        if n > 1:
            runs["cases"] = ran(n, given.backend, 240, str(WORKER), *given.cases.split())
        length = ["--minutes", str(given.minutes), "--chunk", str(given.chunk)]
        for halo in HALOS:
            command = [str(Path(__file__)), "--halo", halo, *length]
            runs[halo] = ran(n, given.backend, 200, *command)
        failed += sum("errors" in each for told in runs.values() for each in told)
        found.append({"ranks": n, **runs})
        print(json.dumps(found[-1]), flush=True)
        given.out.write_text(json.dumps(found, indent=1) + "\n")
    return int(failed > 0)


if __name__ == "__main__":
    raise SystemExit(main())
