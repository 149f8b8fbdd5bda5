"""Paths as users write them."""

from pathlib import Path

from data.errors import DataError


def expanded(path: str | Path) -> Path:
  """Returns a path whose leading ~ is the user's home folder, and ~NAME that of another user.

  Raises:
    DataError: there is no such user, or no home folder.
  """
  try:
    return Path(path).expanduser()
  except RuntimeError as error:
    raise DataError(f"{path}: the home folder is not known; write the whole path.") from error
