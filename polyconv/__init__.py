"""Transposed convolutions for MLX, computed as stride-1 convolutions."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

try:
    import mlx.core as _  # noqa: F401
except ImportError as error:
    raise ImportError(
        "polyconv needs a working MLX backend, and `import mlx.core` failed: on Linux install "
        "polyconv[cpu], polyconv[cuda12] or polyconv[cuda13] (exactly one of them), "
        "on an Apple-silicon Mac reinstall mlx"
    ) from error

from polyconv import former_names

former_names.install()  # before a module that was divided is imported

from polyconv.execution.device import exporting, planning_for  # noqa: E402
from polyconv.execution.measured import use_rates, use_tuning  # noqa: E402
from polyconv.ops.conv import conv1d, conv2d, conv3d  # noqa: E402
from polyconv.ops.conv_transpose import (  # noqa: E402
    conv_general,
    conv_transpose1d,
    conv_transpose2d,
    conv_transpose3d,
    pack,
)
from polyconv.ops.layers import (  # noqa: E402
    PolyConvTranspose,
    PolyConvTranspose1d,
    PolyConvTranspose2d,
    PolyConvTranspose3d,
)

if TYPE_CHECKING:
    from polyconv import distributed
    from polyconv.inspection.explain import doctor, explain
    from polyconv.models.converting import convert, register_converter, revert
    from polyconv.models.patching import patch, patched, unpatch
    from polyconv.models.recording import explain_model
    from polyconv.models.tuning import tune
    from polyconv.models.watching import watch
    from polyconv.streaming.functional import StreamState, stream_flush, stream_init, stream_step
    from polyconv.streaming.graph import StreamedModel
    from polyconv.streaming.layers import StreamCache, StreamingConv1d, StreamingConvTranspose1d
    from polyconv.streaming.record import stream
    from polyconv.streaming.resample import resample_poly, upfirdn
    from polyconv.streaming.resample_stream import ResampleStream

__version__ = "0.2.0"

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
    "tune",
    "unpatch",
    "upfirdn",
    "use_rates",
    "use_tuning",
    "watch",
]

# Where the other names are, by module. They are imported when they are first asked for: who calls
# a convolution or makes a layer waits for no more than that.
_LATER = {
    "inspection.explain": ("doctor", "explain"),
    "models.converting": ("convert", "register_converter", "revert"),
    "models.patching": ("patch", "patched", "unpatch"),
    "models.recording": ("explain_model",),
    "models.tuning": ("tune",),
    "models.watching": ("watch",),
    "streaming.functional": ("StreamState", "stream_flush", "stream_init", "stream_step"),
    "streaming.graph": ("StreamedModel",),
    "streaming.layers": ("StreamCache", "StreamingConv1d", "StreamingConvTranspose1d"),
    "streaming.record": ("stream",),
    "streaming.resample": ("resample_poly", "upfirdn"),
    "streaming.resample_stream": ("ResampleStream",),
}
_MODULE_OF = {name: module for module, names in _LATER.items() for name in names}


def __getattr__(name: str) -> Any:
    if name in _MODULE_OF:
        found = globals()[name] = getattr(import_module(f"polyconv.{_MODULE_OF[name]}"), name)
        return found
    return former_names.module_of(name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
