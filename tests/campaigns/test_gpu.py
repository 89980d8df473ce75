"""What `gpu.py` reads of a run of pytest whose process may have ended."""

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
