"""What `make` says before it has an environment: on a wrong Python, Mac or .venv. And its help."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

MAKEFILE = Path(__file__).parents[2] / "Makefile"

pytestmark = pytest.mark.skipif(not shutil.which("make"), reason="needs make")

# A Python that takes itself for another one, and answers `-c CODE` alone.
STUB = """#!/bin/sh
exec {python} -c "
import platform, sys
sys.version_info = {version}
platform.mac_ver = lambda: ('{mac}', '', '')
platform.machine = lambda: '{machine}'
$2"
"""


def make(folder, *arguments):
    """`make` as by hand: what runs the tests may be one itself, and hands on how it was called."""
    env = {k: v for k, v in os.environ.items() if not k.startswith("MAKE") and k != "PYTHON"}
    return subprocess.run(["make", *arguments], cwd=folder, capture_output=True, text=True, env=env)


def made(folder, *arguments):
    """The exit code of `make`, and what it says of its own accord."""
    shutil.copy(MAKEFILE, folder)
    (folder / "pyproject.toml").touch()
    done = make(folder, *arguments)
    lines = [line for line in done.stderr.splitlines() if not line.startswith("make")]
    return done.returncode, lines


@pytest.mark.parametrize(
    ("version", "mac", "machine", "said"),
    [
        ((3, 9, 6), "15.1", "arm64", "is Python 3.9: name another one"),
        ((2, 7, 18), "", "x86_64", "is Python 2.7: name another one"),
        ((3, 12, 1), "13.6", "arm64", "this is macOS 13.6"),
        ((3, 12, 1), "15.1", "x86_64", "is Python 3.12 for x86_64, which MLX does not run on"),
    ],
)
def test_a_python_that_will_not_do_is_refused_in_one_sentence(
    version, mac, machine, said, tmp_path
):
    stub = tmp_path / "python"
    stub.write_text(STUB.format(python=sys.executable, version=version, mac=mac, machine=machine))
    stub.chmod(0o755)
    code, lines = made(tmp_path, "demo", f"PYTHON={stub}")
    assert code
    (line,) = lines
    assert line.startswith("polyconv needs Python 3.10 or newer (on a Mac a native arm64 one, ")
    assert said in line
    assert not (tmp_path / ".venv").exists()


@pytest.mark.parametrize("half", ["empty", "no pip"])
def test_a_venv_that_does_not_work_is_named_and_can_be_removed(half, tmp_path):
    if half == "empty":
        (tmp_path / ".venv" / "bin").mkdir(parents=True)
    else:
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / ".venv"])
    code, (line,) = made(tmp_path, "test")
    assert code
    assert line.startswith(".venv does not work with polyconv")
    assert "run `make clean`, then this again" in line
    assert made(tmp_path, "clean") == (0, [])
    assert not (tmp_path / ".venv").exists()


def test_a_python_that_cannot_make_an_environment_leaves_none(tmp_path):
    stub = tmp_path / "python"
    stub.write_text(
        f'#!/bin/sh\n[ "$1" = -c ] && exec {sys.executable} -c "$2"\nmkdir -p $3\nexit 1'
    )
    stub.chmod(0o755)
    code, _ = made(tmp_path, "demo", f"PYTHON={stub}")
    assert code
    assert not (tmp_path / ".venv").exists()


def test_help_has_a_line_for_each_target():
    listed = make(MAKEFILE.parent, "help")
    targets = [line.split()[0] for line in listed.stdout.splitlines()]
    phony = re.findall(r"^\.PHONY: (.*)$", MAKEFILE.read_text(), re.M)
    assert sorted(targets) == sorted(set(" ".join(phony).split()) - {"environment"})
