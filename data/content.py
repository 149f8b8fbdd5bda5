"""Reading files that may be longer than any memory."""

from pathlib import Path

from data.errors import DataError


def read(path: Path, largest: int, remedy: str) -> bytes:
  """Returns the content of a file; of a longer one never more than `largest` bytes are read.

  Args:
    path: The file.
    largest: Bytes that it may have.
    remedy: What to do about a bad file, for the error message.

  Raises:
    DataError: the file cannot be read, or is longer.
  """
  try:
    with path.open("rb") as file:
      content = file.read(largest + 1)
  except OSError as error:
    raise DataError(f"{path}: cannot be read ({error.strerror}); {remedy}.") from error
  if len(content) > largest:
    raise DataError(f"{path}: longer than {largest >> 10} KiB; {remedy}.")
  return content
