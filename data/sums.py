"""Checksums of the files in a folder that is kept: sealed once, verified at every use."""

import hashlib
from pathlib import Path

NAME = "SHA256SUMS"


def seal(folder: Path) -> None:
  """Writes SHA256SUMS, as the program sha256sum does, of all files below a folder."""
  lines = [f"{_digest(path)}  {path.relative_to(folder)}\n" for path in _files(folder)]
  (folder / NAME).write_text("".join(lines))


def read(folder: Path) -> dict[str, str]:
  """Returns {file: checksum} of a sealed folder; {} of one that is not, or is damaged."""
  try:
    lines = (folder / NAME).read_text().splitlines()
    return {name: digest for digest, name in (line.split("  ", 1) for line in lines)}
  except (OSError, ValueError):
    return {}


def damaged(folder: Path) -> str:
  """Returns the first file that is missing, new, or not as it was sealed; "" if none is."""
  sealed = read(folder)
  if not sealed:
    return NAME
  files = {str(path.relative_to(folder)): path for path in _files(folder)}
  for name in sorted({*sealed, *files}):
    if name not in files or sealed.get(name) != _digest(files[name]):
      return name
  return ""


def _files(folder: Path) -> list[Path]:
  paths = (path for path in folder.rglob("*") if path.is_file() and path.name != NAME)
  return sorted(paths)


def _digest(path: Path) -> str:
  with path.open("rb") as file:
    return hashlib.file_digest(file, "sha256").hexdigest()
