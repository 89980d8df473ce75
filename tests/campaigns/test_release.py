"""The check of a wheel and an sdist finds what is missing and what is too much."""

from __future__ import annotations

import re
import tarfile
import zipfile

import pytest

import polyconv
from tests.campaigns.release import IN_SDIST, ROOT, package_files, sdist_faults, wheel_faults

ABOUT = {
    "METADATA": "Name: polyconv\nVersion: 9.1\nSummary: some\n",
    "entry_points.txt": "",
    "licenses/LICENSE": "",
}


@pytest.fixture
def root(tmp_path):
    (tmp_path / "polyconv" / "ops").mkdir(parents=True)
    for name in ("__init__.py", "py.typed", "ops/call.py"):
        (tmp_path / "polyconv" / name).write_text("")
    return tmp_path


def wheel_of(root, names, about=ABOUT):
    path = root / "some.whl"
    with zipfile.ZipFile(path, "w") as file:
        for name in names:
            file.writestr(name, "")
        for name, text in about.items():
            file.writestr(f"polyconv-9.1.dist-info/{name}", text)
    return path


def test_a_wheel_of_the_package_is_right(root):
    assert wheel_faults(wheel_of(root, package_files(root)), root, "9.1") == []


def test_what_a_wheel_lacks_or_should_not_hold_is_named(root):
    names = {*package_files(root), "docs/benchmarks/grid.json", "tests/conftest.py"}
    found = wheel_faults(wheel_of(root, names - {"polyconv/py.typed"}), root, "9.1")
    assert found == [
        "lacks polyconv/py.typed",
        "holds docs/benchmarks/grid.json",
        "holds tests/conftest.py",
    ]
    names = package_files(root)
    assert wheel_faults(wheel_of(root, names), root, "9.2") == ["is not of version 9.2"]
    found = wheel_faults(wheel_of(root, names, {"METADATA": ABOUT["METADATA"]}), root, "9.1")
    assert found == ["lacks entry_points.txt", "lacks licenses/LICENSE"]


def test_what_an_sdist_lacks_is_named(root):
    for name in IN_SDIST:
        (root / name).write_text("")
    path = root / "some.tar.gz"
    for left_out, faults in ((None, []), ("Makefile", ["lacks Makefile"])):
        with tarfile.open(path, "w:gz") as file:
            for name in {*package_files(root), *IN_SDIST} - {left_out}:
                file.add(root / name, f"polyconv-9.1/{name}")
        assert sdist_faults(path, root) == faults


def test_the_version_is_told_alike():
    changes = (ROOT / "CHANGELOG.md").read_text()
    assert re.search(r"^## (\S+)", changes, re.M)[1] == polyconv.__version__
    cited = (ROOT / "CITATION.cff").read_text()
    assert re.search(r"^version: (\S+)", cited, re.M)[1] == polyconv.__version__
    day = re.search(r"^## \S+ \((\S+)\)", changes, re.M)[1]
    assert re.search(r"^date-released: \"(\S+)\"", cited, re.M)[1] == day
