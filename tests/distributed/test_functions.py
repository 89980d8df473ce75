"""Sequences in pieces and divided channels, on real processes and on paper.

The plan is checked for every small axis without any process, and what several processes compute
(`distributed_worker.py`) against what one does, by `==`.
"""

from __future__ import annotations

import atexit
import json
import os
import signal
import socket
import subprocess
import sys
import time
from itertools import combinations_with_replacement, product
from math import gcd
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

import polyconv
from polyconv import distributed
from polyconv.distributed import Sharding
from polyconv.distributed.sharding import Exchange, outputs_of, read_by, sharded_axis
from polyconv.problem.spec import Axis

WORKER = Path(__file__).parents[1] / "support" / "distributed_worker.py"
LAUNCHER = Path(sys.executable).with_name("mlx.launch")
LIMIT = 120  # seconds
MANY = ("sequence=80", "chain=8", "large=1", "refusals=1")

needs_ring = pytest.mark.skipif(
    not mx.distributed.is_available("ring"), reason="this MLX has no ring backend"
)


_RESERVED: list[socket.socket] = []
atexit.register(lambda: [each.close() for each in _RESERVED])


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


@needs_ring
@pytest.mark.parametrize(
    ("n", "tasks"),
    [
        (2, ("sequence=40", "chain=4", "layer=8", "pieces=6", "large=1", "refusals=1")),
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
        assert n == 1 or found["ragged"] > 10
        assert n == 1 or found["bytes"] > 0


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


def axes():
    """Small axes of all kinds; those with no output are left out."""
    numbers = product((0, 1, 4, 7), (1, 2, 3), (1, 2, 3), (1, 2, 3), (1, 2, 3), (-1, 0, 2), (0, 3))
    for size, kernel, stride, input_dilation, kernel_dilation, lo, hi in numbers:
        axis = Axis(size, kernel, stride, input_dilation, kernel_dilation, lo, hi)
        if axis.output_size > 0:
            yield axis


def shardings(size: int, n: int):
    for cuts in combinations_with_replacement(range(size + 1), n - 1):
        yield Sharding((0, *cuts, size))


def reads(axis: Axis, outputs: tuple[int, int]) -> list[int]:
    """The samples that these outputs read, one by one from the definition of the axis."""
    dilated = [
        axis.stride * t + axis.kernel_dilation * k - axis.padding_lo
        for t in range(*outputs)
        for k in range(axis.kernel_size)
    ]
    found = {i // axis.input_dilation for i in dilated if i % axis.input_dilation == 0}
    return sorted(i for i in found if 0 <= i < axis.size)


def test_what_outputs_read_is_sent_and_nothing_around_it():
    seen = 0
    for axis in axes():
        for start in range(0, axis.output_size, 2):
            for stop in {start, start + 1, axis.output_size}:
                brute = reads(axis, (start, stop))
                hull = (brute[0], brute[-1] + 1) if brute else None
                assert read_by(axis, (start, stop)) == hull, (axis, start, stop)
                seen += 1
    assert seen > 10_000


@pytest.mark.parametrize("n", [1, 2, 3, 4])
def test_pieces_put_together_are_the_whole(n):
    """Every piece by the definition of its own axis, on what a simulated exchange gives it."""
    rng = np.random.default_rng(n)
    seen = 0
    for axis in axes():
        cuts = list(shardings(axis.size, n))
        chosen = rng.choice(len(cuts), min(2, len(cuts)), replace=False)
        for inputs in [cuts[i] for i in chosen]:
            x, w = rng.integers(-9, 9, axis.size), rng.integers(-9, 9, axis.kernel_size)
            cut = sharded_axis(axis, inputs)
            held = simulated(cut.exchange, x)
            y = [
                convolved(part.axis, mine, w)[: part.outputs[1] - part.outputs[0]]
                for part, mine in zip(cut.parts, held, strict=True)
            ]
            assert [len(each) for each in y] == list(cut.outputs.sizes)
            assert np.concatenate(y).tolist() == convolved(axis, x, w).tolist(), (axis, inputs)
            seen += 1
    assert seen > 1000


def convolved(axis: Axis, x: np.ndarray, w: np.ndarray) -> np.ndarray:
    y = np.zeros(axis.output_size, int)
    for t, k in product(range(axis.output_size), range(axis.kernel_size)):
        i = axis.stride * t + axis.kernel_dilation * k - axis.padding_lo
        if i % axis.input_dilation == 0 and 0 <= i // axis.input_dilation < len(x):
            y[t] += w[k] * x[i // axis.input_dilation]
    return y


def simulated(exchange: Exchange, x: np.ndarray) -> list[np.ndarray]:
    """What each rank has after all messages, if each can send only what it has by then."""
    has = [set(range(*span)) for span in exchange.sharding.spans]
    sent = [0] * len(has)
    for message in exchange.messages:
        assert abs(message.sender - message.receiver) == 1
        for each in message.transfers:
            samples = set(range(*each.span))
            assert samples <= has[message.sender]
            has[message.receiver] |= samples
        sent[message.sender] += message.size
    assert sent == [exchange.sent_by(rank) for rank in range(len(has))]
    for rank, (span, held) in enumerate(zip(exchange.spans, exchange.sharding.spans)):
        assert set(range(*span)) <= has[rank]
        assert exchange.halo_of(rank) == len(set(range(*span)) - set(range(*held)))
    there, back = [
        sum(each.size for each in m) for m in (exchange.messages, exchange.messages_back)
    ]
    assert there == back
    return [x[slice(*span)] for span in exchange.spans]


def test_neighbours_send_at_most_one_message_each_way_where_the_halo_is_theirs():
    for n in (2, 5, 64):
        cut = sharded_axis(Axis(50 * n, 16, 1, 8, 1, 11, 11), Sharding.even(50 * n, n))
        pairs = [(each.sender, each.receiver) for each in cut.exchange.messages]
        assert len(set(pairs)) == len(pairs) == 2 * (n - 1)
        assert {each.size for each in cut.exchange.messages} == {1}


def test_layers_of_a_vocoder_keep_the_cuts_on_frames():
    mel = Sharding((0, 5, 5, 14, 20))
    same = Axis(20, 11, kernel_dilation=5, padding_lo=25, padding_hi=25)
    assert outputs_of(same, mel) == mel
    for kernel, stride in ((16, 8), (4, 2), (8, 4), (20, 10)):
        lo = kernel - 1 - (kernel - stride) // 2
        up = Axis(20, kernel, input_dilation=stride, padding_lo=lo, padding_hi=lo)
        assert outputs_of(up, mel).bounds == tuple(stride * b for b in mel.bounds)


def test_the_halo_by_its_formula():
    """As docs/distributed.md has it: less only where a kernel leaves outputs out."""
    equal = 0
    for kernel, s, d, lo in product(range(1, 9), range(1, 7), range(1, 5), range(-1, 9)):
        axis = Axis(200, kernel, 1, s, d, lo, lo)
        (a, b), reach = Sharding.even(200, 4).spans[1], d * (kernel - 1)
        start, stop = sharded_axis(axis, Sharding.even(200, 4)).exchange.spans[1]
        halo, formula = (a - start, stop - b), ((reach + s) // (2 * s), -((s - reach) // (2 * s)))
        if kernel >= s and gcd(s, d) == 1:
            assert halo == formula, axis
            equal += 1
        assert all(n <= m for n, m in zip(halo, formula)), axis
    assert equal > 500


@pytest.mark.parametrize("bounds", [(0,), (1, 2), (0, 5, 3), (0, 2.0), [0, 4]])
def test_bounds_that_are_none(bounds):
    with pytest.raises(ValueError) as error:
        Sharding(bounds)
    assert str(error.value).startswith("[Sharding] bounds must be a tuple of ints that rise from 0")


def test_pieces_of_no_ranks():
    with pytest.raises(ValueError) as error:
        Sharding.even(4, 0)
    assert str(error.value) == "[Sharding.even] n_ranks must be at least 1; got 0"


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
