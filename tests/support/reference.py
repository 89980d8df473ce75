"""The judge: a convolution and its gradients in float64 NumPy, straight from the definition."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

Ints = Sequence[int]


def conv_general(
    x: Any,
    w: Any,
    stride: Ints,
    lo: Ints,
    hi: Ints,
    kernel_dilation: Ints,
    input_dilation: Ints,
    groups: int = 1,
    flip: bool = False,
) -> np.ndarray:
    """x (N, *S, C), w (O, *K, C / groups) -> (N, *output, O); every other argument per axis."""
    x, w = np.asarray(x, np.float64), np.asarray(w, np.float64)
    kernel, per_group, axes = w.shape[1:-1], w.shape[-1], tuple(range(1, x.ndim - 1))
    w = np.flip(w, axes) if flip else w
    for a, s, p, q in zip(axes, input_dilation, lo, hi):  # insert zeros and pad; or crop
        at = p + s * np.arange(x.shape[a])
        size = max(p + q + s * (x.shape[a] - 1) + 1, 0)
        inside = (at >= 0) & (at < size)
        dilated = np.zeros((*x.shape[:a], size, *x.shape[a + 1 :]))
        dilated[(slice(None),) * a + (at[inside],)] = np.compress(inside, x, a)
        x = dilated
    span = [d * (k - 1) for d, k in zip(kernel_dilation, kernel)]
    out = [(n - m - 1) // s + 1 for n, m, s in zip(x.shape[1:], span, stride)]
    y = np.zeros((x.shape[0], *out, groups, w.shape[0] // groups))
    for k in np.ndindex(*kernel):  # y[t] += w[k] x[stride t + dilation k]
        starts = [d * i for d, i in zip(kernel_dilation, k)]
        read = [slice(i, i + (n - 1) * s + 1, s) for i, n, s in zip(starts, out, stride)]
        of_x, of_w = (slice(None), *read), (slice(None), *k)
        xs = x[of_x].reshape(*y.shape[:-1], per_group)
        ws = w[of_w].reshape(groups, y.shape[-1], per_group)
        y += np.einsum("...gc,goc->...go", xs, ws)
    return y.reshape(*y.shape[:-2], w.shape[0])


def gradients(
    x: Any,
    w: Any,
    y: Any,
    stride: Ints,
    lo: Ints,
    hi: Ints,
    kernel_dilation: Ints,
    input_dilation: Ints,
    groups: int = 1,
    flip: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
    """Of sum(y * conv_general(x, w, ...)) with respect to x and w, sample by sample and tap by tap.

    Output t meets sample i through tap k where stride t + dilation k = lo + input_dilation i.
    """
    x, w, y = (np.asarray(a, np.float64) for a in (x, w, y))
    kernel, ndim = w.shape[1:-1], x.ndim - 2
    dx, dw = np.zeros_like(x), np.zeros_like(w)
    xs = x.reshape(*x.shape[:-1], groups, w.shape[-1])
    ys = y.reshape(*y.shape[:-1], groups, w.shape[0] // groups)
    dxs = dx.reshape(xs.shape)
    for k in np.ndindex(*kernel):
        outs, ins = [], []
        for a in range(ndim):
            t = np.arange(y.shape[1 + a])
            at = stride[a] * t + kernel_dilation[a] * k[a] - lo[a]
            i = at // input_dilation[a]
            meets = (at % input_dilation[a] == 0) & (i >= 0) & (i < x.shape[1 + a])
            last = lo[a] + hi[a] + input_dilation[a] * (x.shape[1 + a] - 1)
            meets &= (at + lo[a] >= 0) & (at + lo[a] <= last)  # cropped where padding is negative
            outs.append(t[meets])
            ins.append(i[meets])
        here = (slice(None), *(kernel[a] - 1 - k[a] if flip else k[a] for a in range(ndim)))
        taps = w[here].reshape(groups, ys.shape[-1], w.shape[-1])
        there, back = np.ix_(np.arange(len(x)), *ins), np.ix_(np.arange(len(x)), *outs)
        dxs[there] += np.einsum("...go,goc->...gc", ys[back], taps)
        flat = (int(np.prod(ys[back].shape[:-2])), groups)
        pairs = ys[back].reshape(*flat, ys.shape[-1]), xs[there].reshape(*flat, xs.shape[-1])
        found = np.einsum("ngo,ngc->goc", *pairs)
        dw[here] = found.reshape(w.shape[0], w.shape[-1])
    return dx, dw
