"""Mel to waveform without weights: non-negative least squares, then fast Griffin-Lim.

Answers: which magnitudes would give this mel, and which waveform has (nearly) these magnitudes?
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import mlx.core as mx
import numpy as np
from distances import spectral_convergence
from mel import mel_filterbank
from numpy.typing import NDArray
from stft import InverseSTFT, magnitude, stft

MOMENTUM = 0.99
NNLS_STEPS = 100
# Below every magnitude that matters, and far above where float32 has no reciprocal.
TINY = 1e-12


@dataclass(frozen=True)
class Reconstruction:
    """What Griffin-Lim found.

    Args:
        waveform: samples, shape (1, T * HOP, 1).
        convergence: spectral convergence of the random phase, then after each iteration.
    """

    waveform: mx.array
    convergence: list[float]


def magnitudes_of_mel(log_mel: NDArray[np.float32], steps: int = NNLS_STEPS) -> mx.array:
    """Linear magnitudes whose mel is the one given, by non-negative least squares.

    Minimises ``|S B^T - M|`` over ``S >= 0`` by multiplicative updates
    ``S <- S * (M B) / (S B^T B)`` (Lee and Seung 2001, "Algorithms for non-negative matrix
    factorization", theorem 1 with B fixed), which never increase it. Of the many solutions, 80
    bands for 513 bins, they stay near where they start, which is smooth: each bin is the mean of
    its bands, weighted by the filters. Bins that no band reads are 0.

    Args:
        log_mel: natural-log mel, shape (T, 80).
        steps: number of updates.

    Returns:
        Magnitudes, shape (1, T, 513).
    """
    bank = mx.array(mel_filterbank().astype(np.float32))
    mel = mx.exp(mx.array(log_mel))
    read = mel @ bank
    found = read / mx.maximum(bank.sum(1) @ bank, TINY)
    for _ in range(steps):
        found = found * (read / mx.maximum((found @ bank.T) @ bank, TINY))
        mx.eval(found)
    return found[None]


def with_magnitude(spectrum: mx.array, target: mx.array) -> mx.array:
    """The spectrum with its phases kept and its magnitudes replaced; a zero stays zero."""
    scale = target / mx.maximum(magnitude(spectrum), TINY)
    return spectrum * mx.concatenate([scale, scale], axis=-1)


def random_phases(target: mx.array, seed: int) -> mx.array:
    """A spectrum of the given magnitudes whose phases are uniform and independent."""
    angle = mx.random.uniform(0, 2 * np.pi, target.shape, key=mx.random.key(seed))
    return mx.concatenate([target * mx.cos(angle), target * mx.sin(angle)], axis=-1)


def griffin_lim(
    target: mx.array,
    iterations: int,
    seed: int = 0,
    momentum: float = MOMENTUM,
    step: Callable[[str], None] = lambda said: None,
) -> Reconstruction:
    """A waveform whose short-time magnitudes come near the target's.

    Fast Griffin-Lim (Perraudin, Balazs and Sondergaard 2013, "A fast Griffin-Lim algorithm",
    WASPAA): ``t_n`` is the nearest spectrum of any waveform to ``c_(n-1)`` with its magnitudes
    replaced, and ``c_n = t_n + momentum (t_n - t_(n-1))``. Momentum 0 is Griffin and Lim 1984.

    Args:
        target: magnitudes, shape (1, T, 513).
        iterations: inverse and forward transforms after the first.
        seed: of the phases that it starts from.
        momentum: 0.99 as recommended there.
        step: called after each iteration with the spectral convergence so far.

    Returns:
        The waveform and the spectral convergence by iteration.
    """
    inverse = InverseSTFT(target.shape[1])
    waveform = inverse(random_phases(target, seed))
    previous = stft(waveform)
    guess, convergence = previous, [spectral_convergence(magnitude(previous), target)]
    for _ in range(iterations):
        waveform = inverse(with_magnitude(guess, target))
        nearest = stft(waveform)
        guess = nearest + momentum * (nearest - previous)
        previous = nearest
        convergence.append(spectral_convergence(magnitude(nearest), target))
        step(f"spectral convergence {convergence[-1]:.3f}")
    return Reconstruction(waveform, convergence)
