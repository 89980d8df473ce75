"""What `gpu.py` reads of a run of pytest whose process may have ended."""

from tests.campaigns.gpu import Told, _read

RUN = """
tests/a/test_b.py::test_c PASSED                                   [ 20%]
tests/a/test_b.py::test_d[one two] FAILED                          [ 40%]
tests/a/test_b.py::test_e SKIPPED (needs Metal)                    [ 60%]
"""
SUMMARY = """
=========================== short test summary info ============================
FAILED tests/a/test_b.py::test_d[one two] - AssertionError: no - at all
"""


def test_outcomes_and_reasons():
    told = Told("tests/a/test_b.py")
    assert _read(RUN + SUMMARY, told) is None
    assert told.counts == {"PASSED": 1, "FAILED": 1, "SKIPPED": 1}
    assert told.failed == {"tests/a/test_b.py::test_d[one two]": "AssertionError: no - at all"}


def test_the_test_in_which_a_process_ended():
    for behind in ("", "terminate called after throwing\n"):
        told = Told("tests/a/test_b.py")
        assert _read(f"{RUN}tests/a/test_b.py::test_f[1-a b] {behind}", told) == (
            "tests/a/test_b.py::test_f[1-a b]"
        )
        assert told.counts["PASSED"] == 1
