"""Processes of one group, a rank each, on ports that are free."""

from __future__ import annotations

import atexit
import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

WORKER = Path(__file__).with_name("distributed_worker.py")


_RESERVED: list[socket.socket] = []


@atexit.register
def _let_go() -> None:
    for each in _RESERVED:
        each.close()


def reserved_ports(n: int) -> int:
    """The first of n ports that follow each other and that nobody else is given from now on.

    They stay bound here, without listening; MLX's ring may bind them too, as both say so.
    """
    while True:
        taken = [socket.socket() for _ in range(n)]
        first = 0
        try:
            for i, each in enumerate(taken):
                each.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                each.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
                each.bind(("127.0.0.1", first + i))
                first = first or each.getsockname()[1]
        except (OSError, OverflowError):  # one of them is another's
            for each in taken:
                each.close()
            continue
        _RESERVED.extend(taken)
        return first


def started(tmp_path: Path, n: int, *tasks: str) -> list[subprocess.Popen[str]]:
    return started_with(tmp_path, n, str(WORKER), *tasks)


def started_with(tmp_path: Path, n: int, *command: str) -> list[subprocess.Popen[str]]:
    """One process per rank, as `mlx.launch` would start them, on ports that are free."""
    first = reserved_ports(n)
    hosts = [[f"127.0.0.1:{first + rank}"] for rank in range(n)]
    path = tmp_path / "hosts.json"
    path.write_text(json.dumps(hosts))
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    if n > 1:
        environment["MLX_HOSTFILE"] = str(path)
    return [
        subprocess.Popen(
            [sys.executable, *command],
            env={**environment, "MLX_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(n)
    ]


def ended(processes: list[subprocess.Popen[str]], limit: float) -> list[tuple[int, str, str]]:
    """Exit status, output and errors of each; none is left behind."""
    until = time.monotonic() + limit
    try:
        return [
            (each.returncode, *told)
            for each in processes
            for told in [each.communicate(timeout=max(0.1, until - time.monotonic()))]
        ]
    finally:
        for each in processes:
            if each.poll() is None:
                each.kill()
                each.communicate()
