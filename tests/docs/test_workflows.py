"""What the files of .github ask for exists: the version of a tag, targets of make, commands."""

import re
import subprocess

import pytest

import polyconv
from tests.support.snippets import ROOT, commands, complaint, make_targets

WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
PUBLISH = ROOT / ".github" / "workflows" / "publish.yml"


@pytest.mark.parametrize(
    ("tag", "is_right"),
    [
        (f"v{polyconv.__version__}", True),
        (polyconv.__version__, False),
        (f"v{polyconv.__version__}1", False),
        ("v", False),
    ],
)
def test_a_tag_is_published_only_if_it_is_the_version(tag, is_right):
    """By the very command of the workflow, which reads the version without importing MLX."""
    (command,) = re.findall(r"run: (test .*GITHUB_REF_NAME.*)", PUBLISH.read_text())
    env = {"GITHUB_REF_NAME": tag, "PATH": "/usr/bin:/bin"}
    ran = subprocess.run(["bash", "-ec", command], cwd=ROOT, env=env)
    assert (ran.returncode == 0) == is_right


def test_targets_of_make_exist():
    asked = [
        target
        for path in WORKFLOWS
        for target in re.findall(r"run: make (\S+)", path.read_text())
        if not target.startswith(".venv/")
    ]
    assert len(asked) > 5
    assert {*asked} <= make_targets()


def test_an_action_has_one_version_in_all_workflows():
    found = {}
    for path in WORKFLOWS:
        for action, version in re.findall(r"uses: ([\w/-]+)@(\S+)", path.read_text()):
            found.setdefault(action, set()).add(version)
    assert len(found) > 3
    assert [action for action, versions in found.items() if len(versions) > 1] == []


FORMS = sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("[!c]*.yml"))


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.stem)
def test_each_form_of_an_issue_asks_for_the_doctor_and_for_commands_that_exist(form):
    text = form.read_text()
    first = text.split("  - type: ")[1]
    assert "What `polyconv doctor` prints" in first
    assert "required: true" in first
    asked = re.findall(r"`((?:polyconv|make) [^`]+)`", text)
    assert [complaint(words) for each in asked for words in commands(each)] == [""] * len(asked)


def test_there_are_forms():
    assert len(FORMS) == 3
