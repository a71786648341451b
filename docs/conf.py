"""Sphinx: Markdown by MyST, the reference out of the docstrings."""

from __future__ import annotations

import spotinfer

project = "spotinfer"
author = "the spotinfer authors"
copyright = "the spotinfer authors; Apache-2.0"
version = release = spotinfer.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc"]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = f"spotinfer {release}"
html_copy_source = False
html_show_sphinx = False

myst_enable_extensions = ["deflist", "colon_fence"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_default_options = {"members": True, "undoc-members": True, "inherited-members": True}
autodoc_inherit_docstrings = True
python_use_unqualified_type_names = True
suppress_warnings = ["misc.highlighting_failure"]
