"""How Sphinx builds the site from these pages: `make docs`, into build/site."""

import re
import shutil
import sys
from importlib.metadata import version as version_of
from pathlib import Path

from sphinx.application import Sphinx

DOCS = Path(__file__).parent
sys.path.insert(0, str(DOCS))

from navigation import navigation  # noqa: E402

project = "polyconv"
author = "The polyconv authors"
version = release = version_of("polyconv")

extensions = [
    "myst_parser",  # the pages are Markdown, as GitHub shows it too
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
]
myst_heading_anchors = 3
# Code in docstrings stands in single backquotes.
default_role = "code"
# Types stand in the docstrings, as MLX writes them.
autodoc_typehints = "none"
autodoc_member_order = "bysource"
napoleon_numpy_docstring = False
napoleon_use_rtype = False
# Prompts and output of `console` and `pycon` blocks are not copied.
copybutton_exclude = ".linenos, .gp, .go"

html_theme = "furo"
html_title = f"polyconv {release}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sphinx = False
html_show_copyright = False
html_copy_source = False
html_extra_path = ["llms.txt"]  # `python docs/pages.py` writes it
pygments_style, pygments_dark_style = "friendly", "github-dark"


def add_navigation(name: str) -> str:
    """What is appended to a page: its part of the tree, in no page's source as GitHub shows it."""
    if name == "index":
        trees = navigation()
    elif name == "benchmarks/README":
        pages = sorted(path.stem for path in (DOCS / "benchmarks").glob("*.md"))
        trees = {"": [page for page in pages if page != "README"]}
    else:
        return ""
    parts = []
    for title, listed in trees.items():
        caption = [f":caption: {title}"] if title else []
        parts += ["", "```{toctree}", ":hidden:", *caption, "", *listed, "```", ""]
    return "\n".join(parts)


def read_page(app: Sphinx, name: str, source: list[str]) -> None:
    """Adds the navigation; makes links to Markdown outside docs/, no pages here, downloads."""

    def target(match: re.Match[str]) -> str:
        where = (Path(app.env.doc2path(name)).parent / match[1]).resolve()
        return match[0] if where.is_relative_to(DOCS) else f"](path:{match[1]})"

    text = re.sub(r"\]\((\.\./[^):#]+\.md)\)", target, source[0])
    # Doctests end in an empty line, which the site need not show.
    source[0] = text.replace("\n\n```\n", "\n```\n") + add_navigation(name)


def copy_sources(app: Sphinx, error: Exception | None) -> None:
    """Puts each page's text beside it, where llms.txt links to."""
    for folder in (".", "benchmarks"):
        for path in [*(DOCS / folder).glob("*.md"), *(DOCS / folder).glob("*.rst")]:
            shutil.copy(path, app.outdir / folder)


def setup(app: Sphinx) -> None:
    app.connect("source-read", read_page)
    app.connect("build-finished", copy_sources)
