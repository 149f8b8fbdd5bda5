"""Reading .npz and .npy files that may be damaged or hostile, without ever unpickling anything."""

import contextlib
import lzma
import math
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

import numpy as np

from data.errors import DataError, first_line

LARGEST = 4 * 2**30
"""Bytes that the arrays of a file may have together."""

_RATIO = 1100
"""No deflated file grows by more than 1032."""

_DAMAGE = (
  *(OSError, EOFError, NotImplementedError, MemoryError, struct.error),
  *(zipfile.BadZipFile, zipfile.LargeZipFile, zlib.error, lzma.LZMAError),
)
_NO_ARRAY = (
  *(ValueError, AttributeError, TypeError, RuntimeError, SyntaxError, OverflowError, KeyError),
  tokenize.TokenError,
)


def read(path: Path, names: Sequence[str] | None, remedy: str) -> dict[str, np.ndarray]:
  """Reads arrays of an .npz; what its headers claim is checked before any memory is taken.

  Args:
    path: The file.
    names: Which arrays; None takes all.
    remedy: What to do about a bad file, for the error message.

  Raises:
    DataError: the file is missing, damaged, lacks an array, claims more than it holds, or holds
      Python objects.
  """
  with _errors(path, ".npz", remedy), zipfile.ZipFile(path) as file:
    members = {info.filename.removesuffix(".npy"): info for info in file.infolist()}
    wanted = [*members] if names is None else names
    missing = [name for name in wanted if name not in members]
    if missing:
      raise DataError(f"{path}: array {missing[0]!r} is missing; {remedy}.")
    total = sum(members[name].file_size for name in wanted)
    if total > min(LARGEST, _RATIO * path.stat().st_size):
      raise DataError(f"{path}: claims {total} bytes, more than it can hold; {remedy}.")
    arrays = {}
    for name in wanted:
      with file.open(members[name]) as stream:
        _check_header(stream, members[name].file_size)
      with file.open(members[name]) as stream:
        arrays[name] = np.lib.format.read_array(stream, allow_pickle=False)
        stream.read(1)  # the checksum is compared at the very end
    return arrays


def read_one(path: Path, remedy: str) -> np.ndarray:
  """Reads the array of an .npy, checked as those of `read`.

  Args:
    path: The file.
    remedy: What to do about a bad file, for the error message.

  Raises:
    DataError: the file is missing, damaged, claims more than it holds, or holds Python objects.
  """
  with _errors(path, ".npy", remedy), path.open("rb") as file:
    size = path.stat().st_size
    if size > LARGEST:
      raise DataError(f"{path}: {size} bytes, more than {LARGEST >> 30} GiB; {remedy}.")
    _check_header(file, size)
    file.seek(0)
    return np.lib.format.read_array(file, allow_pickle=False)


@contextlib.contextmanager
def _errors(path: Path, kind: str, remedy: str) -> Iterator[None]:
  """Turns what goes wrong in reading a file into a DataError.

  Args:
    path: The file.
    kind: What it should be.
    remedy: What to do about it.
  """
  if not path.is_file():
    raise DataError(f"{path}: no such file; {remedy}.")
  try:
    yield
  except DataError:
    raise
  except _DAMAGE as error:
    raise DataError(f"{path}: damaged or not an {kind} ({first_line(error)}); {remedy}.") from error
  except _NO_ARRAY as error:
    raise DataError(f"{path}: holds no plain arrays ({first_line(error)}); {remedy}.") from error


def _check_header(stream: IO[bytes], size: int) -> None:
  """Raises ValueError if an array is not exactly as long as its header says."""
  version = np.lib.format.read_magic(stream)
  readers = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
  }
  if version not in readers:
    raise ValueError(f"format {version}")
  shape, _, dtype = readers[version](stream)
  if dtype.hasobject:
    raise ValueError("Python objects")
  if not dtype.itemsize or min(shape, default=0) < 0:
    raise ValueError(f"shape {list(shape)} of {dtype}")
  if stream.tell() + dtype.itemsize * math.prod(shape) != size:
    raise ValueError(f"shape {list(shape)} of {dtype} in {size} bytes")


def check_finite(path: Path, name: str, array: np.ndarray) -> None:
  """Refuses an array that is not of finite numbers, also once they are float32.

  Raises:
    DataError: names the first bad entry.
  """
  if array.dtype.kind not in "fiu":
    raise DataError(f"{path}: {name} holds {array.dtype}, not numbers; save it as float32.")
  with np.errstate(over="ignore", invalid="ignore"):
    bad = ~np.isfinite(array.astype(np.float32))
  if bad.any():
    index = np.argwhere(bad)[0].tolist()
    which = f"entry {index[0]} of {name}" if index else f"{name}, which is one number"
    raise DataError(f"{path}: {name}{index or ''} is not finite; remove {which}.")
