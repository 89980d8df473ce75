"""Which module may import which: the arrows of docs/design.md, read from the source."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "polyconv"

# module: (modules of polyconv that it imports, whether it may import mlx)
ARROWS = {
    "arguments": (set(), False),
    "spec": ({"arguments"}, False),
    "phases": ({"spec"}, False),
    "axisplan": ({"spec", "phases"}, False),
    "cost": (set(), False),
    "kernels": ({"spec"}, False),
    "plan": ({"arguments", "spec", "axisplan", "cost"}, False),
    "execute": ({"axisplan", "plan"}, True),
    "explanation": ({"arguments", "spec", "axisplan", "kernels", "plan"}, False),
    "device": (set(), True),
    "batching": ({"spec", "plan", "device", "execute"}, True),
    "ops": ({"arguments", "spec", "plan", "device", "batching"}, True),
    "layers": ({"arguments", "spec", "ops"}, True),
    "__init__": ({"explanation", "layers", "ops"}, True),
    "__main__": ({"explanation", "kernels"}, False),
}


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
    assert not {name.split(".")[0] for name in names} & {"numpy", "torch", "scipy"}
