"""Build the documentation: `sphinx-build -W -b html docs OUT`, after `pip install -e ".[suite,docs]"`."""

import os
import re
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "experiments")]
os.environ.setdefault("HF_HUB_OFFLINE", "1")  # importing needs no network

with (ROOT / "pyproject.toml").open("rb") as file:
    PROJECT = tomllib.load(file)["project"]

project = PROJECT["name"]
author = "The bon developers"
release = version = PROJECT["version"]
html_title = f"bon {release}"

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.autosummary", "sphinx.ext.napoleon"]
templates_path = ["_templates"]
exclude_patterns = ["_build"]
html_theme = "furo"
html_copy_source = False
html_show_copyright = False
html_show_sourcelink = False

# Pages: Markdown; notebooks as they are committed, never run here.
myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 4
nb_execution_mode = "off"

# The reference: what `__all__` of a package names, in that order, from the docstrings as they are.
autosummary_generate = True
autosummary_ignore_module_all = False
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_default_options = {"members": True, "show-inheritance": True}
napoleon_numpy_docstring = False
napoleon_attr_annotations = False
napoleon_use_ivar = True
napoleon_use_rtype = False
default_role = "code"  # `x` in a docstring is code


def literal_blocks(app, what, name, obj, options, lines):
    """Show an indented paragraph of a docstring, a formula or code, as it is written."""
    section, inside, written = False, True, []
    for line in lines:
        if line and not line[0].isspace():
            section = re.fullmatch(r"(Args|Attributes|Raises|Returns|Yields):", line) is not None
            inside = line.endswith("::") or line.startswith(("- ", "1. "))
        elif line.strip() and not section and not inside:
            written += ["::", ""]
            inside = True
        written.append(line)
    lines[:] = written


def setup(app):
    """Read docstrings before napoleon does."""
    app.connect("autodoc-process-docstring", literal_blocks, priority=400)
