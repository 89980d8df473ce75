"""The judge: a convolution in float64 NumPy, straight from the definition."""

import numpy as np


def conv_general(x, w, stride, lo, hi, kernel_dilation, input_dilation, groups=1, flip=False):
    """x (N, *S, C), w (O, *K, C / groups) -> (N, *output, O); every other argument per axis."""
    x, w = np.asarray(x, np.float64), np.asarray(w, np.float64)
    kernel, per_group, axes = w.shape[1:-1], w.shape[-1], range(1, x.ndim - 1)
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
        at = [slice(i, i + (n - 1) * s + 1, s) for i, n, s in zip(starts, out, stride)]
        xs = x[(slice(None), *at)].reshape(*y.shape[:-1], per_group)
        ws = w[(slice(None), *k)].reshape(groups, y.shape[-1], per_group)
        y += np.einsum("...gc,goc->...go", xs, ws)
    return y.reshape(*y.shape[:-2], w.shape[0])
