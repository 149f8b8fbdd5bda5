"""Arrays that took long to make, kept in the user's cache folder with a checksum."""

import hashlib
import os
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from data import arrays as archive
from data.errors import DataError

_SUM = "sha256"


def read(path: Path, names: Sequence[str]) -> dict[str, np.ndarray] | None:
  """Returns the arrays of a cache; None, with a warning if it is damaged, where they must be made.

  Args:
    path: Of `write`.
    names: All arrays in it.
  """
  if not path.exists():
    return None
  try:
    arrays = archive.read(path, [*names, _SUM], "it is made again")
    if str(arrays.pop(_SUM)) != digest(arrays):
      raise DataError(f"{path}: content and checksum differ; it is made again.")
  except DataError as error:
    warnings.warn(f"cached data are damaged: {error}", stacklevel=2)
    return None
  return arrays


def write(path: Path, arrays: dict[str, np.ndarray]) -> None:
  """Writes a cache, atomically; warns where that is not possible."""
  temporary = None
  try:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".tmp", delete=False) as file:
      temporary = Path(file.name)
      np.savez(file, **{**arrays, _SUM: np.array(digest(arrays))})
      file.flush()
      os.fsync(file.fileno())
    os.replace(temporary, path)
  except OSError as error:
    warnings.warn(f"data are not cached: {path}: {error.strerror}", stacklevel=2)
    if temporary is not None:
      temporary.unlink(missing_ok=True)


def digest(arrays: dict[str, np.ndarray]) -> str:
  """Returns a checksum of names, types, shapes and contents."""
  total = hashlib.sha256()
  for name in sorted(arrays):
    array = np.ascontiguousarray(arrays[name])
    total.update(f"{name}{array.dtype.str}{array.shape}".encode())
    total.update(array.tobytes())
  return total.hexdigest()
