"""Which taps and padding has each phase of one axis?

The integer mathematics of polyphase decomposition, for one axis and without channels.
Standard library only.
"""

from __future__ import annotations

from functools import lru_cache
from math import gcd
from typing import NamedTuple

from polyconv.problem.spec import Axis


class Phase(NamedTuple):
    """The outputs `residue, residue + P, residue + 2 P, ...` of an axis with P phases.

    They are an undilated convolution of the input with the taps `w[taps]`, which starts
    `padding_lo` samples before the input. The kernel is in correlation order. Taps that would meet
    nothing but padding are left out.
    """

    residue: int
    taps: range
    padding_lo: int


def n_phases(axis: Axis) -> int:
    """P: after how many outputs the alignment of taps and input samples repeats."""
    return axis.input_dilation // gcd(axis.input_dilation, axis.stride)


def phase_stride(axis: Axis) -> int:
    """Input samples from one output of a phase to its next."""
    return axis.stride // gcd(axis.input_dilation, axis.stride)


def phase_dilation(axis: Axis) -> int:
    """Input samples from one tap of a phase to its next."""
    return axis.kernel_dilation // gcd(axis.input_dilation, axis.kernel_dilation)


@lru_cache(64)
def split(axis: Axis) -> tuple[Phase, ...]:
    """The phases of `axis` that read any input; every output outside them is zero.

    Derivation, with s = input_dilation, p = stride, d = kernel_dilation, lo = padding_lo, and
    g = gcd(s, d), h = gcd(s, p), P = s / h:

        y[t] = sum_k w[k] xd[p t + d k - lo],        xd[i] = x[i / s] if s divides i, else 0

    Write t = P m + r. Tap k meets a sample, and not an inserted zero, when

        p r + d k = lo  (mod s)                      since s divides p P

    For given r these k are k0, k0 + s/g, k0 + 2 s/g, ...; for given k0 < s/g there is one r below
    P if h divides lo - d k0, and none otherwise. Put k = k0 + j s/g in, and divide by s:

        y[P m + r] = sum_j w[k0 + j s/g] x[(p/h) m + (d/g) j - lo_r],
        lo_r = (lo - p r - d k0) / s

    which is a convolution with stride p/h, kernel dilation d/g, and no input dilation: the
    polyphase representation of multirate filters (Vaidyanathan, Multirate Systems and Filter
    Banks, 1993, chapter 4), with padding and dilation carried along.

    >>> for p in split(Axis(size=4, kernel_size=4, input_dilation=2, padding_lo=2, padding_hi=2)):
    ...     print(p.residue, list(p.taps), p.padding_lo)
    0 [0, 2] 1
    1 [1, 3] 0
    """
    s, p, d, lo = axis.input_dilation, axis.stride, axis.kernel_dilation, axis.padding_lo
    h = gcd(s, p)
    step, period = s // gcd(s, d), s // h
    stride, dilation = phase_stride(axis), phase_dilation(axis)
    inverse = pow(stride, -1, period)
    size, kernel_size, output_size = axis.size, axis.kernel_size, axis.output_size
    phases: list[Phase] = []
    for k0 in range(min(kernel_size, step)):
        meets = lo - d * k0
        if meets % h:
            continue
        r = meets // h * inverse % period
        if r >= output_size:
            continue
        lo_r = (meets - p * r) // s
        # Only taps that lie over the input at some output are kept: at the last output the first
        # of them may not lie before it, at the first output the last may not lie behind it.
        last_start = (output_size - r - 1) // period * stride - lo_r
        first = -(last_start // dilation) if last_start < 0 else 0
        last = min((kernel_size - k0 - 1) // step, (size - 1 + lo_r) // dilation)
        if first <= last:
            taps = range(k0 + first * step, k0 + last * step + 1, step)
            phases.append(Phase(r, taps, lo_r - first * dilation))
    phases.sort()
    return tuple(phases)
