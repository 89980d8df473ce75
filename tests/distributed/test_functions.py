"""Sequences in pieces and divided channels: what several processes compute, by `==` with one.

Each rank runs `tests/support/distributed_worker.py`. The plan on paper is in `test_sharding.py`.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import mlx.core as mx
import pytest

import polyconv
from polyconv import distributed
from polyconv.distributed import Sharding
from tests.support.ranks import WORKER, ended, reserved_ports, started

LAUNCHER = Path(sys.executable).with_name("mlx.launch")
LIMIT = 120  # seconds
MANY = ("sequence=80", "chain=8", "large=1", "refusals=1")

needs_ring = pytest.mark.skipif(
    not mx.distributed.is_available("ring"), reason="this MLX has no ring backend"
)


CASES = ("sequence=40", "chain=4", "layer=8", "pieces=6", "large=1", "refusals=1")


@needs_ring
@pytest.mark.parametrize(
    ("n", "tasks"),
    [
        (2, CASES),
        (3, ("sequence=20", "chain=3", "layer=4", "pieces=4", "refusals=1")),
        pytest.param(1, (*MANY, "layer=10", "pieces=10"), marks=pytest.mark.slow),
        pytest.param(2, (*MANY, "layer=20", "pieces=15"), marks=pytest.mark.slow),
        pytest.param(3, (*MANY, "layer=10", "pieces=10"), marks=pytest.mark.slow),
        pytest.param(4, (*MANY, "layer=8", "pieces=6"), marks=pytest.mark.slow),
    ],
    ids=["2", "3", *[f"{n}, many cases" for n in (1, 2, 3, 4)]],
)
def test_several_processes_compute_what_one_does(tmp_path, n, tasks):
    for status, out, errors in ended(started(tmp_path, n, *tasks), LIMIT):
        assert status == 0, errors
        found = json.loads(out)
        assert found["size"] == n
        assert all(found[name] == int(cases) for name, cases in [t.split("=") for t in tasks])
        assert found["sends"]
        assert n == 1 or found["ragged"] > 10
        assert n == 1 or found["bytes"] > 0


@needs_ring
@pytest.mark.parametrize("n", [2, 3, pytest.param(4, marks=pytest.mark.slow)])
def test_ranks_that_cannot_send_gather_what_others_hold(tmp_path, n):
    """As under NCCL. All ranks try once, and remember."""
    for status, out, errors in ended(started(tmp_path, n, *CASES, "--without-send"), LIMIT):
        assert status == 0, errors
        found = json.loads(out)
        assert found["size"] == n
        assert not found["sends"]
        assert found["sequence"] == 40
        assert found["bytes"] > 0


@needs_ring
def test_by_mlx_s_own_launcher(tmp_path):
    if not LAUNCHER.exists():
        pytest.skip("mlx.launch is not installed beside this Python")
    port = str(reserved_ports(2))
    command = [LAUNCHER, "-n", "2", "--backend", "ring", "--starting-port", port, "--"]
    command += ["python", WORKER, "sequence=5"]  # older ones take a path for a script
    environment = {**os.environ, "PATH": f"{LAUNCHER.parent}{os.pathsep}{os.environ['PATH']}"}
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=LIMIT)
    found = [json.loads(line) for line in ran.stdout.splitlines() if line.startswith("{")]
    assert sorted(each["rank"] for each in found) == [0, 1], ran.stderr


@needs_ring
def test_a_killed_rank_ends_the_others_with_an_error(tmp_path):
    """MLX's ring notices that a peer is gone, from 0.32.1 on; none is left to wait."""
    if polyconv.execution.device.version() < (0, 32, 1):
        pytest.skip("MLX's ring waits for a lost peer for ever before 0.32.1")
    found = ended(started(tmp_path, 3, "lost=2000"), 60)
    assert found[1][0] == -signal.SIGKILL
    for status, _, errors in (found[0], found[2]):
        assert status == 1
        assert "RuntimeError: [ring] connection to a peer was lost" in errors


def test_one_process_alone_needs_no_launcher():
    x, w = mx.random.normal((1, 9, 3)), mx.random.normal((4, 5, 3))
    y, sharding = distributed.conv_transpose1d(x, w, 2, padding=1)
    assert mx.array_equal(y, polyconv.conv_transpose1d(x, w, 2, padding=1))
    assert sharding == Sharding((0, 19))


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (
            lambda x, w: distributed.conv_transpose1d(x, w, sharding=Sharding((0, 8))),
            "[conv_transpose1d] x must have 8 samples along axis 1 on rank 0; got 9",
        ),
        (
            lambda x, w: distributed.conv1d(x, w, sharding=Sharding((0, 4, 9))),
            "[conv1d] sharding must have a piece for each of 1 ranks; got 2",
        ),
        (
            lambda x, w: distributed.conv1d(x, w, axis=2),
            "[conv1d] axis must be a spatial axis of x; got 2",
        ),
        (
            lambda x, w: distributed.conv1d(x, w, axis=-1),
            "[sharding_of] axis must be one of the 3 axes of x, counted from the first; got -1",
        ),
        (
            lambda x, w: distributed.conv1d(x, w, output_sharding=Sharding((0, 4))),
            "[conv1d] output_sharding must cut 5 outputs for 1 ranks; got Sharding(bounds=(0, 4))",
        ),
        (
            lambda x, w: distributed.conv_transpose1d(x, w, stride=0),
            "[conv_transpose1d] stride must be at least 1; got 0",
        ),
        (
            lambda x, w: distributed.with_halo(x, Sharding((0, 9)), 1, -1),
            "[with_halo] behind must be at least 0; got -1",
        ),
        (
            lambda x, w: distributed.reshard(x, Sharding((0, 9)), Sharding((0, 8))),
            "[reshard] to must be of 9 samples; got 8",
        ),
        (
            lambda x, w: distributed.shard_conv_transpose(mx.ones, "all-to-sharded"),
            "[AllToShardedConvTranspose1d] layer must be a transposed convolution of mlx.nn or "
            "polyconv; got builtin_function_or_method",
        ),
        (
            lambda x, w: distributed.shard_conv_transpose(None, "all"),
            "[shard_conv_transpose] sharding must be one of all-to-sharded, sharded-to-all; "
            "got 'all'",
        ),
        (
            lambda x, w: distributed.conv1d(x, w, group=2),
            "[conv1d] group must be one of mx.distributed; got 2",
        ),
        (
            lambda x, w: distributed.AllToShardedConvTranspose1d(4, 6, 3, groups=2)(x),
            "[AllToShardedConvTranspose1d] x must have 3 axes, the last of 4 channels; "
            "got (1, 9, 3)",
        ),
        (
            lambda x, w: distributed.ShardedToAllConvTranspose1d(3, 6, 3).to_packed(),
            "[ShardedToAllConvTranspose1d] layer must have all its channels to be packed; "
            "got those of one of 1 ranks",
        ),
    ],
)
def test_refusals(call, text):
    with pytest.raises(ValueError) as error:
        call(mx.ones((1, 9, 3)), mx.ones((4, 5, 3)))
    if "builtin" in text:
        text = text.rsplit(";", 1)[0]
    assert str(error.value).startswith(text)


def test_a_layer_says_what_it_is_as_a_whole():
    layer = distributed.ShardedToAllConvTranspose2d(4, 6, (3, 5), stride=2, bias=False)
    assert repr(layer) == (
        "ShardedToAllConvTranspose2d(4, 6, kernel_size=(3, 5), stride=(2, 2), padding=(0, 0), "
        "dilation=1, output_padding=(0, 0), bias=False)"
    )
    assert layer(mx.ones((1, 3, 3, 4))).shape == (1, 7, 9, 6)
