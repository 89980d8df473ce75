"""Hostile files and command lines: of rates, of cases, and words without an end."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import polyconv
from polyconv.__main__ import main
from polyconv.bench import cases
from tests.campaigns import fuzz_files
from tests.support.refusals import refused

ROOT = Path(__file__).parents[2]


RATES = ["2.5", "true", "[" * 10**5, '{"rates": 3}', '{"rates": {"cpu": {}}}', "\x00", "{", ""]
RATES += ['{"rates": {"cpu": {"per_mac": 1e-9, "per_conv": "x" , "per_byte_moved": 0}}}']


@pytest.mark.parametrize("text", RATES, ids=lambda text: text[:20])
def test_files_that_hold_no_rates(text, tmp_path):
    path = tmp_path / "rates.json"
    path.write_text(text)
    refused(polyconv.use_rates, path)
    for odd in (3, [str(path)], "\x00"):
        refused(polyconv.use_rates, odd)
    path.write_bytes(b"\xff\xfe\xaa")
    refused(polyconv.use_rates, path)


CASES = {
    "a.csv": [b"model\nx", b"\xff", fuzz_files._CSV.replace(b"1,1,1", b"%d,0,1" % 10**30)],
    "a.toml": [b"", b"\xff", b"case = 3", b"[[case]]\nname = 3", b"x" * 5000, b"[" * 10**5],
}


@pytest.mark.parametrize(("name", "content"), [(n, c) for n in CASES for c in CASES[n]])
def test_files_that_hold_no_cases(name, content, tmp_path):
    pytest.importorskip("tomllib")
    path = tmp_path / name
    path.write_bytes(content)
    refused(cases.read, path)


@pytest.mark.parametrize("command", ["explain", "bench", "tune", "doctor"])
def test_the_command_line_answers_in_one_short_line(command, capsys):
    for words in (["9" * 5000], ["a\nb"], ["conv_general", "--input", "9" * 5000]):
        with pytest.raises(SystemExit) as leaves:
            main([command, *words])
        told = capsys.readouterr().err
        assert leaves.value.code == 2
        assert len(told) < 400
        assert told.count("\n") == 1
        assert told.startswith("polyconv")


def test_rates_that_the_environment_names_but_that_are_not_there(tmp_path):
    script = "import polyconv, mlx.core as mx\n"
    script += "try: polyconv.conv1d(mx.zeros((1, 3, 1)), mx.zeros((1, 1, 1)))\n"
    script += "except ValueError as error: print(error)"
    known = {**os.environ, "POLYCONV_RATES": str(tmp_path / "none.json"), "PYTHONPATH": str(ROOT)}
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=known)
    assert ran.stdout.startswith("[POLYCONV_RATES] it must name a file of rates that can be read")
