"""Configuration of the documentation site; `make docs` builds it."""

from __future__ import annotations

import re

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

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
napoleon_numpy_docstring = False
napoleon_use_rtype = False
napoleon_custom_sections = [("Shape", "params_style")]

myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3
nb_execution_mode = "force"
nb_execution_timeout = 600
nb_merge_streams = True

# Documents of the repository's root that the site shows as pages of its own.
PAGES = {
    "../CONTRIBUTING.md": "contributing.md",
    "../CHANGELOG.md": "changelog.md",
    "../RESULTS.md": "results.md",
    "../README.md": "index.md",
}


def _link_to_pages(app: Sphinx, name: str, source: list[str]) -> None:
    """Point links to documents of the root at their pages."""
    pattern = r"\]\((" + "|".join(map(re.escape, PAGES)) + r")"
    source[0] = re.sub(pattern, lambda match: f"]({PAGES[match[1]]}", source[0])


def setup(app: Sphinx) -> None:
    app.connect("source-read", _link_to_pages)
