"""`polyconv run`, the BLAS that it starts Python with, and the copy whose names lose a prefix."""

import os
import platform
import re
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest

from polyconv.__main__ import main
from polyconv.bench import running
from polyconv.inspection import blas
from polyconv.inspection.elf import without_prefix

linux = pytest.mark.skipif(platform.system() != "Linux", reason="Macs have Apple's own BLAS")


@pytest.fixture(scope="module")
def library():
    """The file of the wheel."""
    try:
        wheel = distribution("scipy-openblas32")
    except PackageNotFoundError:
        pytest.skip("needs the extra openblas")
    (file,) = [file for file in wheel.files if re.search(r"libscipy_openblas\.so$", str(file))]
    return Path(str(wheel.locate_file(file)))


FRESH = ("LD_PRELOAD", "GLIBC_TUNABLES")


def started(*command, **env):
    """`polyconv run` in a process that nothing was loaded into."""
    clean = {name: value for name, value in os.environ.items() if name not in FRESH}
    command = [sys.executable, "-m", "polyconv", "run", *map(str, command)]
    return subprocess.run(command, env={**clean, **env}, capture_output=True, text=True)


# Asks the C library itself for every name of a list, and multiplies by one of them.
EXPORTS = """
import ctypes, sys
from pathlib import Path
lib = ctypes.CDLL(sys.argv[1])
for name in Path(sys.argv[2]).read_text().split():
    assert getattr(lib, name, None) is not None, name
assert getattr(lib, "scipy_cblas_sgemm", None) is None
four = ctypes.c_float * 4
a, b, c = four(1, 2, 3, 4), four(5, 6, 7, 8), four()
lib.cblas_sgemm(101, 111, 111, 2, 2, 2, ctypes.c_float(1), a, 2, b, 2, ctypes.c_float(0), c, 2)
print(list(c))
"""


@linux
def test_every_name_is_found_without_its_prefix(library, tmp_path):
    data = library.read_bytes()
    renamed = tmp_path / "renamed.so"
    renamed.write_bytes(without_prefix(data, b"scipy_"))
    names = {name.decode() for name in re.findall(rb"\0scipy_((?:cblas_)?[sdcz]ge\w+)(?=\0)", data)}
    assert len(names) > 100
    (tmp_path / "names").write_text("\n".join(sorted(names)))
    command = [sys.executable, "-c", EXPORTS, renamed, tmp_path / "names"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.stdout == "[19.0, 22.0, 43.0, 50.0]\n", done.stderr


def test_what_is_no_such_library_is_refused(library):
    data = library.read_bytes()
    for other in (b"", b"#!/bin/sh", b"\x7fELF\x01\x01" + data[6:], data[:4000]):
        with pytest.raises(ValueError, match="ELF file"):
            without_prefix(other, b"scipy_")


PROGRAM = """
import sys
import mlx.core as mx
from polyconv.inspection import blas
before = mx.set_cache_limit(7)
a = mx.arange(6.0).reshape(2, 3)
print(__name__, sys.argv[1:], sys.path[0], before, blas.in_force(), (a @ a.T).tolist())
raise SystemExit(3)
"""


@linux
@pytest.mark.parametrize("as_module", [False, True])
def test_a_program_runs_on_a_fast_blas(library, as_module, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(PROGRAM)
    program = ["-m", "mine"] if as_module else [tmp_path / "mine.py"]
    done = started("--cache-limit", 5_000_000, *program, "-m", "--quiet", XDG_CACHE_HOME=tmp_path)
    assert done.returncode == 3
    (copy,) = (tmp_path / "polyconv").glob("*/libopenblas-*.so")
    said = f"__main__ ['-m', '--quiet'] {tmp_path} 5000000 {copy} [[5.0, 14.0], [14.0, 50.0]]\n"
    assert done.stdout == said, done.stderr
    assert done.stderr.startswith(f"polyconv run: matrix products by {copy}; MLX may keep 5 MB")


@linux
@pytest.mark.parametrize("own", ["", "glibc.malloc.perturb=1"])
def test_huge_pages_are_asked_for_unless_glibc_is_told_otherwise(library, own, tmp_path):
    program = tmp_path / "mine.py"
    program.write_text("import os; print(os.environ['GLIBC_TUNABLES'])")
    given = {"GLIBC_TUNABLES": own} if own else {}
    done = started("--quiet", program, XDG_CACHE_HOME=str(tmp_path), **given)
    assert done.stdout == f"{own or 'glibc.malloc.hugetlb=1'}\n", done.stderr


@linux
@pytest.mark.parametrize("name", ["none/where", "a b", "c:d"])
def test_a_cache_that_cannot_be_is_done_without(library, name, tmp_path):
    (tmp_path / "none").touch()  # no folder
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    env = {"XDG_CACHE_HOME": str(tmp_path / name), "TMPDIR": str(temporary)}
    program = tmp_path / "mine.py"
    program.write_text("from polyconv.inspection import blas; print(blas.in_force())")
    done = started("--quiet", program, **env)
    (copy,) = temporary.glob("polyconv-*/*/libopenblas-*.so")
    assert done.stdout == f"{copy}\n", done.stderr


@linux
def test_a_folder_that_others_may_write_to_is_not_loaded_from(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "a b")
    monkeypatch.setattr(blas.tempfile, "gettempdir", lambda: str(tmp_path))
    (tmp_path / f"polyconv-{os.getuid()}").mkdir(mode=0o700)
    assert list(blas._folders()) == [tmp_path / f"polyconv-{os.getuid()}"]
    (tmp_path / f"polyconv-{os.getuid()}").chmod(0o770)
    assert list(blas._folders()) == []


@pytest.mark.parametrize(("memory", "limit"), [(2**30, 2**27), (2**40, 2**31)])
def test_the_cache_is_a_small_part_of_the_memory_that_there_is(memory, limit, monkeypatch):
    monkeypatch.setattr(running, "memory_here", lambda: memory)
    assert running._default_limit() == limit


@linux
def test_the_command_runs_itself(tmp_path):
    done = started("--quiet", "-m", "polyconv", "doctor")
    assert done.stdout.startswith("polyconv ")
    assert done.stderr == ""


@linux
def test_a_program_that_fails_fails_as_by_python(tmp_path):
    program = tmp_path / "fails.py"
    program.write_text("raise KeyError('mine')")
    done = started("--quiet", program)
    assert done.returncode == 1
    assert done.stderr.endswith("KeyError: 'mine'\n")


REFUSED = [
    (
        ["missing.py"],
        {},
        "[run] program must be a file that is there, or a module behind -m, as in -m polyconv; "
        "got 'missing.py'",
    ),
    (["--cache-limit", "-1", __file__], {}, "[run] --cache-limit must be at least 0; got -1"),
    (
        ["--cache-limit", "9" * 30, __file__],
        {},
        "[run] --cache-limit must fit in 64 bits; got " + "9" * 30,
    ),
    (
        [__file__],
        {"POLYCONV_BLAS": "/no/such.so"},
        "[POLYCONV_BLAS] it must name a library with cblas_sgemm that can be loaded; "
        "got '/no/such.so'",
    ),
]


@linux
@pytest.mark.parametrize(("command", "env", "text"), REFUSED)
def test_what_cannot_be_run_is_refused_in_one_sentence(command, env, text):
    done = started(*command, **env)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"polyconv run: {text}\n"


@linux
def test_a_machine_without_a_fast_blas_is_told_what_to_install(monkeypatch):
    from polyconv.inspection import explain

    monkeypatch.setattr(blas, "find", lambda: None)
    monkeypatch.setattr(blas, "in_force", lambda: None)
    (told,) = running._with_blas()
    assert "some 30 times slower" in told
    assert "pip install scipy-openblas32" in told
    assert "  first: pip install scipy-openblas32" in explain.doctor()


@linux
def test_a_library_that_ends_the_process_is_not_taken(tmp_path, library, monkeypatch):
    broken = tmp_path / "libopenblas.so.0"
    broken.write_bytes(library.read_bytes()[:100_000])
    assert not blas._works(broken)
    monkeypatch.setattr(blas, "_FOLDERS", (str(tmp_path),))
    monkeypatch.setattr(blas.sys, "prefix", str(tmp_path))
    assert blas._of_system() is None


@pytest.mark.parametrize("is_slow", [False, True])
def test_bench_says_behind_its_times_that_they_are_of_the_slow_blas(is_slow, monkeypatch, capsys):
    monkeypatch.setattr(blas, "is_slow", lambda: is_slow)
    call = ["conv_transpose1d", "--input", "1,4,2", "--weight", "2,4,2", "--stride", "2"]
    assert main(["bench", *call, "--rounds", "2"]) == 0
    told = capsys.readouterr()
    assert "mx" in told.out
    expected = "polyconv bench: timed on the slow BLAS of MLX's wheel; on a fast one by: "
    assert told.err == (f"{expected}polyconv run -m polyconv bench ...\n" if is_slow else "")
