"""Which module may import which: the arrows of docs/design.md, read from the source."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "polyconv"

# module: (modules of polyconv that it imports, whether it may import mlx)
ARROWS = {
    "arguments": (set(), False),
    "locking": (set(), False),
    "once": (set(), False),
    "spec": ({"arguments"}, False),
    "phases": ({"spec"}, False),
    "axisplan": ({"once", "spec", "phases"}, False),
    "cost": ({"arguments"}, False),
    "metalrules": ({"spec"}, False),
    "kernels": ({"spec", "metalrules"}, False),
    "devices": ({"arguments", "cost", "kernels", "metalrules"}, False),
    "forms": ({"spec", "cost", "devices", "kernels", "metalrules", "once"}, False),
    "estimate": ({"spec", "axisplan", "cost", "phases"}, False),
    "plan": (
        {"arguments", "spec", "phases", "axisplan", "cost", "devices", "estimate", "forms"}
        | {"once"},
        False,
    ),
    "memory": ({"spec", "phases", "plan"}, False),
    "tiling": ({"arguments", "spec", "axisplan", "cost", "memory", "plan"}, False),
    "slicing": ({"device"}, True),
    "packing": ({"axisplan", "identity", "plan", "slicing"}, True),
    "originals": (set(), True),
    "convolve": ({"spec", "forms", "originals", "plan", "slicing"}, True),
    "weaving": ({"axisplan", "plan", "slicing"}, True),
    "products": ({"spec", "convolve", "plan", "slicing", "weaving"}, True),
    "correlation": (
        {"convolve", "packing", "plan", "products", "slicing", "weaving"},
        True,
    ),
    "execute": ({"convolve", "packing", "plan", "products", "slicing", "weaving"}, True),
    "report": ({"cost", "devices", "explanation", "forms", "kernels", "tiling"}, False),
    "explanation": (
        {"arguments", "spec", "axisplan", "devices", "forms", "kernels", "memory", "metalrules"}
        | {"plan", "report", "tiling"},
        False,
    ),
    "device": ({"arguments", "cost", "devices", "kernels", "locking", "metalrules"}, True),
    "room": ({"arguments", "device", "devices", "tiling"}, False),
    "tiles": ({"device", "identity", "slicing", "tiling"}, True),
    "transforms": (
        {"arguments", "spec", "correlation", "plan", "device", "devices", "execute", "packing"}
        | {"slicing", "tiles", "tiling"},
        True,
    ),
    "shared": ({"spec", "phases", "products", "slicing"}, True),
    "calls": (
        {"arguments", "spec", "device", "devices", "packing", "room", "shared", "slicing"}
        | {"tiling", "transforms"},
        True,
    ),
    "ops": ({"arguments", "calls", "device", "packing"}, True),
    "convs": ({"arguments", "calls", "device"}, True),
    "bias": ({"device", "slicing"}, True),
    "layers": ({"arguments", "bias", "identity", "spec", "ops", "packing", "room"}, True),
    "inspection": (
        {
            "arguments",
            "blas",
            "cost",
            "device",
            "devices",
            "explanation",
            "kernels",
            "report",
            "__version__",
        },
        True,
    ),
    "elf": (set(), False),
    "blas": ({"elf"}, False),
    "running": ({"arguments", "blas", "cost"}, True),
    "traversal": (set(), True),
    "identity": ({"traversal"}, True),
    "sparsity": (set(), True),
    "routing": ({"arguments", "convs", "device", "identity", "ops", "originals"}, True),
    "patching": ({"arguments", "locking", "originals", "routing"}, True),
    "rebuilding": ({"originals", "routing"}, True),
    "converting": (
        {"arguments", "spec", "layers", "locking", "rebuilding", "routing", "sparsity"}
        | {"identity", "traversal"},
        True,
    ),
    "timeline": (set(), False),
    "extension": (set(), False),
    "streaming": (
        {"arguments", "calls", "ops", "packing", "room", "spec", "timeline"},
        True,
    ),
    "streamlayers": (
        {
            "arguments",
            "bias",
            "convs",
            "identity",
            "layers",
            "ops",
            "packing",
            "room",
            "spec",
            "streaming",
        },
        True,
    ),
    "streamgraph": ({"arguments", "identity", "packing", "streaming"}, True),
    "streamtrace": (
        {"arguments", "converting", "layers", "rebuilding", "streamgraph", "streamlayers"}
        | {"identity", "locking", "packing", "traversal"},
        True,
    ),
    "resampling": (
        {"arguments", "device", "extension", "ops", "slicing", "spec", "streaming"},
        True,
    ),
    "sharding": ({"arguments", "spec", "phases"}, False),
    "messages": ({"arguments", "sharding", "slicing"}, True),
    "exchanging": ({"arguments", "messages", "sharding", "slicing"}, True),
    "sharded": (
        {"arguments", "spec", "calls", "device", "exchanging", "messages", "ops", "packing"}
        | {"sharding", "slicing"},
        True,
    ),
    "parallel": ({"arguments", "bias", "layers", "messages", "sharded", "slicing"}, True),
    "distributed": ({"exchanging", "messages", "parallel", "sharded", "sharding"}, False),
    "tracing": (
        {"arguments", "spec", "calls", "explanation", "inspection", "patching", "transforms"}
        | {"traversal"},
        True,
    ),
    "watching": (
        {"cost", "devices", "explanation", "inspection", "report", "spec", "tracing"}
        | {"locking", "traversal"},
        True,
    ),
    "calibration": (
        {"arguments", "cost", "device", "execute", "explanation", "plan", "spec"},
        True,
    ),
    "peers": ({"spec"}, True),
    "cases": ({"arguments"}, False),
    "scores": (set(), False),
    "bench": ({"arguments", "device", "explanation", "ops", "peers", "plan", "spec"}, True),
    "benching": (
        {"arguments", "bench", "calibration", "cases", "cost", "explanation", "inspection"}
        | {"peers", "report", "scores"},
        False,
    ),
    "__init__": (
        {"converting", "convs", "device", "distributed", "inspection", "layers", "ops", "patching"}
        | {"tracing"}
        | {"resampling", "streamgraph", "streaming", "streamlayers", "streamtrace", "watching"},
        True,
    ),
    "__main__": (
        {"arguments", "benching", "devices", "explanation", "inspection", "metalrules"}
        | {"report", "running", "tracing"},
        False,
    ),
}

NUMPY = ("bench", "calibration", "peers", "extension", "identity", "resampling", "tiles")


def imports(module):
    for node in ast.walk(ast.parse((PACKAGE / f"{module}.py").read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            if node.module == "polyconv":  # from polyconv import ops
                yield from (f"polyconv.{alias.name}" for alias in node.names)
            else:
                yield node.module


def test_every_module_has_its_place():
    assert {path.stem for path in PACKAGE.glob("*.py")} == set(ARROWS)


@pytest.mark.parametrize("module", ARROWS)
def test_arrows(module):
    names = set(imports(module))
    ours = {name.split(".")[1] for name in names if name.startswith("polyconv.")}
    expected, mlx = ARROWS[module]
    assert ours == expected
    assert any(name.startswith("mlx") for name in names) == mlx
    if module not in NUMPY:
        assert not {name.split(".")[0] for name in names} & {"numpy", "torch", "scipy", "jax"}
