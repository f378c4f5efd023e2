"""Sphinx configuration. Build: python -m sphinx -W -b html docs docs/_build/html"""

import os
import shutil
from pathlib import Path

import iris_wm
from iris_wm.cli.options import markdown

ROOT = Path(__file__).resolve().parents[1]
project = "iris_wm"
author = "the iris_wm developers"
release = version = iris_wm.__version__

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = f"iris_wm {release}"
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3

# The notebooks of the repository are copied here and shown as they are; their outputs are stripped in git.
# DOCS_NOTEBOOKS names a folder with executed copies to show in their place (make docs executes them there).
nb_execution_mode = "off"
_notebooks = ROOT / "docs" / "notebooks"
_notebooks.mkdir(exist_ok=True)
for _path in sorted(Path(os.environ.get("DOCS_NOTEBOOKS", ROOT / "notebooks")).glob("0*.ipynb")):
    _target = _notebooks / _path.name
    if not _target.exists() or _target.read_bytes() != _path.read_bytes():
        shutil.copyfile(_path, _target)

(ROOT / "docs" / "options.md").write_text(markdown())

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_default_options = {"members": True, "show-inheritance": True}
napoleon_google_docstring = True
