"""How Sphinx builds the documentation: `make docs`."""

from __future__ import annotations

import sys
from importlib.metadata import version as version_of
from pathlib import Path

from sphinx.application import Sphinx

sys.path.insert(0, str(Path(__file__).with_name("_extensions")))

project = "Flask-Migrate-Mongo"
author = "the authors of Flask-Migrate-Mongo"
version = release = version_of("flask-migrate-mongo")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx_click", "endpoints"]
nitpicky = True
# The types in signatures are shown as they are written; most are names of other packages, or private.
nitpick_ignore_regex = [("py:.*", ".*")]

myst_enable_extensions = ["deflist"]
myst_heading_anchors = 4

# Docstrings of the package write code between single backticks.
default_role = "code"
autodoc_typehints = "signature"
autodoc_member_order = "bysource"

html_theme = "furo"
html_title = project
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sourcelink = False
html_copy_source = False

_OUTSIDE = {"../CONTRIBUTING.md": "contributing.md", "../CHANGELOG.md": "changelog.md"}
"""Files of the repository that are pages of the site, too: links to them lead to these pages."""


def _link_inside(_: Sphinx, page: str, source: list[str]) -> None:
    up = "../" * page.count("/")
    for path, inside in _OUTSIDE.items():
        source[0] = source[0].replace(f"]({up}{path}", f"]({up}{inside}")


def setup(app: Sphinx) -> None:
    """Follow links that leave the folder of the documents."""
    app.connect("source-read", _link_inside)
