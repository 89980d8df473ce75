"""The distributed vocoder by one process and by two: distributed.json and distributed.md.

    make distributed                                   # a minute of mel, into build/distributed
    make distributed LENGTH="--hours 1 --record"       # an hour, into the files beside this one

Every process has one thread, so that two have twice the arithmetic of one. What is measured for a
length of sound takes the place of what was measured for it before; other lengths stay. Each run is
written when it has ended.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import socket
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
EXAMPLE = ROOT / "examples" / "distributed_vocoder.py"
FIGURES = HERE / "distributed.json"
SAMPLE_RATE, HOP = 22050, 256

PAGE = """# The distributed vocoder

`examples/distributed_vocoder.py`, HiFi-GAN with random weights, float32, on the bundled clip's mel
repeated; one thread a process, OpenBLAS preloaded, all processes on one machine over loopback, by
`mlx.launch`. `once`: the mel frames around the cuts are exchanged once, and each process streams
through its part. `layers`: each layer exchanges the samples around the cuts, stretch by stretch.
*scaling* is the time of one process over that of the slowest of several. *apart* is by how much
samples around the cuts, and between them, differ at most from the generator called on a window
around them; *files* by how much any 16-bit sample differs from that of one process. Halo bytes are
what all ranks sent together. `docs/benchmarks/distributed.py` writes this.

"""

COLUMNS = (
    "| variant | halo | processes | seconds | real-time factor | scaling | MLX peak a rank "
    "| RSS a rank | halo bytes | messages | apart | files |\n"
    "|---|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|\n"
)


def run(arguments: argparse.Namespace, halo: str, ranks: int) -> dict[str, Any]:
    """One run of the example; its report."""
    out = arguments.build / f"{halo}-{ranks}"
    out.mkdir(parents=True, exist_ok=True)
    report = out / "report.json"
    report.unlink(missing_ok=True)
    command = ["python", str(EXAMPLE), "--seconds", str(arguments.seconds)]
    command += ["--variant", arguments.variant, "--halo", halo, "--patience", "300"]
    command += ["--out", str(out), "--report", str(report)]
    if ranks > 1:
        port = ["--starting-port", str(_free_port())]
        command = ["mlx.launch", "-n", str(ranks), "--backend", "ring", *port, "--", *command]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    # Both are those beside this Python, whether or not its environment is active.
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    with subprocess.Popen(command, env=environment, stdin=subprocess.PIPE) as process:
        if ranks > 1:
            _fill(process)
        process.wait()
    # `mlx.launch` ends with 0 whatever its processes end with.
    if not report.exists():
        raise SystemExit(f"{ranks} processes have made no report")
    return json.loads(report.read_text())


def _fill(process: subprocess.Popen[bytes]) -> None:
    """Gives `mlx.launch` more to pass on to its processes, which do not read it, than pipes hold.

    While it could write to one it polls without a pause, in a thread for each, which takes a core
    from the processes (0.32.4).
    """
    assert process.stdin is not None
    with contextlib.suppress(BrokenPipeError):
        process.stdin.write(bytes(200_000))
        process.stdin.flush()


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def files_apart(build: Path, halo: str, ranks: int) -> int | None:
    """The largest difference of a 16-bit sample from the file of one process, block by block."""
    paths = [build / f"{halo}-{n}" / "distributed.wav" for n in (1, ranks)]
    if not all(path.exists() for path in paths):
        return None
    ones, others = [soundfile.SoundFile(path) for path in paths]
    apart = 0
    with ones, others:
        if len(ones) != len(others):
            return None
        while len(a := ones.read(1 << 20, dtype="int16")):
            b = others.read(1 << 20, dtype="int16")
            apart = max(apart, int(np.abs(a.astype(np.int32) - b).max()))
    return apart


def row(found: dict[str, Any], seconds: str, it: dict[str, Any]) -> str:
    """A line of the table of one length."""
    ranks = it["ranks"]
    slowest = max(each["seconds"] for each in ranks)
    alone = [
        other["ranks"][0]["seconds"]
        for other in found[seconds]
        if len(other["ranks"]) == 1 and _kind(other) == _kind(it)
    ]
    scaling = f"{alone[0] / slowest:.2f}" if alone else ""
    files = "" if it.get("files_apart") is None else str(it["files_apart"])
    sound = sum(each["audio_seconds"] for each in ranks)
    return (
        f"| {it['variant']} | {it['halo']} | {len(ranks)} | {slowest:.1f} "
        f"| {slowest / sound:.3f} | {scaling} | {_megabytes(ranks, 'peak_bytes')} "
        f"| {_megabytes(ranks, 'rss_bytes')} | {sum(each['halo_bytes'] for each in ranks):,} "
        f"| {sum(each['messages'] for each in ranks)} "
        f"| {max(each['apart'] for each in ranks):.1e} | {files} |\n"
    )


def in_words(found: dict[str, Any]) -> str:
    """What the guide says of the hour: one exchange of mel, by one process and by two."""
    one, two = sorted(
        [it for it in found["3600"] if it["halo"] == "once"], key=lambda it: len(it["ranks"])
    )
    alone = one["ranks"][0]["seconds"]
    slowest = max(each["seconds"] for each in two["ranks"])
    halo = sum(each["halo_bytes"] for each in two["ranks"])
    peak = max(each["peak_bytes"] for each in two["ranks"]) / 1e6
    return (
        f"An hour of sound took one process {alone:.0f} s and two {slowest:.0f} s, "
        f"{alone / slowest:.2f} times as fast.\n"
        f"Each had at most {peak:.0f} MB of MLX's memory, and {halo:,} bytes "
        f"of halo were sent in all ({two['machine']}, one\nthread each, OpenBLAS preloaded)."
    )


def _kind(it: dict[str, Any]) -> tuple[str, str]:
    return it["variant"], it["halo"]


def _megabytes(ranks: list[dict[str, Any]], name: str) -> str:
    return ", ".join(f"{each[name] / 1e6:.0f} MB" for each in ranks)


def page(found: dict[str, Any]) -> str:
    """The page of all lengths, the longest first."""
    parts = [PAGE]
    for seconds in sorted(found, key=float, reverse=True):
        n = float(seconds)
        length = f"{n / 3600:g} h" if n >= 3600 else f"{n:g} s"
        parts.append(f"## {length} of sound\n\n{COLUMNS}")
        runs = sorted(found[seconds], key=lambda it: (*_kind(it), len(it["ranks"])))
        parts += [row(found, seconds, it) for it in runs]
        told = sorted({f"{it['machine']}, MLX {it['mlx']}" for it in runs})
        parts.append("\n" + "".join(f"    {line}\n" for line in told) + "\n")
    return "".join(parts).rstrip("\n") + "\n"


def main() -> None:
    """Runs, and writes what each run gave."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--hours", type=float)
    parser.add_argument("--record", action="store_true", help="into docs/benchmarks, to be kept")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--variant", default="v3")
    parser.add_argument("--halo", nargs="+", default=["once"], choices=("once", "layers"))
    parser.add_argument("--ranks", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--build", type=Path, default=ROOT / "build" / "distributed")
    arguments = parser.parse_args()
    if arguments.hours:
        arguments.seconds = 3600 * arguments.hours
    key = f"{arguments.seconds:g}"
    figures = FIGURES if arguments.record else arguments.build / FIGURES.name
    for halo in arguments.halo:
        for ranks in arguments.ranks:
            it = run(arguments, halo, ranks)
            it["machine"] = f"{os.cpu_count()} cores, {platform.machine()}, {platform.system()}"
            it["mlx"] = version("mlx")
            it["files_apart"] = files_apart(arguments.build, halo, ranks) if ranks > 1 else None
            found = json.loads(figures.read_text()) if figures.exists() else {}
            same = (*_kind(it), ranks)
            kept = [o for o in found.get(key, []) if (*_kind(o), len(o["ranks"])) != same]
            found[key] = [*kept, it]
            figures.write_text(json.dumps(found, indent=1) + "\n")
            figures.with_suffix(".md").write_text(page(found))


if __name__ == "__main__":
    main()
