"""Where modules stood before they moved into wings: old imports work, and old pickles load.

`import polyconv.devices` gives `polyconv.planning.devices`. A wing that has the name of an old
module, such as `polyconv.streaming`, gives what that module had.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from pkgutil import iter_modules
from types import ModuleType
from typing import Any

# By the old name, all below `polyconv.`.
MOVED = {
    "arguments": "problem.arguments",
    "axisplan": "planning.axis_plan",
    "benching": "bench.command",
    "bias": "gradients.bias",
    "blas": "inspection.blas",
    "calibration": "bench.calibration",
    "calls": "ops.call",
    "cases": "bench.cases",
    "converting": "models.converting",
    "convolve": "execution.convolve",
    "convs": "ops.conv",
    "correlation": "gradients.plan_gradients",
    "cost": "planning.rates",
    "device": "execution.device",
    "devices": "planning.devices",
    "elf": "inspection.elf",
    "estimate": "planning.cost",
    "exchanging": "distributed.halo",
    "execute": "execution.run",
    "explanation": "inspection.explanation",
    "extension": "streaming.boundary",
    "forms": "planning.forms",
    "identity": "execution.identity",
    "kernels": "metal.kernels",
    "layers": "ops.layers",
    "locking": "execution.locking",
    "memory": "planning.workspace",
    "messages": "distributed.transport",
    "metalrules": "metal.rules",
    "once": "planning.cached_property",
    "originals": "execution.unpatched",
    "packing": "execution.packing",
    "parallel": "distributed.layers",
    "patching": "models.patching",
    "peers": "bench.frameworks",
    "phases": "problem.phases",
    "plan": "planning.plan",
    "products": "execution.tap_products",
    "rebuilding": "models.method_rewriting",
    "report": "inspection.report",
    "resampling": "streaming.resample",
    "room": "execution.memory",
    "routing": "models.routing",
    "running": "bench.running",
    "scores": "bench.scores",
    "sharded": "distributed.functions",
    "sharding": "distributed.sharding",
    "shared": "execution.toeplitz",
    "slicing": "execution.arrays",
    "sparsity": "models.block_diagonal",
    "spec": "problem.spec",
    "streamgraph": "streaming.graph",
    "streamlayers": "streaming.layers",
    "streamtrace": "streaming.record",
    "tiles": "execution.run_tiled",
    "tiling": "planning.tiling",
    "timeline": "streaming.timeline",
    "tracing": "models.recording",
    "transforms": "gradients.bilinear",
    "traversal": "execution.modules",
    "watching": "models.watching",
    "weaving": "execution.weaving",
}
# Where else to look for a name: an old module that has the name of a wing, or that was divided.
DIVIDED = {
    "bench": ("bench.timing", "bench.lengths"),
    "inspection": ("inspection.explain",),
    "inspection.explanation": ("problem.signatures", "metal.recorded"),
    "ops": ("ops.conv_transpose",),
    "models.converting": ("models.converted_classes",),
    "planning.axis_plan": ("planning.axis_methods",),
    "planning.plan": ("planning.choose", "planning.methods"),
    "problem.spec": ("problem.shapes",),
    "streaming": ("streaming.functional",),
    "streaming.resample": ("streaming.resample_stream", "streaming.filter_design"),
}


class _Moved(MetaPathFinder, Loader):
    """Finds a module by its old name: the very module, so that nothing exists twice."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        package, _, old = name.partition(".")
        return ModuleSpec(name, self) if package == "polyconv" and old in MOVED else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        module = import_module(f"polyconv.{MOVED[spec.name.partition('.')[2]]}")
        spec.loader_state = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        """It was executed under its new name, whose spec the import system has just replaced."""
        assert module.__spec__ is not None
        module.__spec__ = module.__spec__.loader_state


def install() -> None:
    """Lets old names be imported, and be asked for as attributes of what holds them now."""
    if not any(isinstance(finder, _Moved) for finder in sys.meta_path):
        sys.meta_path.append(_Moved())
    for name, others in DIVIDED.items():
        import_module(f"polyconv.{name}").__dict__["__getattr__"] = _looking(name, others)


def _looking(name: str, others: tuple[str, ...]) -> Callable[[str], Any]:
    # `from polyconv.bench import cases` asks for the attribute first, and then imports the module.
    # So modules are left to the import: looking elsewhere could import around a circle.
    path = getattr(import_module(f"polyconv.{name}"), "__path__", ())
    inside = {each.name for each in iter_modules(path)}

    def look(key: str) -> Any:
        for other in others if not key.startswith("__") and key not in inside else ():
            found = vars(import_module(f"polyconv.{other}"))
            if key in found:
                return found[key]
        raise AttributeError(f"module 'polyconv.{name}' has no attribute {key!r}")

    return look


def module_of(name: str) -> ModuleType:
    """The module of an old name, for `polyconv.__getattr__`.

    Raises:
        AttributeError: If no module had this name.
    """
    if name not in MOVED:
        raise AttributeError(f"module 'polyconv' has no attribute {name!r}")
    return import_module(f"polyconv.{name}")
