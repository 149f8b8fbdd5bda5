"""Imports the library, and all that an extra of it brings.

python .ci/extra.py EXTRA
"""

import importlib
import importlib.util
import re
import sys
from importlib import metadata

import ace_jax

DISTRIBUTION = "ace-equivariance"
FILES_ALONE = {"qm9pack"}  # we read its files; its code needs setuptools, which it does not require


def canonical(name: str) -> str:
  """Returns a distribution's name as PEP 503 compares them."""
  return re.sub(r"[-_.]+", "-", name).lower()


wanted = set()
for requirement in metadata.requires(DISTRIBUTION) or ():
  name, _, condition = requirement.partition(";")
  if re.search(rf"""extra == ["']{re.escape(sys.argv[1])}["']""", condition):
    wanted.add(canonical(re.match(r"[\w.-]+", name)[0]))
wanted.discard(DISTRIBUTION)  # an extra may name others
if not wanted:
  sys.exit(f"{DISTRIBUTION} {ace_jax.__version__} has no extra {sys.argv[1]!r}.")
for module, distributions in metadata.packages_distributions().items():
  if (
    module.isidentifier()
    and not module.startswith("_")
    and wanted & {*map(canonical, distributions)}
  ):
    if importlib.util.find_spec(module) is None:
      sys.exit(f"the extra {sys.argv[1]!r} brings no module {module}.")
    if module not in FILES_ALONE:
      importlib.import_module(module)
