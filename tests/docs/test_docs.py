"""The docs are true: doctests, generated pages, tables, links, the package's own promises."""

import doctest
import importlib
import importlib.util
import json
import operator
import re
import subprocess
import sys
from statistics import geometric_mean
from urllib.parse import urlsplit

import pytest
import vocoder_halos

import polyconv
from polyconv.bench import scores
from tests.support.snippets import PAGES, ROOT, snippets

MODULES = sorted(
    ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for path in (ROOT / "polyconv").rglob("*.py")
    if ">>>" in path.read_text()
)


@pytest.mark.parametrize("module", MODULES)
def test_doctests_of_the_package(module):
    failed, attempted = doctest.testmod(importlib.import_module(module))
    assert not failed
    assert attempted


def test_the_tables_of_distributed_are_worked_out():
    text = (ROOT / "docs" / "distributed.md").read_text()
    v1 = vocoder_halos.VARIANTS["v1"]
    assert f"<!-- halos -->\n{vocoder_halos.halo_table(v1)}<!-- /halos -->" in text
    scaling = vocoder_halos.scaling_table(v1, 3600, 64)
    assert f"<!-- scaling -->\n{scaling}<!-- /scaling -->" in text


def test_the_page_of_the_distributed_vocoder_is_what_was_measured(monkeypatch):
    where = ROOT / "docs" / "benchmarks"
    spec = importlib.util.spec_from_file_location("figures", where / "distributed.py")
    figures = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(figures)
    found = json.loads((where / "distributed.json").read_text())
    assert (where / "distributed.md").read_text() == figures.page(found)
    assert figures.in_words(found) in (ROOT / "docs" / "distributed.md").read_text()


def test_the_page_of_streamed_decoders_is_what_was_measured(monkeypatch):
    where = ROOT / "docs" / "benchmarks"
    monkeypatch.syspath_prepend(str(where))
    found = json.loads((where / "stream_models.json").read_text())
    page = importlib.import_module("stream_page")
    assert (where / "stream_models.md").read_text() == page.page(found)
    names = [row["name"] for row in found["rows"]]
    for each in ("audio_models", "more_audio_models", "spectral_models"):
        importlib.import_module(each)
    assert names == list(importlib.import_module("decoders").DECODERS)


@pytest.fixture
def metal_fit(monkeypatch):
    """What was fitted, and the modules that fit and write."""
    pytest.importorskip("scipy")
    where = ROOT / "docs" / "benchmarks"
    monkeypatch.syspath_prepend(str(where))
    names = ("metal_fit", "metal_page", "metal_rows")
    found = json.loads((where / "metal_fit.json").read_text())
    return found, *[importlib.import_module(name) for name in names]


def test_the_page_of_the_time_model_is_what_was_fitted(metal_fit):
    found, _, page, _ = metal_fit
    assert (ROOT / "docs" / "benchmarks" / "metal_fit.md").read_text() == page.page(found)


def test_the_time_model_predicts_devices_that_it_was_not_fitted_to(metal_fit):
    found, _, page, _ = metal_fit
    rows = page.convolutions(found["timings"])
    assert len(rows) > 100
    middle, most = page.spread(rows, "left_out_ms")
    assert middle <= 1.25
    assert most <= 2.1


def test_the_time_model_is_fitted_again_to_the_same(metal_fit):
    """But for the last digits, which depend on the version of SciPy."""
    found, fit, _, rows = metal_fit
    timings = rows.read()
    assert [(t.source, t.device, t.what) for t in timings] == [
        (row["source"], row["device"], row["what"]) for row in found["timings"]
    ]
    parameters, _ = fit.fit(timings)
    for name, value in found["parameters"].items():
        assert getattr(parameters, name) == pytest.approx(value, rel=0.05), name


@pytest.fixture
def pages(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "docs"))
    return importlib.import_module("pages")


def test_generated_pages_are_what_their_script_writes(pages):
    assert (ROOT / "docs" / "explain.md").read_text() == pages.explain_page()
    assert (ROOT / "docs" / "macs.md").read_text() == pages.macs_page.page()
    assert (ROOT / "docs" / "cli.md").read_text() == pages.cli_page()
    assert (ROOT / "docs" / "llms.txt").read_text() == pages.llms.text()


def test_the_page_for_tools_names_all_pages_and_names(pages):
    """Its links lead to the texts of pages, each of which says first what one gets."""
    text = (ROOT / "docs" / "llms.txt").read_text()
    listed = dict(re.findall(r"^- \[.*\]\((.*?)\): (.*)$", text, re.M))
    here = {*(ROOT / "docs").glob("*.md"), *(ROOT / "docs").glob("*.rst")}
    names = {path.name for path in here} - {"index.md"}
    assert {*listed} == {*names, "benchmarks/README.md"}
    openings = {name: told.startswith("You will get ") for name, told in listed.items()}
    assert [name for name, opens in openings.items() if not opens] == ["reference.rst"]
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", text):
        assert (ROOT / "docs" / target).exists(), target
    public = {*polyconv.__all__} - {"distributed"}
    assert public <= {*re.findall(r"^- `polyconv\.(\w+)\(", text, re.M)}


def test_layers_where_mlx_own_op_wins_are_said_to_be_its_own(pages):
    """One mark for each layer and Mac, and the counts above the table."""
    macs = pages.macs_page
    text = (ROOT / "docs" / "macs.md").read_text()
    problems = [problem for *_, problem in macs.real_layers()]
    assert len(problems) > 150
    natives = [
        sum(macs.plan(problem, device=metal).is_native for problem in problems)
        for metal in macs.DEVICES.values()
    ]
    assert sum(natives) == text.count("| **native** ") > 0
    for name, n in zip(macs.DEVICES, natives, strict=True):
        assert f"| {name} | {len(problems)} | {n} |" in text


def test_signatures_of_the_api_page_are_those_of_the_package():
    import inspect

    blocks = [block.text for block in snippets(ROOT / "docs" / "api.md", "text")]
    (layers,) = [block for block in blocks if "PolyConvTranspose1d" in block]
    for line in "".join(blocks).strip().splitlines():
        name, arguments = re.fullmatch(r"polyconv\.([\w.]+)\((.*)\)(?:  #.*)?", line).groups()
        signature = inspect.signature(operator.attrgetter(name)(polyconv))
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
    assert page.layers_table(rows) in (where / "README.md").read_text()
    whole = page.models_table(found["whole_models"]["rows"])
    assert f"<!-- models -->\n{whole}\n<!-- /models -->" in (ROOT / "README.md").read_text()
    memory = (ROOT / "docs" / "memory.md").read_text()
    assert page.limits_table(found["memory"]) in memory
    assert page.int32_table(found["above_int32"]) in memory
    shown = [row for row in rows if row.get("readme")]
    assert min(scores.ratio(row, scores.best_rival(row)) for row in shown) < 1, (
        "losing rows stay in"
    )
    assert min(scores.ratio(row, "mx") for row in shown if "mx" in row["timings"]) < 1


def test_what_the_readme_says_of_figures_is_what_was_measured():
    """Its sentences, as its table is compared above."""
    where, text = ROOT / "docs" / "benchmarks", (ROOT / "README.md").read_text()
    told = " ".join(text.split())
    gpu = json.loads((where / "gpu.json").read_text())
    ours = ("polyconv packed compiled", "polyconv compiled")
    compiled = [
        each["ms"]["MLX compiled"] / next(each["ms"][name] for name in ours if name in each["ms"])
        for each in gpu["models"]["rows"]
    ]
    assert (
        f"{geometric_mean(compiled):.2f} times as fast as MLX's own in geometric mean over "
        f"{len(compiled)} rows, {min(compiled):.2f} to {max(compiled):.1f} times."
    ) in told
    layers = [each["ms"] for each in gpu["layers"]["rows"]]
    (mlx, torch), (plain_mlx, plain_torch) = (
        (
            geometric_mean(ms[f"mx {both}"] / ms[f"polyconv {both}"] for ms in layers),
            geometric_mean(
                min(ms["torch both"], ms["torch both last"]) / ms[f"polyconv {both}"]
                for ms in layers
            ),
        )
        for both in ("both compiled", "both")
    )
    assert (
        f"{mlx:.1f} times as fast as MLX's, and {torch:.2f} times as fast as PyTorch's eager one; "
        f"not compiled {plain_mlx:.1f} and {plain_torch:.2f} times"
    ) in told
    fast, plain = (
        {
            row["name"]: row["timings"]["packed"]["ms"]
            for row in json.loads(path.read_text())["rows"]
        }
        for path in (where / "whole_models.json", where / "whole_models_plain.json")
    )
    slower = [plain[name] / fast[name] for name in plain]
    assert f"[{min(slower):.0f} to {max(slower):.0f} times as long]" in told


def test_the_gallery_shows_what_its_script_makes(monkeypatch):
    pytest.importorskip("PIL", reason="pictures need the examples extra")
    monkeypatch.syspath_prepend(str(ROOT / "docs"))
    exhibits = importlib.import_module("gallery").EXHIBITS
    page, folder = ROOT / "docs" / "gallery.md", ROOT / "docs" / "gallery"
    commands = [block.text.strip() for block in snippets(page, "sh")]
    shown = re.findall(r"\]\(gallery/(\w+)\.png\)", page.read_text())
    assert sorted(shown) == sorted(exhibits) == sorted(path.stem for path in folder.iterdir())
    for name, (command, _) in exhibits.items():
        assert f"python {command}" in commands
        assert (folder / f"{name}.png").stat().st_size < 150_000


def test_links_lead_somewhere():
    for page in PAGES:
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_links_to_elsewhere_are_well_formed():
    """Nothing is fetched; `make docs` follows the links between pages, with their anchors."""
    for page in PAGES:
        for target in re.findall(r"\]\((\w+:[^)]*)\)", page.read_text()):
            parts = urlsplit(target)
            assert parts.scheme == "https", f"{page.name}: {target}"
            assert re.fullmatch(r"[\w-]+(\.[\w-]+)+", parts.netloc), f"{page.name}: {target}"
            assert not re.search(r"\s", target), f"{page.name}: {target}"


def missing(text):
    """Files of the package that a page names and that are not, and names that their file lacks."""
    package = ROOT / "polyconv"
    paths = set(re.findall(r"`((?:polyconv/)?\w+/\w+\.py)`", text))
    lost = [path for path in paths if not (package / path.removeprefix("polyconv/")).exists()]
    for name, path in re.findall(r"`(\w+)`\sof\s`(?:polyconv/)?(\w+/\w+\.py)`", text):
        if path not in lost and not re.search(
            rf"^\s*(def|class) {name}\b|^{name}\b.*=", (package / path).read_text(), re.M
        ):
            lost.append(f"{name} of {path}")
    return lost


def test_the_design_page_names_what_is_there():
    text = (ROOT / "docs" / "design.md").read_text()
    assert missing(text) == []
    assert len(re.findall(r"`\sof\s`\w+/", text)) > 20
    assert missing("`ops/none.py`, `none` of `ops/call.py`") == [
        "ops/none.py",
        "none of ops/call.py",
    ]
    assert missing("`polyconv/ops/none.py`, `convolve` of `ops/call.py`") == [
        "polyconv/ops/none.py"
    ]


# What may tell of tests.
TELLING = ("*.py", "*.md", "*.toml", "*.yml", "Makefile", ".ci/run")
# What tells of tests that were, and of such as are not.
OTHERWISE = {"CHANGELOG.md", "tests/docs/test_snippets.py"}


def told_of(text):
    """Paths of tests, modules of tests that are started, and tests by name, as a text has them."""
    paths = re.findall(r"(?<![\w/])tests/[\w./]*\w", text)
    modules = re.findall(r"-[mp] (tests(?:\.\w+)+)", text)
    paths += [f"{module.replace('.', '/')}.py" for module in modules]
    return paths, re.findall(r"`(test_\w+)`", text)


def test_tests_that_are_told_of_exist():
    ran = subprocess.run(["git", "ls-files", *TELLING], cwd=ROOT, capture_output=True, text=True)
    if ran.returncode:
        pytest.skip("not a git checkout")
    files = [ROOT / name for name in {*ran.stdout.split()} - OTHERWISE]
    texts = {path: path.read_text() for path in files if path.exists()}
    known = {name for text in texts.values() for name in re.findall(r"def (test_\w+)", text)}
    tried = 0
    for path, text in texts.items():
        paths, names = told_of(text)
        assert [each for each in paths if not (ROOT / each).exists()] == [], path
        assert set(names) <= known, path
        tried += len(paths) + len(names)
    assert tried > 80
    it = "tests"  # or this file would tell of them
    wrong = f"python -m {it}.none, python/{it}/no.py, {it}/no.py, `{it[:4]}_no`"
    assert told_of(wrong) == ([f"{it}/no.py", f"{it}/none.py"], [f"{it[:4]}_no"])


def test_every_public_name_is_in_the_reference_by_what_it_is():
    text = (ROOT / "docs" / "reference.rst").read_text()
    entries = re.findall(r"^\.\. auto(class|function):: polyconv\.([\w.]+)", text, re.M)
    public = {name: getattr(polyconv, name) for name in polyconv.__all__ if name != "distributed"}
    inner = {f"distributed.{name}": name for name in polyconv.distributed.__all__}
    public |= {key: getattr(polyconv.distributed, name) for key, name in inner.items()}
    classes = {name for name, thing in public.items() if isinstance(thing, type)}
    kinds = [("class" if name in classes else "function", name) for name in public]
    assert sorted(entries) == sorted(kinds)
    for name, thing in public.items():
        assert vars(thing).get("__doc__") if name in classes else thing.__doc__, name


def test_no_machine_path_is_committed():
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout")
    for name in listed.stdout.splitlines():
        if name.endswith((".py", ".md", ".toml", ".yml", ".yaml", "Makefile", ".json")):
            text = (ROOT / name).read_text()
            assert not re.search(r"/(home|root|Users)/\w", text), name


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


def test_the_page_of_nvidia_gpus_is_what_was_measured(monkeypatch):
    where = ROOT / "docs" / "benchmarks"
    monkeypatch.syspath_prepend(str(where))
    gpu_page = importlib.import_module("gpu_page")
    found = json.loads((where / "gpu.json").read_text())
    assert (where / "gpu.md").read_text() == gpu_page.page(found)
    assert not found["proof"]["parity"]["failures"]
    assert found["proof"]["alone"]["failed"] == found["proof"]["mixed"]["failed"] == 0
