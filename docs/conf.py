"""How Sphinx builds the documentation: ``make docs``."""

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

import lowprec  # noqa: E402

project = "lowprec"
author = "the lowprec developers"
copyright = author
version = release = lowprec.__version__

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "myst_parser",
    "from_the_package",
]
exclude_patterns = []

# In docstrings `name` is a thing of the package where there is one, and otherwise just code, such as an argument.
default_role = "py:obj"
# A name below lowprec must be one that these pages have. Types are written in words, which are no names.
nitpicky = True
nitpick_ignore_regex = [("py:.*", r"(?!lowprec\.).*")]
napoleon_google_docstring = False
napoleon_use_ivar = True
napoleon_use_rtype = False
autodoc_member_order = "bysource"
autodoc_typehints = "none"
autodoc_mock_imports = ["torch"]  # the pages of what needs PyTorch are made without it

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3

html_theme = "furo"
html_title = f"lowprec {release}"
html_copy_source = False
html_show_sphinx = False
html_theme_options = {"navigation_with_keys": False}
