"""On the GPU: peak memory against what is predicted.

Bounds, above which a test fails, are those of polyconv's own calls. They count every temporary as
kept, since Metal frees none before its command buffer completes, and every buffer as rounded up to
pages. A report, which fails nothing, is how near the model comes to what MLX's own calls take.
"""

from math import prod

import mlx.core as mx
import pytest

import polyconv
from polyconv.planning.choose import plan
from polyconv.planning.workspace import allocated
from polyconv.problem.signatures import problem_of
from polyconv.problem.spec import ITEMSIZE
from tests.campaigns.guarantee import real_calls
from tests.on_metal.conftest import DRY, peak_of
from tests.support.recorded import ROWS, spec_of

_PAGE = 16384
# Of Metal's own, and of what a call allocates that has no size to speak of.
_PAGES = 64 * _PAGE
# Buffers that a subconv has at most: its taps, their steps, its input, its output and copies of it.
_BUFFERS = 16
# What MLX frees when differs from run to run; to unfold would take taps times the input.
_MARGIN = 1.5


def bound_of(problem, metal):
    """Everything but input and weight, each buffer rounded up to whole pages."""
    output = ITEMSIZE[problem.dtype] * prod(problem.output_shape)
    chosen = plan(problem, device=metal)
    n_convs = sum(sub.issued.n_convs for sub in chosen.subconvs)
    return output + sum(allocated(chosen).values()) + _BUFFERS * n_convs * _PAGE + _PAGES


def small_enough(call):
    op, x, w, options, groups = call
    problem = problem_of(op, x, w, "float32", {**options, "groups": groups})
    return 4 * prod(problem.output_shape) < (1e6 if DRY else 3e8)


CALLS = [call for call in real_calls() if small_enough(call)][:: 20 if DRY else 3]


@pytest.mark.parametrize("call", CALLS, ids=str)
def test_peak_memory_of_real_layers_is_below_what_is_predicted(call, gpu, metal, note):
    op, x_shape, w_shape, options, groups = call
    problem = problem_of(op, x_shape, w_shape, "float32", {**options, "groups": groups})
    x, w = mx.random.normal(x_shape), mx.random.normal(w_shape)
    mx.eval(x, w)
    run = getattr(polyconv, op)
    peak = peak_of(lambda: run(x, w, **options, groups=groups))
    bound = _MARGIN * bound_of(problem, metal)
    note(f"peak {peak / 1e6:9.2f} MB of {bound / 1e6:9.2f} at most: {op} {x_shape} {w_shape}")
    assert DRY or peak <= bound


def test_the_repro_of_the_mlx_issue_beyond_5157_frames(gpu, note):
    for frames in (5157, 5158, 20_000):
        x, w = mx.random.normal((1, frames, 1)), mx.random.normal((1, 4096, 1))
        mx.eval(x, w)
        peak = peak_of(lambda x=x, w=w: polyconv.conv_transpose1d(x, w, stride=1024))
        note(f"mlx #3082 with {frames} frames: peak {peak / 1e6:.1f} MB")
        assert DRY or peak < 3 * 4 * 1024 * (frames + 8) + _PAGES  # 1.5 times two copies


def test_a_call_in_tiles_keeps_its_limit_but_for_one_tile_more(gpu, note):
    """A tile begins while the command buffer of the one before may still hold temporaries."""
    x, w = mx.random.normal((8, 20_000, 32)), mx.random.normal((32, 8, 32))
    mx.eval(x, w)
    call = lambda x, w, **more: polyconv.conv_transpose1d(x, w, 4, **more)  # noqa: E731
    for limit in (8_000_000, 32_000_000):
        y = call(x[:, :9], w)
        size = y.nbytes // y.shape[1] * (4 * 20_000 + 4)
        peak = peak_of(lambda n=limit: call(x, w, max_workspace=n)) - size
        note(f"in tiles of {limit / 1e6:.0f} MB: {peak / 1e6:.2f} MB beside the result")
        assert DRY or peak <= 2 * limit + _PAGES


def laid_out(shape, layout, dtype):
    """An array of a shape that lies in memory as `layout` says."""
    n, *middle, last = shape
    make = lambda *s: mx.random.normal(s).astype(dtype)  # noqa: E731
    if layout == "channels_first":
        a = mx.moveaxis(make(n, last, *middle), 1, -1)
    elif layout == "swap_oi":
        a = mx.swapaxes(make(last, *middle, n), 0, -1)
    elif layout == "iok":
        a = mx.moveaxis(make(last, n, *middle), 0, -1)
    elif layout == "slice_batch":
        a = make(n + 1, *middle, last)[1:]
    elif layout == "slice_channel":
        a = make(n, *middle, last + 1)[..., :last]
    elif layout == "slice_spatial":
        a = make(n, middle[0] + 2, *middle[1:], last)[:, 1:-1]
    elif layout == "slice_step2":
        a = make(n, 2 * middle[0], *middle[1:], last)[:, ::2]
    elif layout == "flipped":
        a = make(n, *middle, last)[:, ::-1]
    elif layout == "broadcast_batch":
        a = mx.broadcast_to(make(1, *middle, last), shape)
    else:
        a = make(*shape)
    assert a.shape == tuple(shape)
    return a


def rows_to_run():
    """200 of the recorded calls, of all paths, that fit any Mac and read nothing outside."""
    fit = [
        row
        for row in ROWS
        if not row["hazard"] and sum(row["bytes"].values()) < (3e5 if DRY else 1e9)
    ]
    fit = [row for row in fit if not (row["groups"] > 1 and spec_of(row).ndim == 3)]
    return fit[:: max(len(fit) // 200, 1)][: 10 if DRY else 200]


def test_predicted_against_measured_peak_memory_of_recorded_calls(gpu, note):
    """A report: these are MLX's own calls, by which polyconv's model of it is judged."""
    apart = []
    for row in rows_to_run():
        dtype = getattr(mx, row["dtype"])
        x, w = (laid_out(row[k], row["layouts"][i], dtype) for i, k in enumerate("xw"))
        mx.eval(x, w)
        padding = (row["padding_lo"], row["padding_hi"])
        steps = (row["kernel_dilation"], row["input_dilation"], row["groups"], row["flip"])
        run = lambda x=x, w=w, r=row, p=padding, s=steps: mx.conv_general(x, w, r["stride"], p, *s)  # noqa: E731
        peak, predicted = peak_of(run), sum(row["bytes"].values())
        apart.append((peak - predicted, row["id"], row["path"], peak, predicted))
    over = [each for each in apart if each[3] > _PAGES + _MARGIN * each[4]]
    note(f"recorded calls: {len(apart)} run, {len(over)} above the predicted peak")
    for _, name, path, peak, predicted in sorted(over, reverse=True)[:20]:
        note(f"  {name} {path}: {peak} bytes, predicted {predicted}")
    assert len(apart) == len(rows_to_run()) > 0
