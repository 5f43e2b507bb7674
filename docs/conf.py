"""Configuration of the documentation site; `make docs` builds it."""

from __future__ import annotations

import re
from pathlib import Path

from sphinx.application import Sphinx

import resnets

project = "resnets"
author = "the resnets contributors"
copyright = "2026, the resnets contributors"
release = version = resnets.__version__
html_theme = "furo"
html_title = f"resnets {release}"
html_show_sourcelink = False

extensions = ["sphinx.ext.autodoc", "sphinx.ext.napoleon", "myst_nb"]
# tour.ipynb is tour.md with its code executed.
exclude_patterns = ["_build", "tour.md"]
suppress_warnings = ["mystnb.unknown_mime_type"]

default_role = "literal"  # docstrings have code between single backticks
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
napoleon_numpy_docstring = False
napoleon_use_rtype = False
napoleon_use_ivar = True
napoleon_custom_sections = ["Shape"]

myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3
nb_execution_mode = "force"
nb_execution_timeout = 600
nb_merge_streams = True

# Documents of the repository's root that the site shows as pages of its own.
ROOT_PAGES = ("contributing", "changelog", "results", "log", "security")


def _show_root_pages(app: Sphinx, name: str, source: list[str]) -> None:
    """Show the documents of the root, and point links to them at their pages."""
    text = source[0]
    if name in ROOT_PAGES:
        text = Path(app.srcdir, "..", f"{name.upper()}.md").read_text("utf-8")
        text = text.replace("](docs/", "](")
    pattern = rf"\]\((?:\.\./)?({'|'.join(ROOT_PAGES)})\.md"
    source[0] = re.sub(pattern, lambda link: link[0].lower().replace("../", ""), text, flags=re.I)


def setup(app: Sphinx) -> None:
    """Register the handler of the documents of the root."""
    app.connect("source-read", _show_root_pages)
