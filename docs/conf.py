"""Builds the site from docs/, results/, notebooks/; needs no network (`make docs`)."""

import dataclasses
import sys
from pathlib import Path

import flax.linen as nn

DOCS = Path(__file__).parent
sys.path[:0] = [str(DOCS), str(DOCS.parent)]

import gathering  # noqa: E402  (beside this file)

import ace_jax  # noqa: E402

gathering.gather(DOCS.parent, DOCS / "gathered")

project = "ace_jax"
author = "The ace_jax authors"
project_copyright = author
version = release = ace_jax.__version__

extensions = ["sphinx.ext.autodoc", "sphinx.ext.mathjax", "sphinx.ext.napoleon", "myst_nb"]
exclude_patterns = ["_build"]
default_role = "code"
highlight_language = "none"
add_module_names = False

smartquotes_action = "qe"  # two dashes begin a flag

html_theme = "sphinx_book_theme"
html_title = "ace_jax"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_theme_options = {"show_toc_level": 2}
html_show_sourcelink = False
mathjax_path = "mathjax/tex-svg.js"  # 3.2.2, from npm; glyphs are paths within it

myst_enable_extensions = ["colon_fence", "dollarmath"]
myst_heading_anchors = 3
nb_execution_mode = "off"

# A public name is documented in its namespace and in its module, so that a short name in an
# annotation has two targets; either will do.
suppress_warnings = ["ref.python"]
autodoc_default_options = {"special-members": "__call__"}
autodoc_member_order = "bysource"
autodoc_inherit_docstrings = False
autodoc_preserve_defaults = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_custom_sections = [("Reference", "notes"), ("Source", "notes")]


def _short(annotation):
  """Returns an annotation with the names by which the code calls array types."""
  return annotation and annotation.replace("jaxlib._jax.Array", "Array").replace("jaxtyping.", "")


def signature_of_module(app, what, name, obj, options, signature, returned):
  """Shortens array types; leaves out of a Linen module's signature what Flax adds to all."""
  del app, what, name, options
  if not (isinstance(obj, type) and issubclass(obj, nn.Module)):
    return _short(signature), _short(returned)
  fields = [f for f in dataclasses.fields(obj) if f.name not in ("parent", "name")]
  return f"({', '.join(f.name for f in fields)})", returned


def skip_member(app, what, name, obj, skip, options):
  """Leaves out what NamedTuple and flax.struct add: fields, which Attributes has, and `replace`."""
  del app, what, options
  field = (getattr(obj, "__doc__", None) or "").startswith("Alias for field number")
  return True if field or name == "replace" else skip


def escape_shapes(app, what, name, obj, options, lines):
  """Escapes the asterisks of shapes such as "*batch 3" in the types of attributes."""
  del app, what, name, obj, options
  lines[:] = [
    _short(line).replace("*", "\\*") if line.startswith(":vartype") else line for line in lines
  ]


def setup(app):
  """Registers the hooks."""
  app.connect("autodoc-skip-member", skip_member)
  app.connect("autodoc-process-docstring", escape_shapes, priority=900)  # after napoleon
  app.connect("autodoc-process-signature", signature_of_module)
