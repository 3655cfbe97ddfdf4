"""The settings of the site. It is built by ``sphinx-build -W docs build/site``, after ``pip install '.[docs]'``."""

import hashlib
import importlib
import os
import shutil
import sys
import tempfile
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

# The pictures of the chapters depend on no settings of the user. A damaged list of fonts there makes matplotlib print
# in the chapters that it does not find its own fonts. The new list is written now, since that can print a message, too.
_matplotlib_settings = tempfile.TemporaryDirectory(prefix="functional-nn-site-")
os.environ["MPLCONFIGDIR"] = _matplotlib_settings.name
importlib.import_module("matplotlib.font_manager")

sys.path.insert(0, str(Path(__file__).parent / "_extensions"))

project = "functional_nn"
author = "The functional_nn developers"
version = release = metadata.version("functional-nn")
extensions = [
    "myst_nb",  # Markdown pages, and the chapters of the tutorial, whose code is run
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "sphinx_design",
    "mathml",
    "public_names",
    "touchable",
    "linked_names",
    "notebooks",
    "languages",
]
exclude_patterns = ["_extensions", "_static", "figures", "**/README.md"]

myst_enable_extensions = ["dollarmath", "colon_fence", "deflist", "attrs_inline"]
myst_heading_anchors = 4
myst_links_external_new_tab = False
suppress_warnings = [
    "myst.header",  # pages that begin with a figure
]


def digest_of_package() -> str:
    """What the results of the chapters depend on, other than their own code: the package and JAX."""
    digest = hashlib.sha256(metadata.version("jax").encode())
    (package,) = find_spec("functional_nn").submodule_search_locations
    for path in sorted(Path(package).rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


# A second build runs only the chapters that were changed, or all of them if the package was.
nb_execution_mode = "cache"
results = Path(__file__).parents[1] / "build" / "chapters" / digest_of_package()
for older in set(results.parent.glob("*")) - {results}:
    shutil.rmtree(older)
nb_execution_cache_path = str(results)
nb_execution_timeout = 300
nb_execution_raise_on_error = True
nb_merge_streams = True

toc_object_entries_show_parents = "hide"
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_rtype = False
napoleon_use_param = True

html_theme = "pydata_sphinx_theme"
html_title = "functional_nn"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_js_files = ["site.js"]
html_math_renderer = "mathml"
html_search_scorer = str(Path(__file__).parent / "_extensions" / "search_scorer.js")
html_show_sourcelink = False
html_copy_source = False
html_context = {"default_mode": "auto"}  # light or dark, as the browser asks
html_theme_options = {
    "navbar_align": "left",
    "navbar_end": ["theme-switcher"],
    "footer_start": ["copyright"],
    "footer_end": [],
    "secondary_sidebar_items": ["page-toc"],
    "show_toc_level": 2,
    "navigation_with_keys": False,
    "header_links_before_dropdown": 6,
}
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True
