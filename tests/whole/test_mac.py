"""What a Mac asks of this code, as far as it can be shown where there is none.

`emulated_gpu.py` runs the whole suite as on one; here is what needs no such run.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import mlx.core as mx
import pytest

from polyconv.bench import command
from polyconv.inspection import explain
from polyconv.models import routing
from polyconv.planning.devices import DEVICES, Metal
from tests.support import emulated_gpu

ROOT = Path(__file__).parents[2]
M2 = Metal("Apple M2", DEVICES["m2-16gb"])
X, W = mx.ones((1, 6, 4)), mx.ones((2, 3, 4))


# What stands between the weight and `groups`.
GIVEN = {"conv1d": (1, 0, 1), "conv_general": (1, 0, 1, 1), "conv_transpose1d": (1, 0, 1, 0)}


@pytest.mark.parametrize("name", GIVEN)
def test_groups_below_1_do_not_reach_mlx_on_a_gpu_either(name, monkeypatch):
    """It divides by them, which ends some processes."""
    monkeypatch.setattr(routing, "is_on_cpu", lambda stream: False)
    monkeypatch.setitem(routing.ORIGINALS, name, lambda *args, **kwargs: pytest.fail("MLX's own"))
    for args, named in (((X, W), {"groups": 0}), ((X, W, *GIVEN[name], 0), {})):
        with pytest.raises(ValueError, match=r"groups must be at least 1; got 0"):
            routing.answer(name, routing.Options(True), args, named)


# The emulation itself, in processes of its own.

PLANNED = """
import mlx.core as mx
from polyconv.execution import device, memory
def test_what_is_planned_for():
    metal = device.device_for(None)
    print(metal.name, metal.limits, mx.default_device())
    with mx.stream(mx.cpu):
        print(device.device_for(None).name, mx.default_device())
        print(memory.room_on(device.device_for(None)).largest <= metal.limits.max_buffer_bytes)
    print(device.device_for(mx.cpu).name, mx.default_device())
"""


def emulated(text, tmp_path, mac):
    """pytest as on a Mac, where products of float32 are as they are by default."""
    path = tmp_path / "test_given.py"
    path.write_text(text)
    options = [
        "-q",
        "-s",
        "-p",
        "tests.support.emulated_gpu",
        "-p",
        "no:cacheprovider",
        "--rootdir",
        tmp_path,
    ]
    known = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, "-m", "pytest", *map(str, options), str(path)],
        capture_output=True,
        text=True,
        env=known | {"POLYCONV_EMULATE": mac, "MLX_ENABLE_TF32": "1"},
        timeout=300,
    )


@pytest.mark.parametrize(("mac", "name"), [("m2", "m2-16gb"), ("paravirtual", "paravirtual-7gb")])
def test_an_emulated_gpu_is_planned_for_as_the_device_of_its_name(mac, name, tmp_path):
    assert set(emulated_gpu.MACS) == {"m2", "paravirtual"}
    ran = emulated(PLANNED, tmp_path, mac)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    called = emulated_gpu.MACS[mac]["device_name"]
    assert f"{called} {DEVICES[name]} Device(gpu, 0)" in ran.stdout
    assert "cpu Device(cpu, 0)\nTrue\ncpu Device(gpu, 0)" in ran.stdout


def test_an_unknown_mac_is_refused(tmp_path):
    ran = emulated(PLANNED, tmp_path, "m9")
    assert ran.returncode != 0
    assert (
        "POLYCONV_EMULATE must be one of m2, paravirtual, h200; got 'm9'" in ran.stdout + ran.stderr
    )


def test_the_emulation_is_of_the_process_that_asked_for_it():
    """This file has imported it, which changes nothing."""
    plain = "import mlx.core as mx; print(mx.default_device(), mx.metal.is_available())"
    script = f"from tests.support import emulated_gpu; {plain}"
    known = os.environ | {"PYTHONPATH": str(ROOT)}
    told = [
        subprocess.run([sys.executable, "-c", s], capture_output=True, text=True, env=known).stdout
        for s in (script, plain)
    ]
    assert told[0] == told[1] != ""


@pytest.mark.parametrize(
    ("architecture", "macos", "asked", "by_tf32"),
    [
        ("applegpu_g17s", "26.2", None, True),
        ("applegpu_g17s", "27.0.1", "1", True),
        ("applegpu_g17s", "26.2", "0", False),
        ("applegpu_g17s", "26.1.9", None, False),
        ("applegpu_g16s", "26.2", None, False),
        ("applegpu_g17p", "26.2", None, False),
        ("applegpu_g18p", "26.2", None, True),
        ("air64_v27", "26.2", None, False),
        ("applegpu_g17s", "", None, False),
    ],
)
def test_who_multiplies_by_tf32_is_told(architecture, macos, asked, by_tf32, monkeypatch):
    monkeypatch.delenv("MLX_ENABLE_TF32", raising=False)
    if asked is not None:
        monkeypatch.setenv("MLX_ENABLE_TF32", asked)
    told = explain.products_told(architecture, macos)
    assert ("by TF32" in told) == by_tf32
    assert ("MLX_ENABLE_TF32" in told) == (by_tf32 or asked == "0")


DOCTOR = """
import platform, sys
sys.path.insert(0, EXAMPLES)
import polyconv
from report import machine_sentence
def test_what_the_doctor_says(monkeypatch, capsys):
    monkeypatch.setattr(platform, "mac_ver", lambda: ("26.2", ("", "", ""), "arm64"))
    told = polyconv.doctor().splitlines()
    print(told[-2], told[-1], machine_sentence(), sep="\\n")
"""


def test_the_doctor_and_the_demo_tell_chip_macos_and_products(tmp_path):
    pytest.importorskip("rich", reason="examples need the examples extra")
    ran = emulated(DOCTOR.replace("EXAMPLES", repr(str(ROOT / "examples"))), tmp_path, "m2")
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert ran.stdout.count("Apple M2, macOS 26.2, float32 products in float32") == 2


def test_figures_of_another_machine_are_kept_apart(tmp_path, monkeypatch, capsys):
    path, mac = tmp_path / "rivals.json", tmp_path / "rivals-darwin-arm64.json"
    monkeypatch.setattr(command, "here", lambda: "Linux x86_64")
    command._write(path, {"rounds": 1, "rows": []})
    command._write(path, {"rounds": 2, "rows": []})
    kept = path.read_text()
    assert json.loads(kept)["rounds"] == 2
    assert capsys.readouterr().out == ""
    monkeypatch.setattr(command, "here", lambda: "Darwin arm64")
    for rounds in (3, 4):
        command._write(path, {"rounds": rounds, "rows": []})
    assert path.read_text() == kept
    assert json.loads(mac.read_text())["rounds"] == 4
    told = f"{path} holds figures of Linux x86_64, so those of Darwin arm64 go to {mac}."
    assert capsys.readouterr().out.splitlines() == [told, told]
    path.write_text(json.dumps({"what": [], "rows": []}))  # from before files named a machine
    command._write(path, {"rounds": 5, "rows": []})
    assert json.loads(path.read_text()) == {"what": [], "rows": []}


def test_pages_headed_with_a_machine_are_not_written_on_another(monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(ROOT / "docs" / "benchmarks"))
    import page

    monkeypatch.setattr(command, "here", lambda: "Darwin arm64")
    monkeypatch.setattr(Path, "write_text", lambda *given: pytest.fail("written"))
    page.main()
    assert "stay as they are; the figures of Darwin arm64 are in" in capsys.readouterr().out


def test_the_tests_for_a_mac_run_through():
    """On the CPU, which says nothing about Metal but that they can be run."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/on_metal"]
    environment = {**os.environ, "POLYCONV_DRY_RUN": "1", "PYTHONPATH": str(ROOT)}
    ran = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout
    assert "paste from here" in ran.stdout
    assert "DRY RUN ON THE CPU" in ran.stdout
