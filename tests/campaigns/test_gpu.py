"""What `gpu.py` reads of a run of pytest whose process may have ended."""

import pytest

from tests.campaigns import gpu
from tests.campaigns.gpu import Told, _read

FILE = "tests/campaigns/test_gpu.py"
RUN = f"""
{FILE}::test_c PASSED                                   [ 20%]
{FILE}::test_d[one two] FAILED                          [ 40%]
{FILE}::test_e SKIPPED (needs Metal)                    [ 60%]
"""
SUMMARY = f"""
=========================== short test summary info ============================
FAILED {FILE}::test_d[one two] - AssertionError: no - at all
"""


def test_outcomes_and_reasons():
    told = Told(FILE)
    assert _read(RUN + SUMMARY, told) is None
    assert told.counts == {"PASSED": 1, "FAILED": 1, "SKIPPED": 1}
    assert told.failed == {f"{FILE}::test_d[one two]": "AssertionError: no - at all"}


def test_the_test_in_which_a_process_ended():
    for behind in ("", "terminate called after throwing\n"):
        told = Told(FILE)
        assert _read(f"{RUN}{FILE}::test_f[1-a b] {behind}", told) == (f"{FILE}::test_f[1-a b]")
        assert told.counts["PASSED"] == 1


@pytest.mark.parametrize(
    ("failed", "ended", "is_again"),
    [
        ({}, {}, False),
        ({"a": "cudaMallocAsync failed: out of memory"}, {}, True),
        ({"a": "cudaMallocAsync failed: out of memory", "b": "assert 1 == 2"}, {}, False),
        ({}, {"a": "status -6: ..."}, True),
        ({}, {"a": "status 124: ..."}, False),  # it ran out of time
        ({}, {"a": "status -11: ..."}, False),
    ],
)
def test_what_failed_for_memory_alone_is_run_again(failed, ended, is_again, monkeypatch, tmp_path):
    ran = []

    def run(file, options, until):
        ran.append(file)
        return Told(file, {"PASSED": 1}) if len(ran) > 1 else Told(file, {}, failed, ended)

    monkeypatch.setattr(gpu, "run", run)
    (told,) = gpu._results([FILE], 1, [], float("inf"), tmp_path / "told.json")
    assert len(ran) == 1 + is_again
    assert told.alone == is_again
    assert ('"alone": true' in (tmp_path / "told.json").read_text()) == is_again


def test_no_file_is_run_again_once_time_is_up(monkeypatch):
    lacking = lambda file, *_: Told(file, {}, {"a": "out of memory"})  # noqa: E731
    monkeypatch.setattr(gpu, "run", lacking)
    (told,) = gpu._results([FILE], 1, [], 0.0, None)
    assert not told.alone


def test_files_whose_tests_compute_in_threads_do_without_cuda_graphs():
    alone, threaded = map(
        gpu.environment_of, ("tests/ops/test_conv.py", "tests/whole/test_threads.py")
    )
    assert threaded == alone | {"MLX_USE_CUDA_GRAPHS": "0"} != alone


def test_the_longest_files_begin_first():
    files = gpu._in_order()
    assert files[: len(gpu._LONGEST)] == [f"tests/{each}" for each in gpu._LONGEST]
    assert len({*files}) == len(files) > 100
