"""Where modules stood before they moved into wings: old imports work, and old pickles load.

`import polyconv.devices` gives `polyconv.planning.devices`. A wing that has the name of an old
module, such as `polyconv.streaming`, gives what that module had.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from importlib.machinery import ModuleSpec, PathFinder
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
    "execution.device": ("execution.measured",),
    "inspection": ("inspection.explain",),
    "inspection.explanation": ("problem.signatures", "metal.recorded"),
    "ops": ("ops.conv_transpose",),
    "metal.rules": ("metal.calls",),
    "models.converting": ("models.converted_classes", "models.conversion"),
    "planning.axis_plan": ("planning.axis_methods",),
    "planning.plan": ("planning.choose", "planning.methods"),
    "problem.spec": ("problem.shapes",),
    "streaming": ("streaming.functional",),
    "streaming.resample": ("streaming.resample_stream", "streaming.filter_design"),
}

_HERE = [os.path.dirname(__file__)]


class _Moved:
    """Finds a module by its old name: the very module, so that nothing exists twice."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        package, _, old = name.partition(".")
        if package != "polyconv" or old not in MOVED:
            return None
        return ModuleSpec(name, self)  # type: ignore[arg-type]  # a loader by its methods

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        module = import_module(f"polyconv.{MOVED[spec.name.partition('.')[2]]}")
        spec.loader_state = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        """It was executed under its new name, whose spec the import system has just replaced."""
        assert module.__spec__ is not None
        module.__spec__ = module.__spec__.loader_state


class _Inside:
    """Finds wings, and modules that were divided, and has them answer for what is not in them."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        package, _, new = name.partition(".")
        if package != "polyconv" or not new or ("." in new and new not in DIVIDED):
            return None
        spec = PathFinder.find_spec(name, path, target)
        if spec is None or spec.loader is None:
            return spec
        execute = spec.loader.exec_module

        def execute_and_look(module: ModuleType) -> None:
            execute(module)
            vars(module).setdefault("__getattr__", _looking(module, DIVIDED.get(new, ())))

        spec.loader.exec_module = execute_and_look  # type: ignore[method-assign]
        return spec


def install() -> None:
    """Lets old names be imported, and be asked for as attributes of what holds them now."""
    if not any(isinstance(finder, _Moved) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Inside())
        sys.meta_path.append(_Moved())


def _looking(module: ModuleType, others: tuple[str, ...]) -> Callable[[str], Any]:
    """What looks for a name that a module has not: in its own modules, and in some others."""
    path = getattr(module, "__path__", ())

    def look(key: str) -> Any:
        if not key.startswith("__"):
            # `from polyconv.bench import cases` asks for the attribute before it imports.
            if path and PathFinder.find_spec(key, path):
                return import_module(f"{module.__name__}.{key}")
            for other in others:
                found = vars(import_module(f"polyconv.{other}"))
                if key in found:
                    return found[key]
        raise AttributeError(f"module {module.__name__!r} has no attribute {key!r}")

    return look


def module_of(name: str) -> ModuleType:
    """The module of an old name or of a wing, for `polyconv.__getattr__`.

    Raises:
        AttributeError: If no module has or had this name.
    """
    if name not in MOVED and (name.startswith("_") or not PathFinder.find_spec(name, _HERE)):
        raise AttributeError(f"module 'polyconv' has no attribute {name!r}")
    return import_module(f"polyconv.{name}")
