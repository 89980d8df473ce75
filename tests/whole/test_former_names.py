"""A program and a pickle of before the wings: old names of modules are the modules of now."""

import importlib
import pickle
import subprocess
import sys

import mlx.core as mx
import mlx.nn as nn
import pytest

import polyconv
from polyconv.former_names import DIVIDED, MOVED


@pytest.mark.parametrize("old", MOVED)
def test_a_module_is_found_by_its_old_name(old):
    module = importlib.import_module(f"polyconv.{old}")
    assert module is importlib.import_module(f"polyconv.{MOVED[old]}")
    assert module.__name__ == module.__spec__.name == f"polyconv.{MOVED[old]}"
    assert getattr(polyconv, old) is module


NAMES = {
    "explanation": ("Explanation", "problem_of", "predict_row", "OPS"),
    "devices": ("DEVICES",),
    "plan": ("plan", "METHODS", "ConvPlan"),
    "planning.plan": ("plan", "METHODS", "ideal"),
    "planning.axis_plan": ("AxisPlan", "per_phase_axis"),
    "spec": ("ConvSpec", "check_groups"),
    "arguments": ("NoRoomError", "FatalError"),
    "ops": ("conv_transpose1d", "pack"),
    "streaming": ("StreamState", "stream_init"),
    "inspection": ("explain", "doctor"),
    "bench": ("bench", "new_lengths"),
    "distributed": ("conv_transpose1d", "Sharding"),
    "layers": ("PolyConvTranspose1d",),
    "converting": ("convert", "original_class", "_remade"),
    "packing": ("PackedWeight",),
    "resampling": ("resample_poly", "upfirdn", "ResampleStream"),
}


@pytest.mark.parametrize("old", NAMES)
def test_a_program_of_before_imports_what_it_did(old):
    """In a process of its own, where nothing was imported by another name before."""
    code = f"from polyconv.{old} import {', '.join(NAMES[old])}"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr


def test_a_module_of_a_wing_is_found_without_the_others():
    """`from polyconv.bench import scores` must not look for it in modules of former names."""
    code = "import sys; from polyconv.bench import scores; "
    code += "sys.exit('polyconv.bench.timing' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_what_never_was_is_not_found():
    for name in ("nothing", "_private"):
        assert not hasattr(polyconv, name)
        for wing in DIVIDED:
            assert not hasattr(importlib.import_module(f"polyconv.{wing}"), name)
        with pytest.raises(ModuleNotFoundError):
            importlib.import_module(f"polyconv.{name}")


def test_pickles_of_before_load():
    w = mx.arange(12.0).reshape(2, 3, 2)
    converted = nn.ConvTranspose1d(2, 3, 4, 2)
    polyconv.convert(converted)
    made = [
        polyconv.stream_init("conv_transpose1d", w, stride=2),
        polyconv.PolyConvTranspose1d(2, 3, 4, 2),
        polyconv.StreamingConv1d(2, 3, 4),
        polyconv.ResampleStream(2, 3),
        converted,
        polyconv.explain("conv_transpose1d", (1, 4, 2), (3, 4, 2), stride=2),
    ]
    old_names = {f"polyconv.{new}": f"polyconv.{old}" for old, new in MOVED.items()}
    old_names["polyconv.streaming.functional"] = "polyconv.streaming"
    old_names["polyconv.streaming.resample_stream"] = "polyconv.resampling"
    old_names["polyconv.models.converted_classes"] = "polyconv.converting"
    old_names["polyconv.inspection.report"] = "polyconv.explanation"
    for each in made:
        text = pickle.dumps(each, protocol=2)
        before = text
        for new, old in old_names.items():
            before = before.replace(f"c{new}\n".encode(), f"c{old}\n".encode())
        assert before != text
        assert type(pickle.loads(before)) is type(each)
