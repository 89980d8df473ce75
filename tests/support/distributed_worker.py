"""What each rank runs for tests/distributed: random cases, against one process by `==`.

    MLX_RANK=... MLX_HOSTFILE=... python distributed_worker.py sequence=100 layer=20

All ranks draw the same cases from the same seed, and each computes the whole by itself as well.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import mlx.core as mx

import polyconv
from polyconv import distributed
from polyconv.distributed import Sharding, transport
from polyconv.distributed.sharding import most_given, sharded_axis
from polyconv.problem.signatures import read_call

DTYPES = (mx.float32, mx.float32, mx.float16, mx.bfloat16)


@dataclass
class Case:
    op: str
    options: dict[str, Any]
    x: mx.array
    w: mx.array
    axis: int
    sharding: Sharding

    def whole(self, x: mx.array, w: mx.array) -> mx.array:
        return getattr(polyconv, self.op)(x, w, **self.options)

    def sharded(self, x: mx.array, w: mx.array, **more: Any) -> tuple[mx.array, Sharding]:
        given = {**self.options, "sharding": self.sharding, "axis": self.axis, **more}
        found: tuple[mx.array, Sharding] = getattr(distributed, self.op)(x, w, **given)
        return found


def integers(rng: random.Random, shape: tuple[int, ...], dtype: mx.Dtype, most: int) -> mx.array:
    n = 1
    for size in shape:
        n *= size
    values = [rng.randint(-most, most) for _ in range(n)]
    return mx.array(values, mx.float32).reshape(shape).astype(dtype)


def bounds(rng: random.Random, size: int, n: int) -> Sharding:
    """Any cuts; every third time pieces as equal as can be."""
    if rng.random() < 1 / 3:
        return Sharding.even(size, n)
    cuts = sorted(rng.choice((0, size, rng.randint(0, size))) for _ in range(n - 1))
    return Sharding((0, *cuts, size))


def draw(rng: random.Random, n: int) -> Case:
    """A call that the whole takes, on a sequence in n pieces."""
    while True:
        ndim = rng.choice((1, 1, 2, 3))
        case = drawn(rng, ndim, n)
        try:
            case.whole(case.x, case.w)
        except ValueError:
            continue
        return case


def drawn(rng: random.Random, ndim: int, n: int) -> Case:
    sizes = [rng.randint(1, {1: 30, 2: 9, 3: 5}[ndim]) for _ in range(ndim)]
    kernel = [rng.randint(1, 5) for _ in range(ndim)]
    op = rng.choice((f"conv_transpose{ndim}d", "conv_general", "conv1d"))
    if op == "conv1d" and ndim > 1:
        op = "conv_general"
    groups, per_group = rng.choice(((1, 2), (1, 1), (2, 1), (2, 2), (3, 1)))
    options = {**drawn_options(rng, op, ndim), "groups": groups}
    dtype, large = rng.choice(DTYPES), rng.choice((3, 3, 40))
    x = integers(rng, (rng.randint(0, 2), *sizes, groups * per_group), dtype, large)
    w = integers(rng, (groups * rng.randint(1, 2), *kernel, per_group), dtype, large)
    axis = rng.randint(1, ndim)
    return Case(op, options, x, w, axis, bounds(rng, sizes[axis - 1], n))


def drawn_options(rng: random.Random, op: str, ndim: int) -> dict[str, Any]:
    def pick(lowest: int, most: int) -> list[int]:
        return [rng.randint(lowest, most) for _ in range(ndim)]

    if op == "conv_general":
        found = {"stride": pick(1, 3), "padding": (pick(-2, 5), pick(-2, 5))}
        found |= {"kernel_dilation": pick(1, 3), "input_dilation": pick(1, 3)}
        return {**found, "flip": rng.random() < 0.5}
    if op == "conv1d":
        return {"stride": pick(1, 3), "padding": pick(0, 4), "dilation": pick(1, 3)}
    found = {"stride": pick(1, 4), "padding": pick(-1, 3)}
    return {**found, "dilation": pick(1, 3), "output_padding": pick(0, 2)}


def piece(array: mx.array, axis: int, sharding: Sharding, rank: int) -> mx.array:
    start, stop = sharding.spans[rank]
    return array[(slice(None),) * axis + (slice(start, stop),)]


def same(a: mx.array, b: mx.array) -> bool:
    return a.shape == b.shape and a.dtype == b.dtype and bool(mx.array_equal(a, b))


def sequence(rng: random.Random, group: Any) -> dict[str, int]:
    """A convolution of a sequence in pieces, its gradients, and the bytes that it sends."""
    rank, n = group.rank(), group.size()
    case = draw(rng, n)
    y = case.whole(case.x, case.w)
    outputs = bounds(rng, y.shape[case.axis], n) if rng.random() < 0.25 else None
    dy = integers(rng, y.shape, y.dtype, 3)
    gradients = mx.grad(lambda x, w: (case.whole(x, w) * dy).sum(), argnums=(0, 1))
    dx, dw = gradients(case.x, case.w)
    x = piece(case.x, case.axis, case.sharding, rank)
    with distributed.traffic() as forward:
        mine, found = case.sharded(x, case.w, output_sharding=outputs)
    assert outputs in (None, found), (case, outputs)
    assert same(mine, piece(y, case.axis, found, rank)), (rank, case, found)
    my_dy = piece(dy, case.axis, found, rank)

    def loss(x: mx.array, w: mx.array) -> mx.array:
        return (case.sharded(x, w, output_sharding=outputs)[0] * my_dy).sum()

    with distributed.traffic() as both:
        my_dx, my_dw = mx.grad(loss, argnums=(0, 1))(x, case.w)
        mx.eval(my_dx, my_dw)
    assert same(my_dx, piece(dx, case.axis, case.sharding, rank)), (rank, case, "dx")
    assert same(my_dw, dw), (rank, case, "dw", my_dw, dw)
    if sum(case.w.shape) % 4 == 0:  # packed under the gradient it is summed over the ranks too
        my_dw = mx.grad(lambda w: loss(x, polyconv.pack(w)))(case.w)
        assert same(my_dw, dw), (rank, case, "dw, packed", my_dw, dw)
    there, back = planned_bytes(case, found, rank)
    assert (forward.bytes_sent, both.bytes_sent) == (there, there + back), (rank, case)
    return {"bytes": both.bytes_sent, "ragged": len(set(case.sharding.sizes)) > 1}


def chain(rng: random.Random, group: Any) -> dict[str, int]:
    """A small vocoder: layers one behind the other with a residual one, and all their gradients."""
    rank, n = group.rank(), group.size()
    size, dtype = rng.randint(n, 12), rng.choice(DTYPES)
    cuts = bounds(rng, size, n)
    x = integers(rng, (1, size, 2), dtype, 2)
    shapes = {"up": (2, 4, 2), "same": (2, 3, 2), "post": (1, 5, 2)}
    weights = {name: integers(rng, shape, dtype, 2) for name, shape in shapes.items()}
    c = integers(rng, (1, 2 * size, 1), dtype, 1)

    def whole(weights: Any, x: mx.array) -> mx.array:
        y = mx.maximum(polyconv.conv_transpose1d(x, weights["up"], 2, 1), 0)
        y = y + polyconv.conv1d(y, weights["same"], padding=2, dilation=2)
        return (polyconv.conv1d(y, weights["post"], padding=2) * c).sum()

    def sharded(weights: Any, x: mx.array) -> mx.array:
        y, s = distributed.conv_transpose1d(x, weights["up"], 2, 1, sharding=cuts)
        y = mx.maximum(y, 0)
        z, s = distributed.conv1d(y, weights["same"], padding=2, dilation=2, sharding=s)
        z, s = distributed.conv1d(y + z, weights["post"], padding=2, sharding=s)
        return (z * piece(c, 1, s, rank)).sum()

    _, (dw, dx) = mx.value_and_grad(whole, argnums=(0, 1))(weights, x)
    _, (my_dw, my_dx) = mx.value_and_grad(sharded, argnums=(0, 1))(weights, piece(x, 1, cuts, rank))
    assert same(my_dx, piece(dx, 1, cuts, rank)), (rank, cuts, dtype, "dx", my_dx, dx)
    assert all(same(my_dw[name], dw[name]) for name in dw), (rank, cuts, dtype, my_dw, dw)
    only = mx.grad(sharded)(weights, piece(x, 1, cuts, rank))  # of the weights alone
    assert all(same(only[name], dw[name]) for name in dw), (rank, cuts, dtype, only, dw)
    return {}


def large(rng: random.Random, group: Any) -> dict[str, int]:
    """Messages longer than what sockets hold, both ways at once."""
    n, size = group.size(), 1 << 21
    x = mx.full((1, size, 4), group.rank(), mx.float32)
    y = distributed.with_halo(x, Sharding.even(size * n, n), size, size)
    first, last = max(0, group.rank() - 1), min(n - 1, group.rank() + 1)
    assert y[0, ::size, 0].tolist() == list(range(first, last + 1))
    return {}


def planned_bytes(case: Case, outputs: Sharding, rank: int) -> tuple[int, int]:
    """Bytes that a rank sends for the output, and for the gradient, by the plan."""
    options = dict(case.options)
    x, w, dtypes = case.x.shape, case.w.shape, ("float32", "float32")
    problem = read_call(case.op, x, w, dtypes, **options)
    exchange = sharded_axis(problem.axes[case.axis - 1], case.sharding, outputs).exchange
    frame = case.x.size // case.x.shape[case.axis]
    there = exchange.sent_by(rank)
    back = sum(each.size for each in exchange.messages_back if each.sender == rank)
    if exchange.transfers and not transport.can_send(mx.distributed.init()):
        n = case.sharding.n_ranks
        there, back = [most_given(e, n) for e in (exchange.transfers, exchange.transfers_back)]
    # Gradients of halves are sent in float32.
    return there * frame * case.x.itemsize, back * frame * 4


def layer(rng: random.Random, group: Any) -> dict[str, int]:
    """A layer whose channels are divided, and its gradients."""
    rank, n = group.rank(), group.size()
    ndim = rng.choice((1, 2, 3))
    dtype, groups, most = rng.choice(DTYPES[1:]), rng.choice((1, 1, n, 2 * n)), rng.choice((3, 40))
    channels = [n * 2 * rng.randint(1, 2) for _ in range(2)]
    kind = rng.choice(("all-to-sharded", "sharded-to-all"))
    options = {"stride": rng.randint(1, 3), "bias": rng.random() < 0.7, "groups": groups}
    made = getattr(polyconv, f"PolyConvTranspose{ndim}d")
    whole = made(*channels, rng.randint(2, 4), **options)
    filled = {k: integers(rng, a.shape, dtype, most) for k, a in sorted(whole.parameters().items())}
    whole.update(filled)
    x = integers(rng, (2, *[rng.randint(2, 6) for _ in range(ndim)], channels[0]), dtype, most)
    y = whole(x)
    dy = integers(rng, y.shape, y.dtype, most)
    dw, dx = layer_gradients(whole, x, dy)
    mine = distributed.shard_conv_transpose(whole, kind)
    inputs, outputs = [Sharding.even(size, n) for size in channels]
    last = x.ndim - 1
    if kind == "all-to-sharded":
        y, dy = [piece(a, last, outputs, rank) for a in (y, dy)]
        dw = {name: piece(a, 0, outputs, rank) for name, a in dw.items()}
    else:
        x, dx = [piece(a, last, inputs, rank) for a in (x, dx)]
        by_groups = piece(dw["weight"], 0, outputs, rank)
        dw["weight"] = by_groups if groups > 1 else piece(dw["weight"], last, inputs, rank)
    told = (rank, kind, whole, dtype)
    assert same(mine(x), y), told
    assert same(mx.compile(mine)(x), y), (*told, "compiled")
    my_dw, my_dx = layer_gradients(mine, x, dy)
    assert same(my_dx, dx), (*told, "dx")
    assert set(my_dw) == set(dw), told
    assert all(same(my_dw[name], dw[name]) for name in dw), (*told, "dw")
    return {}


def layer_gradients(module: Any, x: mx.array, dy: mx.array) -> Any:
    def loss(weights: Any, x: mx.array) -> mx.array:
        module.update(weights)
        return (module(x) * dy).sum()

    weights = module.parameters()
    found = mx.grad(loss, argnums=(0, 1))(weights, x)
    module.update(weights)
    return found


def pieces(rng: random.Random, group: Any) -> dict[str, int]:
    """`sharding_of`, `reshard` and `with_halo`, with gradients of first and second order."""
    rank, n = group.rank(), group.size()
    size, axis = rng.randint(0, 20), rng.randint(0, 2)
    shape = [rng.randint(1, 3) for _ in range(3)]
    shape[axis] = size
    x = integers(rng, tuple(shape), rng.choice(DTYPES), 9)
    a, b = bounds(rng, size, n), bounds(rng, size, n)
    mine = piece(x, axis, a, rank)
    assert distributed.sharding_of(mine, axis=axis) == a
    moved = distributed.reshard(mine, a, b, axis=axis)
    assert same(moved, piece(x, axis, b, rank)), (rank, a, b)
    before, behind = rng.randint(0, 6), rng.randint(0, 6)
    spans = [(max(0, i - before), min(size, j + behind)) for i, j in a.spans]
    start, stop = spans[rank]
    halo = distributed.with_halo(mine, a, before, behind, axis=axis)
    assert same(halo, x[(slice(None),) * axis + (slice(start, stop),)]), (rank, a)
    copies = [sum(i <= s < j for i, j in spans) for s in range(*a.spans[rank])]
    counted = mx.array(copies, x.dtype).reshape([-1 if i == axis else 1 for i in range(3)])

    def cubes(x: mx.array) -> mx.array:
        return (distributed.with_halo(x, a, before, behind, axis=axis) ** 3).sum()

    assert same(mx.grad(cubes)(mine), 3 * mine**2 * counted), (rank, a, "first order")
    twice = mx.grad(lambda x: mx.grad(cubes)(x).sum())(mine)
    assert same(twice, 6 * mine * counted), (rank, a, "second order")
    return {}


def lost(rng: random.Random, group: Any) -> dict[str, int]:
    """Rank 1 is killed in the middle; the others go on asking for its samples."""
    x, w = mx.ones((1, 64, 4)), mx.ones((4, 8, 4))
    if group.rank() == 1 and rng.random() < 0.2:
        os.kill(os.getpid(), signal.SIGKILL)
    sharding = Sharding.even(64 * group.size(), group.size())
    mx.eval(distributed.conv_transpose1d(x, w, 4, 2, sharding=sharding)[0])
    return {}


def refusals(rng: random.Random, group: Any) -> dict[str, int]:
    """Each rank refuses by itself what is not the sharding's, before anything is sent."""
    x, w = mx.ones((1, 8, 2)), mx.ones((2, 4, 2))
    n = group.size()
    layer = polyconv.PolyConvTranspose1d(n + 1, n + 1, 3)
    halved = mx.compile(lambda x: distributed.with_halo(x, Sharding.even(8 * n, n), 1, 1))
    calls: list[Callable[[], object]] = [
        lambda: distributed.conv_transpose1d(x, w, sharding=Sharding.even(9 * n, n)),
        lambda: distributed.conv_transpose1d(x, w, sharding=Sharding.even(8, n + 1)),
        lambda: halved(x),
    ]
    if n > 1:
        calls += [
            lambda: distributed.shard_conv_transpose(layer, "all-to-sharded"),
            lambda: distributed.shard_conv_transpose(layer, "sharded-to-all"),
        ]
    for call in calls:
        try:
            call()
        except ValueError as error:
            assert str(error).startswith("["), error
        else:
            raise AssertionError("not refused")
    return {}


def forbid_sending() -> None:
    """As MLX's NCCL, which has the calls but nothing that computes them."""

    def send(*_: Any, **__: Any) -> mx.array:
        raise RuntimeError("Send has no CUDA implementation.")

    mx.distributed.send = mx.distributed.recv = send


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("tasks", nargs="+", metavar="task=cases")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--backend", default="ring", help="of MLX; `any` for one process")
    parser.add_argument("--without-send", action="store_true", help="as if MLX could not send")
    given = parser.parse_args()
    if given.without_send:
        forbid_sending()
    strict = given.backend != "ring" or "MLX_HOSTFILE" in os.environ
    group = mx.distributed.init(backend=given.backend, strict=strict)
    rng = random.Random(f"{given.seed} {group.size()}")
    found: Counter[str] = Counter()
    for task in given.tasks:
        name, cases = task.split("=")
        for _ in range(int(cases)):
            found.update({k: int(v) for k, v in globals()[name](rng, group).items()})
            found[name] += 1
    told = {"rank": group.rank(), "size": group.size(), "sends": transport.can_send(group)}
    print(json.dumps({**told, **found}), flush=True)


if __name__ == "__main__":
    main()
