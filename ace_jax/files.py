"""Paths as users write them; files that are whole or not there: written beside, then renamed."""

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

from ace_jax.errors import ConfigurationError


def expanded(path: str | Path) -> Path:
  """Returns a path whose leading ~ is the user's home folder, and ~NAME that of another user.

  Raises:
    ConfigurationError: there is no such user, or no home folder.
  """
  try:
    return Path(path).expanduser()
  except RuntimeError as error:
    raise ConfigurationError(f"{path}: the home folder is not known; write the whole path.") from (
      error
    )


@contextlib.contextmanager
def replaced(path: str | Path) -> Iterator[Path]:
  """Yields a name beside a file, whose place what is written there takes when the context ends.

  After an error the file stays as it was.

  Args:
    path: The file; the other name ends as it does. A leading ~ is the home folder.
  """
  path = expanded(path)
  temporary = path.with_name(f".{os.getpid()}.{path.name}")
  try:
    yield temporary
    os.replace(temporary, path)
  finally:
    temporary.unlink(missing_ok=True)


def write_text(path: str | Path, text: str) -> None:
  """Replaces a file atomically: readers see the old text or the new one, never a part."""
  write_binary(path, lambda file: file.write(text.encode()))


def write_binary(path: str | Path, write: Callable[[IO[bytes]], Any]) -> None:
  """Replaces a file atomically by what `write` puts into it, as in `write_text`."""
  with replaced(path) as temporary, temporary.open("wb") as file:
    write(file)
    file.flush()
    os.fsync(file.fileno())


def write_json(path: str | Path, value: Any) -> None:
  """Writes a value as indented JSON, atomically."""
  write_text(path, json.dumps(value, indent=2) + "\n")


def sha256(path: Path) -> str:
  """Returns the SHA-256 of a file, in hexadecimal digits."""
  with path.open("rb") as file:
    return hashlib.file_digest(file, "sha256").hexdigest()
