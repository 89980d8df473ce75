"""On the GPU: does MLX read outside its input where its dispatch looks only at `padding_lo`?

Where MLX does is reported and fails nothing. Far from there it must be right;
polyconv must be right everywhere.
"""

import mlx.core as mx
import numpy as np
import pytest

from polyconv.execution import run
from polyconv.planning.choose import plan
from tests.support.forms import HAZARDS


def arrays(spec):
    """Small integers inside a larger buffer of large ones, so that reading outside shows."""
    size = (spec.batch + 2, *(axis.size for axis in spec.axes), spec.in_channels)
    x = mx.full(size, 1e6)
    values = mx.random.randint(-2, 3, (spec.batch, *size[1:])).astype(mx.float32)
    x[1:-1] = values
    kernel = [axis.kernel_size for axis in spec.axes]
    w = mx.random.randint(-1, 2, (spec.out_channels, *kernel, spec.in_channels // spec.groups))
    mx.eval(x)
    return x[1:-1], w.astype(mx.float32)


def padded_by_hand(spec, x, w):
    widths = [(0, 0), *[(a.padding_lo, a.padding_hi) for a in spec.axes], (0, 0)]
    return mx.conv_general(mx.pad(x, widths), w, groups=spec.groups)


@pytest.mark.parametrize("path", HAZARDS)
def test_a_hazard_of_mlx(path, gpu, note):
    spec = HAZARDS[path]
    x, w = arrays(spec)
    lo, hi = [a.padding_lo for a in spec.axes], [a.padding_hi for a in spec.axes]
    with mx.stream(mx.cpu):
        expected = np.array(padded_by_hand(spec, x, w))
    own = np.array(mx.conv_general(x, w, padding=(lo, hi), groups=spec.groups))
    # Windows in the first half of every axis end long before the padding behind.
    near = (slice(None), *[slice(n // 2) for n in spec.output_sizes])
    assert own.shape == expected.shape
    assert np.abs(own - expected)[near].max() < 0.5
    wrong = float(np.mean(np.abs(own - expected) > 0.5))
    note(f"mx.conv_general, {path} padded behind: {wrong:.2%} of the outputs wrong")


@pytest.mark.parametrize("path", HAZARDS)
def test_polyconv_on_the_same_call(path, gpu, metal):
    spec = HAZARDS[path]
    x, w = arrays(spec)
    with mx.stream(mx.cpu):
        expected = np.array(padded_by_hand(spec, x, w))
    chosen = plan(spec, "per_phase", device=metal)
    ours = np.array(run.run(chosen, x, w, pad_explicitly=False))
    assert np.abs(ours - expected).max() < 0.5
