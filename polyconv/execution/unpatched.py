"""MLX's own convolutions, as they were when polyconv was imported.

polyconv computes with these, even while `patched()` has put others in their place in `mlx.core`.
"""

from __future__ import annotations

import mlx.core as mx

from polyconv.problem.signatures import SIGNATURES

conv_general = mx.conv_general

ORIGINALS = {name: getattr(mx, name) for name in SIGNATURES}
