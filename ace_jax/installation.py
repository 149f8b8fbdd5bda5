"""Whether this package's folder holds this package alone.

PyPI's `ace-jax` (interatomic potentials) is another project that installs a package `ace_jax` too.
In one environment the files of both end in one folder, each overwriting some of the other's.

Raises:
  InstallationError: (when imported) files of that project lie beside these.
"""

from pathlib import Path

from ace_jax.errors import InstallationError

FOREIGN = ("basis/__init__.py", "calc/__init__.py", "eval/__init__.py", "runfile.py")
"""Files that every release of the other project has (0.1.0 to 0.4.1), and this one never."""


def foreign_files(folder: Path) -> list[str]:
  """Returns which of `FOREIGN` lie in a package's folder."""
  return [name for name in FOREIGN if (folder / name).exists()]


def refuse_foreign_files(folder: Path) -> None:
  """Refuses a package's folder that another project has written into.

  Raises:
    InstallationError: files of the other project are there; names the way out.
  """
  foreign = foreign_files(folder)
  if foreign:
    raise InstallationError(
      f"{folder} also holds files of another project, ace-jax (interatomic potentials), such as "
      f"{foreign[0]}: give each its own environment, or run `pip uninstall ace-jax`, then "
      "`pip install --force-reinstall --no-deps ace-equivariance`."
    )


refuse_foreign_files(Path(__file__).parent)
