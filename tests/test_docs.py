"""The docs are true: doctests, snippets, the README's table, links, the package's own promises."""

import doctest
import importlib
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import polyconv
from polyconv import device, scores
from polyconv.__main__ import main
from polyconv.inspection import staleness
from polyconv.kernels import NEWEST, rules_for

ROOT = Path(__file__).parents[1]
MODULES = sorted(p.stem for p in (ROOT / "polyconv").glob("*.py") if not p.stem.startswith("__"))
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *ROOT.glob("examples/**/*.md")])


def fenced(text, language):
    return re.findall(rf"```{language}\n(.*?)```", text, re.S)


@pytest.mark.parametrize("module", MODULES)
def test_doctests_of_the_package(module):
    failed, _ = doctest.testmod(importlib.import_module(f"polyconv.{module}"))
    assert not failed


def test_doctests_of_the_pages():
    tried = 0
    for page in PAGES:
        if ">>> " in page.read_text():
            failed, attempted = doctest.testfile(str(page), module_relative=False)
            assert not failed, page
            tried += attempted
    assert tried >= 3


def test_python_blocks_of_the_readme_run_in_order():
    blocks = fenced((ROOT / "README.md").read_text(), "python")
    assert len(blocks) >= 2
    scope = {}
    for block in blocks:
        exec(compile(block, "README.md", "exec"), scope)
    assert scope["y"].shape == (1, 800, 256)


def test_python_blocks_of_switching_run_in_order(capsys):
    scope = {"__name__": "switching"}
    for block in fenced((ROOT / "docs" / "switching.md").read_text(), "python"):
        exec(compile(block, "switching.md", "exec"), scope)
    told = capsys.readouterr().out
    assert "layers.0: ConvTranspose1d converted, 8 times fewer multiply-accumulates" in told
    # What the last block says that it prints.
    assert "Upsample converted; its dense weight is block-diagonal, as of 512 groups; comp" in told


def test_python_blocks_of_streaming_run_in_order(capsys):
    scope = {"__name__": "streaming"}
    for block in fenced((ROOT / "docs" / "streaming.md").read_text(), "python"):
        exec(compile(block, "streaming.md", "exec"), scope)


@pytest.fixture
def pages(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "docs"))
    return importlib.import_module("pages")


def test_generated_pages_are_what_their_script_writes(pages):
    assert (ROOT / "docs" / "explain.md").read_text() == pages.explain_page()
    assert (ROOT / "docs" / "macs.md").read_text() == pages.macs_page()
    assert pages.readme_block() in (ROOT / "README.md").read_text()


def test_aligned_layers_spend_at_most_1_15_times_the_ideal_arithmetic(pages):
    rows = [
        (pages.is_aligned(problem), pages.ratios(problem)) for *_, problem in pages.real_layers()
    ]
    aligned = [ratio for is_aligned, ratio in rows if is_aligned]
    assert len(rows) > 150
    assert len(aligned) > 140
    assert max(forward for forward, _, _ in aligned) <= 1.15
    assert max(dx for _, dx, _ in aligned) <= 1.15
    assert max(dw for _, _, dw in aligned) <= 1.15


def test_what_the_pages_say_that_explain_prints(capsys):
    """By the command line; a running MLX that is newer than the rules adds a line of its own."""
    if rules_for(device.version()) != NEWEST:
        pytest.skip("the pages show the newest rules, and an older MLX runs here")
    blocks = [
        block
        for page in (ROOT / "README.md", ROOT / "docs" / "explain.md")
        for block in fenced(page.read_text(), "console")
    ]
    assert len(blocks) == 6
    for block in blocks:
        command, output = block.split("\n", 1)
        assert main([*command.removeprefix("$ polyconv ").split(), "--device", "m4-max"]) == 0
        lines = capsys.readouterr().out.splitlines(keepends=True)
        assert "".join(line for line in lines if line[:-1] not in staleness()) == output


def test_signatures_of_the_api_page_are_those_of_the_package():
    import inspect

    blocks = fenced((ROOT / "docs" / "api.md").read_text(), "text")
    (layers,) = [block for block in blocks if "PolyConvTranspose1d" in block]
    for line in "".join(blocks).strip().splitlines():
        name, arguments = re.fullmatch(r"polyconv\.(\w+)\((.*)\)(?:  #.*)?", line).groups()
        signature = inspect.signature(getattr(polyconv, name))
        if arguments == "...":
            arguments = re.search(r"PolyConvTranspose1d\((.*)\)", layers).group(1)
        written = [a.strip().lstrip("*") for a in arguments.split(",")]
        written = [name for name in written if name and name != "/"]
        actual = [
            p.name if p.default is p.empty else f"{p.name}={p.default!r}".replace("'", '"')
            for p in signature.parameters.values()
        ]
        assert written == actual, name


def test_the_benchmark_s_pages_and_the_readme_s_table_are_what_was_measured(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "docs" / "benchmarks"))
    page = importlib.import_module("page")
    where = ROOT / "docs" / "benchmarks"
    found = {name: json.loads((where / f"{name}.json").read_text()) for name in page.FILES}
    for name, text in page.pages(found).items():
        assert (where / f"{name}.md").read_text() == text
    rows = found["rivals"]["rows"]
    assert page.readme_table(rows) in (ROOT / "README.md").read_text()
    memory = (ROOT / "docs" / "memory.md").read_text()
    assert page.limits_table(found["memory"]) in memory
    assert page.int32_table(found["above_int32"]) in memory
    shown = [row for row in rows if row.get("readme")]
    assert min(scores.ratio(row, scores.best_rival(row)) for row in shown) < 1, (
        "losing rows stay in"
    )
    assert min(scores.ratio(row, "mx") for row in shown if "mx" in row["timings"]) < 1


def test_links_lead_somewhere():
    for page in PAGES:
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_no_machine_path_is_committed():
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout")
    for name in listed.stdout.splitlines():
        if name.endswith((".py", ".md", ".toml", ".yml", ".yaml", "Makefile", ".json")):
            text = (ROOT / name).read_text()
            assert not re.search(r"/(home|root|Users)/\w", text), name


def test_the_figure_is_what_its_script_draws(tmp_path, monkeypatch):
    matplotlib = pytest.importorskip("matplotlib", reason="figures need the docs extra")
    drawn = (ROOT / "docs" / "figures" / "phases.svg").read_text()
    if matplotlib.__version__ not in drawn:
        pytest.skip("drawn by another matplotlib, whose paths differ")
    monkeypatch.syspath_prepend(str(ROOT / "docs" / "figures"))
    draw = importlib.import_module("draw")
    monkeypatch.setattr(draw, "__file__", str(tmp_path / "draw.py"))
    draw.main()
    assert (tmp_path / "phases.svg").read_text() == drawn


def test_import_without_a_backend_says_which_extra_to_install(tmp_path):
    """As on Linux after a plain `pip install mlx`: `mlx` imports, `mlx.core` does not."""
    fake = tmp_path / "mlx"
    fake.mkdir()
    (fake / "core.py").write_text("raise ImportError('libmlx.so: cannot open shared object file')")
    code = f"import sys; sys.path[:0] = [{str(tmp_path)!r}, {str(ROOT)!r}]; import polyconv"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ran.returncode == 1
    last = ran.stderr.strip().splitlines()[-1]
    assert last.startswith("ImportError: polyconv needs a working MLX backend")
    assert "polyconv[cpu], polyconv[cuda12] or polyconv[cuda13]" in last


def test_run_time_needs_mlx_alone():
    """Importing and calling polyconv imports neither an extra nor a test package."""
    extras = {"rich", "matplotlib", "scipy", "torch", "soundfile", "pytest"}
    code = (
        "import sys, mlx.core as mx, polyconv; "
        "mx.eval(polyconv.conv_transpose1d(mx.ones((1, 4, 2)), mx.ones((3, 4, 2)), 2)); "
        f"print([m for m in {sorted(extras)} if m in sys.modules])"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert ran.stdout.strip() == "[]", ran.stderr
