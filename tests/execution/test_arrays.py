"""How arrays are padded, cut and summed, where what MLX does depends on the device."""

import mlx.core as mx
import pytest

from polyconv.execution.arrays import plus_product


@pytest.mark.parametrize(
    ("rows", "inner", "columns"), [(2, 3, 4), (0, 3, 4), (2, 0, 4), (2, 3, 0), (0, 0, 0)]
)
@pytest.mark.parametrize("batch", [(), (3,)])
def test_nothing_empty_reaches_addmm(rows, inner, columns, batch, monkeypatch):
    """On CUDA it ends the process."""
    given, addmm = [], mx.addmm
    monkeypatch.setattr(mx, "addmm", lambda *args: given.append(args[1:3]) or addmm(*args))
    a, b, c = mx.ones((*batch, rows, inner)), mx.ones((*batch, inner, columns)), mx.ones((columns,))
    y = plus_product(c, a, b, 2.0, 3.0)
    assert y.shape == (*batch, rows, columns)
    assert mx.array_equal(y, mx.full(y.shape, 3.0 + 2.0 * inner))
    assert len(given) == (rows * inner * columns > 0)
