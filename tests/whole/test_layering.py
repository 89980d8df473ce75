"""The wings of the house, top to bottom: imports run downward only, and the bottom knows no MLX."""

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import polyconv

PACKAGE = Path(__file__).parents[2] / "polyconv"

# A wing imports only from those behind it.
WINGS = (
    "streaming",
    "models",
    "distributed",
    "bench",
    "ops",
    "inspection",
    "gradients",
    "execution",
    "planning",
    "metal",
    "problem",
)
PURE = ("planning", "metal", "problem")  # integers only
FOREIGN = {"numpy", "torch", "scipy", "jax"}
# Who hands arrays to NumPy, or times other frameworks.
TAKES_ARRAYS = {
    "polyconv.bench.calibration",
    "polyconv.bench.exact",
    "polyconv.bench.frameworks",
    "polyconv.bench.lengths",
    "polyconv.bench.metal_calibration",
    "polyconv.bench.model_frameworks",
    "polyconv.bench.timing",
    "polyconv.execution.identity",
    "polyconv.execution.run_tiled",
    "polyconv.streaming.boundary",
    "polyconv.streaming.filter_design",
    "polyconv.streaming.periods",
    "polyconv.streaming.resample",
    "polyconv.streaming.resample_stream",
}


def modules(package):
    """Name and file of each module."""
    for path in sorted(package.rglob("*.py")):
        parts = path.relative_to(package.parent).with_suffix("").parts
        yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), path


def imports(path, known):
    """The names of the modules that a file imports, inside functions too."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            inner = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from ([name for name in inner if name in known] or [node.module])


def graph(package=PACKAGE):
    """What each module imports."""
    files = dict(modules(package))
    return {name: set(imports(path, files)) for name, path in files.items()}


def wing(name):
    """The wing of a module of polyconv, "" of one beside the wings and of all others."""
    parts = name.split(".")
    return parts[1] if parts[0] == "polyconv" and len(parts) > 1 and parts[1] in WINGS else ""


def upward(found):
    """The imports from a wing that stands above."""
    for name, others in found.items():
        for other in others:
            if wing(name) and other.partition(".")[0] == "polyconv":
                above = WINGS.index(wing(name)) > (WINGS.index(wing(other)) if wing(other) else -1)
                if above:
                    yield f"{name} imports {other}"


def test_every_folder_is_a_wing_and_few_files_stand_beside():
    folders = {path.name for path in PACKAGE.iterdir() if (path / "__init__.py").exists()}
    assert folders == set(WINGS)
    assert len(list(PACKAGE.glob("*.py"))) <= 6


def test_imports_run_downward():
    assert list(upward(graph())) == []


def test_nothing_imports_itself_around_a_circle():
    TopologicalSorter(graph()).prepare()  # CycleError names the circle


@pytest.mark.parametrize("name", PURE)
def test_the_bottom_knows_no_mlx(name):
    for module, others in graph().items():
        if wing(module) == name:
            assert not {each.partition(".")[0] for each in others} & {"mlx", *FOREIGN}, module


def test_arrays_of_others_come_in_at_few_places():
    found = {m for m, others in graph().items() if {o.partition(".")[0] for o in others} & FOREIGN}
    assert found <= TAKES_ARRAYS


def test_an_upward_import_is_seen(tmp_path):
    for name, text in {
        "planning/plan.py": "def plan():\n    from polyconv.ops import call\n",
        "ops/call.py": "from polyconv.planning.plan import plan\n",
        "metal/rules.py": "from polyconv import ops\n",
        "problem/spec.py": "import polyconv.metal.rules\n",
    }.items():
        path = tmp_path / "polyconv" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        (path.parent / "__init__.py").touch()
    assert list(upward(graph(tmp_path / "polyconv"))) == [
        "polyconv.metal.rules imports polyconv.ops",
        "polyconv.planning.plan imports polyconv.ops.call",
        "polyconv.problem.spec imports polyconv.metal.rules",
    ]


def test_names_that_are_imported_later_are_those_that_type_checkers_see():
    """`import polyconv` is quick: the module of a name is imported when it is first asked for."""
    tree = ast.parse((PACKAGE / "__init__.py").read_text())
    (block,) = [node for node in tree.body if isinstance(node, ast.If)]
    seen = {
        node.module.removeprefix("polyconv."): tuple(alias.name for alias in node.names)
        for node in block.body
    }
    assert seen.pop("polyconv") == ("distributed",)
    assert seen == polyconv._LATER
    code = "import sys, polyconv; print(*[name for name in sys.modules ])"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = {wing(name) for name in ran.stdout.split()}
    assert not loaded & {"streaming", "models", "distributed", "bench", "inspection"}
    assert "numpy" not in ran.stdout.split()
    for name in polyconv.__all__:
        assert getattr(polyconv, name)
        assert name in dir(polyconv)
