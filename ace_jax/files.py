"""Files that are whole or not there: written beside, then renamed."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any


def write_text(path: Path, text: str) -> None:
  """Replaces a file atomically: readers see the old text or the new one, never a part."""
  write_binary(path, lambda file: file.write(text.encode()))


def write_binary(path: Path, write: Callable[[IO[bytes]], Any]) -> None:
  """Replaces a file atomically by what `write` puts into it, as in `write_text`."""
  temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
  try:
    with temporary.open("wb") as file:
      write(file)
      file.flush()
      os.fsync(file.fileno())
    os.replace(temporary, path)
  finally:
    temporary.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
  """Writes a value as indented JSON, atomically."""
  write_text(path, json.dumps(value, indent=2) + "\n")
