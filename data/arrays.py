"""Reading .npz files that may be damaged, without ever unpickling anything."""

import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from data.errors import DataError


def read(path: Path, names: Sequence[str] | None, remedy: str) -> dict[str, np.ndarray]:
  """Reads arrays of an .npz.

  Args:
    path: The file.
    names: Which arrays; None takes all.
    remedy: What to do about a bad file, for the error message.

  Raises:
    DataError: the file is missing, damaged, lacks an array, or holds Python objects.
  """
  if not path.is_file():
    raise DataError(f"{path}: no such file; {remedy}.")
  try:
    with np.load(path, allow_pickle=False) as file:
      wanted = file.files if names is None else names
      missing = [name for name in wanted if name not in file.files]
      if missing:
        raise DataError(f"{path}: array {missing[0]!r} is missing; {remedy}.")
      return {name: file[name] for name in wanted}
  except (OSError, EOFError, zipfile.BadZipFile, zipfile.LargeZipFile, NotImplementedError) as e:
    raise DataError(f"{path}: damaged or not an .npz ({e}); {remedy}.") from e
  except (ValueError, AttributeError, MemoryError, TypeError, RuntimeError, SyntaxError) as error:
    if isinstance(error, DataError):
      raise
    reason = (str(error) or type(error).__name__).splitlines()[0]
    raise DataError(f"{path}: holds no plain arrays ({reason}); {remedy}.") from error


def check_finite(path: Path, name: str, array: np.ndarray) -> None:
  """Refuses an array that is not of finite numbers.

  Raises:
    DataError: names the first bad entry.
  """
  if array.dtype.kind not in "fiu":
    raise DataError(f"{path}: {name} holds {array.dtype}, not numbers; save it as float32.")
  bad = ~np.isfinite(array)
  if bad.any():
    place = np.argwhere(bad)[0].tolist()
    raise DataError(f"{path}: {name}{place} is not finite; remove entry {place[0]} of {name}.")
