"""Sphinx's settings: python -m sphinx -W docs build/docs, or make docs."""

from __future__ import annotations

import inspect
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "_ext"))

from torchrl_alita._version import __version__

project = "torchrl_alita"
author = "The torchrl_alita authors"
copyright = "2026, the torchrl_alita authors"
release = version = __version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.mathjax",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "sphinx-mathjax-offline",
    "settings_table",
]
exclude_patterns = ["_build"]
source_suffix = {".md": "markdown", ".rst": "restructuredtext"}
myst_enable_extensions = ["colon_fence", "dollarmath", "fieldlist"]
myst_heading_anchors = 3
# Pages are also read on the repository's own site, where a link to a folder works.
suppress_warnings = ["myst.xref_missing"]

autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_member_order = "bysource"
# Members that come from torch, TensorDict and TorchRL are documented there.
autodoc_default_options = {"members": True, "inherited-members": False, "show-inheritance": True}
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_rtype = False
napoleon_use_ivar = True
add_module_names = False

html_theme = "furo"
html_static_path = ["_static"]
html_css_files = ["tables.css"]
html_title = f"torchrl_alita {release}"
html_show_sourcelink = False
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True


def signature_of_init(app, what, name, thing, options, signature, returns):
    """The arguments of ``__init__``, where a metaclass hides them."""
    if what == "class" and signature == "(*args, **kwargs)":
        found = inspect.signature(thing.__init__)
        own = [p.replace(annotation=p.empty) for p in list(found.parameters.values())[1:]]
        return str(found.replace(parameters=own, return_annotation=found.empty)), None
    return None


def setup(app):
    """Connect the hook."""
    app.connect("autodoc-process-signature", signature_of_init)
