"""What a plan is said to allocate, counted by hand."""

from polyconv.planning.choose import plan
from polyconv.planning.devices import CUDA
from polyconv.planning.methods import lower_ordinary
from polyconv.planning.weight_gradient import Run, run_of
from polyconv.planning.workspace import allocated, temporaries
from polyconv.problem.spec import Axis, ConvSpec
from tests.support.forms import METAL
from tests.support.problems import transposed


def test_packed_weights_and_what_is_woven():
    problem = transposed((2, 10, 16), (32, 4, 16), stride=2)
    frames = 2 * 11
    stacked = allocated(plan(problem, "stacked", device=METAL))
    assert stacked == {"packed": 4 * 64 * 2 * 16}  # K4 s2 folds as it is
    longer = transposed((2, 10, 16), (32, 5, 16), stride=2)
    found = allocated(plan(longer, "stacked", device=METAL))
    assert found["packing"] == found["packed"] == 4 * 64 * 3 * 16  # padded to 6 taps first
    per_phase = allocated(plan(problem, "per_phase", device=METAL))
    assert per_phase == {"packed": 4 * 64 * 2 * 16, "convolved": 4 * frames * 64}


def test_padded_channels():
    problem = transposed((1, 7, 5), (3, 4, 5), stride=2)
    found = allocated(plan(problem, "stacked", device=METAL))
    assert found["padded"] == 4 * 7 * 16
    assert found["packed"] == 4 * 6 * 2 * 16
    problem = transposed((1, 7, 2), (5, 8, 2), stride=4)  # 20 outputs are made 32
    found = allocated(plan(problem, "stacked", device=METAL))
    assert found["packed"] == 4 * 32 * 2 * 2
    assert found["convolved"] == 4 * 8 * 32
    assert "padded" not in found


def test_input_padded_behind_by_a_copy():
    sizes = ((1, 11, 10, 12, 32), (32, 2, 2, 1, 32), (1, 1, 1), (1, 0, 0), 1, (1, 2, 1))
    chosen = plan(transposed(*sizes, dtype="float16"), "per_phase", device=METAL)
    assert chosen.first.issued.form.pad_hi == (1, 3, 1)
    assert allocated(chosen)["padded"] == 2 * 12 * 13 * 13 * 32


def test_frames_are_cut_out_convolved_and_added():
    problem = transposed((2, 3, 3, 3, 4), (2, 3, 3, 3, 2), padding=1, groups=2)
    found = allocated(plan(problem, device=METAL))
    frames, output = 2 * 3 * 9 * 4, 2 * 27 * 2
    assert found["cut"] == 4 * 3 * frames  # three taps, each with its own frames
    assert found["convolved"] == 4 * (5 * output) - 4 * output
    assert found["padded"] == 4 * 2 * 5 * 9 * 4
    half = transposed((2, 3, 3, 3, 4), (2, 3, 3, 3, 2), padding=1, groups=2, dtype="float16")
    assert allocated(plan(half, device=METAL))["widened"] == 4 * (2 * 5 * 9 * 4 + 2 * 27 * 2)


def test_a_cropped_view_is_copied_by_mlx():
    """Padding of 4 crops one sample of the input at each end; it is no longer contiguous."""
    problem = transposed((1, 9, 9, 16), (16, 2, 2, 16), stride=2, padding=4)
    found = allocated(plan(problem, "per_phase", device=METAL))
    assert found["contiguous_copy"] > 0
    line = transposed((1, 9, 16), (16, 2, 16), stride=2, padding=4)
    assert "contiguous_copy" not in allocated(plan(line, "per_phase", device=METAL))


def test_nothing_is_allocated_for_nothing():
    assert allocated(plan(transposed((0, 9, 4), (4, 2, 4), stride=2), device=METAL)) == {}


def test_runs_of_frames_count_the_gradient_of_their_longer_kernel():
    axis = Axis(size=266, kernel_size=11)
    chosen = lower_ordinary(ConvSpec(4, 8, 8, (axis,)), CUDA)
    run = run_of(chosen)
    assert run == Run(4, 14)
    windows = 4 * 256 // 4 * 14 * 8
    product = 4 * 8 * 8 * 14
    with_zeros = 4 * 8 * 8 * (14 + 1)
    assert temporaries(chosen, "w") >= 4 * (windows + 2 * product + with_zeros)
