"""MLX's own convolutions, as they were when polyconv was imported.

polyconv computes with these, even while `patched()` has put others in their place in `mlx.core`.
"""

from __future__ import annotations

import mlx.core as mx

TRANSPOSED = ("conv_transpose1d", "conv_transpose2d", "conv_transpose3d")
PLAIN = ("conv1d", "conv2d", "conv3d")

conv_general = mx.conv_general

ORIGINALS = {name: getattr(mx, name) for name in (*TRANSPOSED, *PLAIN, "conv_general")}
