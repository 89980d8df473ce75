"""The README and the pages stay as easy to read as they were made: `python docs/readability.py`."""

import importlib
import re

import pytest

from tests.support.snippets import ROOT

# Findings of each file, at most. A file that is not here has none. These numbers only go down.
REACHED = {}


@pytest.fixture
def readability(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "docs"))
    return importlib.import_module("readability")


def test_no_page_is_harder_to_read_than_it_was(readability):
    found = readability.everything()
    counts = readability.counts(found)
    worse = {path for path, n in counts.items() if n > REACHED.get(path, 0)}
    assert [str(each) for each in found if each.path in worse] == []
    assert {path for path in REACHED if not counts[path]} == set(), "no longer needed here"


@pytest.mark.parametrize(
    ("sentence", "said"),
    [
        ("Word " * 31 + "end.", "32 words"),
        ("It is cut, was put and is then made.", "passive 3 times (is cut, was put, is then made)"),
        ("A, which is B; C, where D is; so E.", "folded 4 times (which, ;, where, ;)"),
        ("Word " * 29 + "end.", None),
        ("It is made and was cut up, which is B; so C.", None),
        ("A call of `a long piece of code, which is one; where it is` (`a`, `b`) is made.", None),
    ],
)  # fmt: skip
def test_what_makes_a_sentence_hard(readability, sentence, said):
    assert list(readability.faults(sentence)) == ([said] if said else [])


PAGE = """# A title, which is no sentence; and which is not read

One sentence. polyconv begins another,
on two lines [with a link. Inside](which.md). And `code. With a dot`.

* an item. Two
* another

```sh
code is left out. Always
```

| a table. | Too |

    and a formula. Too

Last one
"""


def test_sentences_are_found_with_their_lines(readability):
    assert [(line, text) for _, line, text in readability.sentences("page", PAGE)] == [
        (3, "One sentence."),
        (3, "polyconv begins another, on two lines [with a link. Inside](which.md)."),
        (4, "And `code. With a dot`."),
        (6, "an item."),
        (6, "Two"),
        (7, "another"),
        (17, "Last one"),
    ]


def test_a_word_is_explained_before_it_is_used(readability):
    def said(text):
        return [each.why for each in readability.undefined("page", text)]

    assert said("The phases meet.") == ["'phases' is not explained"]
    assert said("A *phase* is this.\n\nThe phases meet.") == []
    assert said("A **phase** is this.") == ["'phase' is not explained"]
    assert said("See [words](words.md).\n\nThe phases and taps meet.") == []
    assert said("The phases meet.\n\nSee [words](words.md).") == ["'phases' is not explained"]
    assert said("`phase` is code, and `taps` a method.") == []


def test_all_words_that_must_be_explained_are_on_their_page(readability):
    text = (ROOT / "docs" / readability.WORDS).read_text()
    for word, forms in readability.GLOSSARY.items():
        assert re.search(rf"^\| .*\*(?:{forms})\*.* \|", text, re.M), word


def test_public_docstrings_are_read(readability):
    import polyconv

    names = {name.rsplit("/", 1)[1] for name in readability.public_names()}
    assert set(polyconv.__all__) - names == {"distributed"}
    assert set(polyconv.distributed.__all__) <= names
    text = (
        "Takes words.\n\nArgs:\n    stride (int): "
        + "word " * 31
        + "\n\nRaises:\n    ValueError: If not."
    )
    (found,) = readability.of_docstring("file", 7, text)
    assert found[:3] == ("file", 11, "31 words")
    path, line, told = next(iter(readability.docstrings()))
    assert told.splitlines()[0] in (ROOT / path).read_text().splitlines()[line]


def test_the_readme_is_a_front_page():
    """Short, with a picture for the light and the dark."""
    text = (ROOT / "README.md").read_text()
    assert len(text.splitlines()) <= 120
    pictures = re.findall(r'src(?:set)?="([^"]+)"', text)
    assert [path.split("/")[-1] for path in pictures] == ["dark.svg", "light.svg"]
    assert all((ROOT / path).exists() for path in pictures)


def test_the_readme_s_pictures_are_the_figure_in_two_themes(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "docs" / "figures"))
    themed = importlib.import_module("front").themed()
    for name, text in themed.items():
        assert (ROOT / "docs" / "figures" / "front" / f"{name}.svg").read_text() == text
        assert not re.search(r"prefers-color-scheme|var\(|:root", text)
    light, dark = (set(re.findall("#[0-9a-f]{6}", text)) for text in themed.values())
    assert min(len(light), len(dark)) > 4
    assert not light & dark
