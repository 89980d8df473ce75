"""The order of the pages: a path, what is looked up, and what contributors need."""

import re
from pathlib import Path

DOCS = Path(__file__).parent

# Sections of the sidebar. A page that is in none lands in the last one, "More".
NAVIGATION = {
    "The path": [
        "first_steps",
        "switching",
        "streaming",
        "training",
        "distributed",
        "tuning",
        "memory",
        "polyphase",
        "macs",
        "benchmarks/README",
        "differences",
    ],
    "Look up": [
        "words",
        "api",
        "reference",
        "cli",
        "choosing",
        "explain",
        "threads",
        "griffin_lim",
        "gallery",
    ],
    "For contributors": ["design", "add_a_method", "add_a_device", "add_mlx_rules"],
}


def navigation() -> dict[str, list[str]]:
    """The sections, with all pages that they do not name behind them."""
    named = {re.sub(r".*<(.*)>", r"\1", page) for pages in NAVIGATION.values() for page in pages}
    pages = {path.stem for path in DOCS.iterdir() if path.suffix in (".md", ".rst")}
    rest = sorted(pages - named - {"index"})
    return NAVIGATION | ({"More": rest} if rest else {})
