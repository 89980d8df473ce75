"""Which parameters of Metal's time model agree with times on this Mac? For `bench --calibrate`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import astuple
from typing import Any, TypeAlias

import numpy as np

from polyconv.metal.seconds import Parameters, call_seconds
from polyconv.planning.candidates import candidates
from polyconv.planning.devices import Metal
from polyconv.planning.metal_seconds import kernels_of
from polyconv.problem.spec import ConvSpec

_Array: TypeAlias = "np.ndarray[Any, Any]"

# How strongly a parameter is drawn to that of other Macs, as in docs/benchmarks/metal_fit.py.
_PULL = 0.05


def fit(
    rows: Sequence[dict[str, Any]],
    metal: Metal,
    problem_of_row: Callable[[dict[str, Any]], ConvSpec],
) -> Parameters:
    """The parameters of Metal's time model that agree best with times on this Mac.

    By least squares on the logarithm of the error, with a soft L1 loss. What no row tells stays as
    it is for other Macs, to which each parameter is drawn weakly.

    Args:
        rows (list(dict)): Layers, each with its times under ``"ms"``.
        metal (Metal): This Mac.
        problem_of_row (callable): Gives the convolution of a row.

    Returns:
        Parameters: In the units of the model.

    Raises:
        ImportError: Without SciPy, which the `bench` extra brings.
    """
    from scipy.optimize import least_squares

    known = []
    for row in rows:
        for each in candidates(problem_of_row(row), metal):
            if each.label in row["ms"]:
                kernels = kernels_of(each, metal.gpu)
                known.append((kernels, np.log(row["ms"][each.label] / 1e3)))
    start = np.log(astuple(metal.parameters))

    def residuals(logs: _Array) -> _Array:
        parameters = Parameters(*np.exp(logs).tolist())
        told = [np.log(call_seconds(kernels, metal.gpu, parameters)) for kernels, _ in known]
        errors = np.array(told) - np.array([measured for _, measured in known])
        return np.concatenate([errors, _PULL * (logs - start)])

    found = least_squares(residuals, start, loss="soft_l1", f_scale=0.15).x
    return Parameters(*[float(f"{value:.3g}") for value in np.exp(found)])
