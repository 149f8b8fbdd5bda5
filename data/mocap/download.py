"""The public source of the motion capture data, its checksums, and its archives."""

import hashlib
import lzma
import shutil
import struct
import tarfile
import tempfile
import warnings
import zlib
from pathlib import Path

import platformdirs

from data import sums
from data.errors import DataError, first_line

_SITE = "http://mocap.cs.cmu.edu/subjects"
# Where a sum is not known, that of the first download is kept, and holds from then on.
_SUMS = {
  "35.asf": "2a8e2eda3c0d7d828566b2a9a8ab36b2b8b3864110574e8b73c8f069fded416c",
  "35_01.amc": "0743f4ea48e7e199cd56b2810b5ce81f8ede08d32ff79aa4e363c44cc4fe33aa",
}
_TRIALS = {9: range(1, 12), 35: [*range(1, 17), *range(28, 35)]}
_LARGEST_ARCHIVE = 512 * 2**20
_MOST_FILES = 10_000
_DAMAGE = (
  *(tarfile.TarError, lzma.LZMAError, zlib.error, EOFError, OSError, ValueError, OverflowError),
  *(KeyError, RecursionError, TypeError, struct.error),
)


def files(number: int) -> list[str]:
  """Returns the names of a subject's files."""
  return [f"{number:02d}.asf", *(f"{number:02d}_{trial:02d}.amc" for trial in _TRIALS[number])]


def folder(number: int) -> Path:
  """Returns where a subject's download is kept."""
  return platformdirs.user_cache_path("ace_jax") / "mocap" / f"{number:02d}"


def complete(number: int) -> bool:
  """Whether all of a subject was downloaded before."""
  return all((folder(number) / name).is_file() for name in files(number))


def fetch(number: int) -> Path:
  """Downloads what is missing of a subject from mocap.cs.cmu.edu, and checks it.

  Returns:
    The folder of Acclaim files.

  Raises:
    DataError: the site cannot be reached, or a file is not what it was.
  """
  import pooch

  target = folder(number)
  seen = {**sums.read(target), **_SUMS}
  for name in files(number):
    known = seen.get(name)
    try:
      pooch.retrieve(
        url=f"{_SITE}/{number:02d}/{name}",
        known_hash=f"sha256:{known}" if known else None,
        fname=name,
        path=target,
        progressbar=True,
      )
    except (OSError, ValueError) as error:
      raise DataError(
        f"{_SITE}/{number:02d}/{name}: not downloaded ({first_line(error)}); try again, or "
        "give a folder of Acclaim files with --data_dir."
      ) from error
  sums.seal(target)
  return target


def unpack(path: Path) -> Path:
  """Unpacks an archive of Acclaim files into the cache, once, and returns the folder.

  Raises:
    DataError: the archive is missing, damaged, holds links, or would write outside of its
      folder.
  """
  try:
    with path.open("rb") as file:
      digest = hashlib.file_digest(file, "sha256").hexdigest()[:16]
  except OSError as error:
    raise DataError(f"{path}: cannot be read ({error.strerror}); get it again.") from error
  unpacked = platformdirs.user_cache_path("ace_jax") / "mocap" / f"{path.name}_{digest}"
  if unpacked.is_dir():
    damaged = sums.damaged(unpacked)
    if not damaged:
      return unpacked
    warnings.warn(f"{unpacked / damaged} is damaged; {path} is unpacked again.", stacklevel=2)
    shutil.rmtree(unpacked)
  unpacked.parent.mkdir(parents=True, exist_ok=True)
  temporary = Path(tempfile.mkdtemp(dir=unpacked.parent))
  try:
    with tarfile.open(path) as file:
      _check_members(path, file)
      file.extractall(temporary, filter="data")
    skeletons = sorted(temporary.rglob("*.asf"))
    if not skeletons:
      raise DataError(f"{path}: holds no .asf file; get it again.")
    sums.seal(skeletons[0].parent)
    skeletons[0].parent.replace(unpacked)
  except DataError:
    raise
  except _DAMAGE as error:
    raise DataError(f"{path}: damaged ({first_line(error)}); get it again.") from error
  finally:
    shutil.rmtree(temporary, ignore_errors=True)
  return unpacked


def _check_members(path: Path, file: tarfile.TarFile) -> None:
  # Member by member: to get past one of a terabyte, the reader would have to unpack it.
  total = 0
  for count, member in enumerate(file, start=1):
    total += member.size
    if not (member.isfile() or member.isdir()):
      raise DataError(f"{path}: {member.name!r} in it is a link or device; get it again.")
    if member.size < 0 or total > _LARGEST_ARCHIVE or count > _MOST_FILES:
      raise DataError(
        f"{path}: unpacks to more than {_LARGEST_ARCHIVE >> 20} MiB or {_MOST_FILES} files; get "
        "it again."
      )
