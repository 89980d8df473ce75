"""Transposed convolutions for MLX, computed as stride-1 convolutions."""

try:
    import mlx.core as _  # noqa: F401
except ImportError as error:
    raise ImportError(
        "polyconv needs a working MLX backend, and `import mlx.core` failed: on Linux install "
        "polyconv[cpu], polyconv[cuda12] or polyconv[cuda13] (exactly one of them), "
        "on an Apple-silicon Mac reinstall mlx"
    ) from error

from polyconv import distributed, former_names
from polyconv.execution.device import exporting, planning_for, use_rates
from polyconv.inspection.explain import doctor, explain
from polyconv.models.converting import convert, register_converter, revert
from polyconv.models.patching import patch, patched, unpatch
from polyconv.models.recording import explain_model
from polyconv.models.watching import watch
from polyconv.ops.conv import conv1d, conv2d, conv3d
from polyconv.ops.conv_transpose import (
    conv_general,
    conv_transpose1d,
    conv_transpose2d,
    conv_transpose3d,
    pack,
)
from polyconv.ops.layers import (
    PolyConvTranspose,
    PolyConvTranspose1d,
    PolyConvTranspose2d,
    PolyConvTranspose3d,
)
from polyconv.streaming.functional import StreamState, stream_flush, stream_init, stream_step
from polyconv.streaming.graph import StreamedModel
from polyconv.streaming.layers import StreamCache, StreamingConv1d, StreamingConvTranspose1d
from polyconv.streaming.record import stream
from polyconv.streaming.resample import resample_poly, upfirdn
from polyconv.streaming.resample_stream import ResampleStream

__all__ = [
    "PolyConvTranspose",
    "PolyConvTranspose1d",
    "PolyConvTranspose2d",
    "PolyConvTranspose3d",
    "ResampleStream",
    "StreamCache",
    "StreamState",
    "StreamedModel",
    "StreamingConv1d",
    "StreamingConvTranspose1d",
    "conv1d",
    "conv2d",
    "conv3d",
    "conv_general",
    "conv_transpose1d",
    "conv_transpose2d",
    "conv_transpose3d",
    "convert",
    "distributed",
    "doctor",
    "explain",
    "explain_model",
    "exporting",
    "pack",
    "patch",
    "patched",
    "planning_for",
    "register_converter",
    "resample_poly",
    "revert",
    "stream",
    "stream_flush",
    "stream_init",
    "stream_step",
    "unpatch",
    "upfirdn",
    "use_rates",
    "watch",
]

__version__ = "0.1.0"

former_names.install()
__getattr__ = former_names.module_of
